"""Files that wait for something, one line for each user: users take turns, and files within a user.

One line for all users would let a user with many files keep all others waiting. Here the users are served in rounds,
one file each, beginning with the user whose last turn is longest ago (round robin, as fair queueing does for network
flows: Nagle, RFC 970).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from memnotify_cuse.device.openfile import OpenFile
from memnotify_cuse.device.topics import About


class Line:
    """The files of `user` that wait, first in, first out. `turn` is the number of the user's last turn."""

    __slots__ = ("_about", "files", "turn", "user")

    def __init__(self, user: int, turn: int) -> None:
        self.user = user
        self.turn = turn
        self.files: dict[int, OpenFile] = {}
        self._about: dict[About, int] = {}

    def add(self, file: OpenFile) -> None:
        self.files[file.number] = file
        self._about[file.about] = self._about.get(file.about, 0) + 1

    def remove(self, file: OpenFile) -> None:
        del self.files[file.number]
        self._count_out(file.about)

    def about_changed(self, file: OpenFile, before: About) -> None:
        """`file`, which was about `before`, is about something else now. It keeps its place."""
        self._about[file.about] = self._about.get(file.about, 0) + 1
        self._count_out(before)

    def _count_out(self, topic: About) -> None:
        self._about[topic] -= 1
        if not self._about[topic]:
            del self._about[topic]

    def count(self, topics: Collection[About]) -> int:
        """How many of the files are about one of `topics`."""
        total = 0
        for topic, count in self._about.items():
            if topic in topics:
                total += count
        return total


class Lines:
    """The lines of all users. A file is in one of them at most once; a line that is empty is not kept."""

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}
        self._turns = itertools.count(1)
        self._files = 0

    def __len__(self) -> int:
        return self._files

    def __contains__(self, file: OpenFile) -> bool:
        line = self._lines.get(file.user)
        return line is not None and file.number in line.files

    def line_of(self, user: int) -> Line | None:
        """The line of `user`, None where nothing of it waits."""
        return self._lines.get(user)

    def add(self, file: OpenFile) -> bool:
        """Put `file` at the end of its user's line; one that has a place keeps it, and the answer is False."""
        user = file.user
        line = self._lines.get(user)
        if line is None:
            line = self._lines[user] = Line(user, next(self._turns))
        elif file.number in line.files:
            return False
        line.add(file)
        self._files += 1
        return True

    def remove(self, file: OpenFile) -> bool:
        """Take `file` out of its line; False if it was in none."""
        line = self._lines.get(file.user)
        if line is None or file.number not in line.files:
            return False
        line.remove(file)
        self._files -= 1
        if not line.files:
            del self._lines[line.user]
        return True

    def about_changed(self, file: OpenFile, before: About) -> None:
        """`file`, which was about `before`, is about something else now."""
        line = self._lines.get(file.user)
        if line is not None and file.number in line.files:
            line.about_changed(file, before)

    def give_memory_back(self) -> None:
        """Make the tables anew: a dict keeps the room that it once needed, however few entries are left."""
        self._lines = dict(self._lines)
        for line in self._lines.values():
            line.files = dict(line.files)

    def to_end(self, file: OpenFile) -> None:
        """`file` had its turn, and so had its user."""
        line = self._lines[file.user]
        line.files[file.number] = line.files.pop(file.number)
        line.turn = next(self._turns)

    def put_back(self, file: OpenFile, behind: Callable[[OpenFile], bool]) -> None:
        """Move `file` ahead of the first one of its user's that belongs `behind` it."""
        line = self._lines[file.user]
        others = [other for other in line.files.values() if other is not file]
        ahead = list(itertools.takewhile(lambda other: not behind(other), others))
        line.files = {each.number: each for each in (*ahead, file, *others[len(ahead) :])}

    def took_turn(self, user: int) -> None:
        """`user` was served; it comes after all others now."""
        if user in self._lines:
            self._lines[user].turn = next(self._turns)

    def turn_of(self, user: int) -> int:
        """The number of the last turn of `user`, 0 where nothing of it waits."""
        return self._lines[user].turn if user in self._lines else 0

    def give_turn_back(self, user: int, turn: int, *, since: int) -> None:
        """The turn numbered `since` came to nothing: `user`'s last one is `turn` again, if it had none after it."""
        if user in self._lines and self._lines[user].turn == since:
            self._lines[user].turn = turn

    def move(self, user: int, owner: int) -> None:
        """The files of `user` are `owner`'s now, and come after those that `owner` has."""
        line = self._lines.pop(user, None)
        if line is None:
            return
        into = self._lines.get(owner)
        if into is None:
            line.user = owner
            self._lines[owner] = line
            return
        for file in line.files.values():
            into.add(file)

    def count(self, topics: Collection[About]) -> dict[int, int]:
        """How many files of each user are about one of `topics`; users without are not in it."""
        counts = ((user, line.count(topics)) for user, line in self._lines.items())
        return {user: count for user, count in counts if count}

    def in_turn(self) -> list[Line]:
        """The lines, that of the user first whose turn is longest ago."""
        return sorted(self._lines.values(), key=lambda line: line.turn)


class Offer(NamedTuple):
    """Files of one user, of which up to `most` are to be picked, one of them in any case if `owed`."""

    files: Iterator[OpenFile]
    most: int
    owed: bool = True


def take_turns(offers: Iterable[Offer], most: int) -> list[OpenFile]:
    """Pick from `offers` in rounds, one file of each; in all `most`, or one for each who is owed one."""
    picked: list[OpenFile] = []
    in_round, owing = [offer for offer in offers if offer.most > 0], True
    while in_round and (owing or len(picked) < most):
        next_round = []
        for offer in in_round:
            if len(picked) >= most and not (owing and offer.owed):
                continue
            file = next(offer.files, None)
            if file is not None:
                picked.append(file)
                if offer.most > 1:
                    next_round.append(Offer(offer.files, offer.most - 1, offer.owed))
        in_round, owing = next_round, False
    return picked
