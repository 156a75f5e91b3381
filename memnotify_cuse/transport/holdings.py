"""Which user each held thing is counted to, so that it is given back to the account that it was taken from."""

from __future__ import annotations

from memnotify_cuse.accounts import Account, Users


class Holdings:
    """Things, by a key of their own, that users hold of `account`.

    When a user id is found to belong to another user, what it holds is counted to that one. Nobody else takes from the
    account.
    """

    def __init__(self, account: Account, users: Users) -> None:
        self._account = account
        self._users = users
        self._user_of: dict[int, int] = {}
        users.on_learned(self._count_to)

    def __len__(self) -> int:
        return len(self._user_of)

    def __contains__(self, key: int) -> bool:
        return key in self._user_of

    @property
    def user_ids(self) -> set[int]:
        """The users that hold something."""
        return set(self._user_of.values())

    def take(self, key: int, uid: int) -> None:
        """One more for the user of `uid`; `OverBoundError` beyond its bound."""
        user = self._users.of(uid)
        self._account.take(user)
        self._user_of[key] = user

    def give_back(self, key: int) -> bool:
        """Give back what `key` holds; False if it holds nothing."""
        user = self._user_of.pop(key, None)
        if user is None:
            return False
        self._account.give_back(user)
        return True

    def clear(self) -> None:
        """Give back everything."""
        for key in list(self._user_of):
            self.give_back(key)

    def _count_to(self, uid: int, owner: int) -> None:
        self._account.move(uid, owner)
        for key, user in self._user_of.items():
            if user == uid:
                self._user_of[key] = owner
