"""What is held is given back to the account that it was taken from, whoever a user turns out to be."""

from __future__ import annotations

import pytest

from memnotify_cuse.accounts import Account, Bounds, OverBoundError, Users
from memnotify_cuse.transport.holdings import Holdings

BOUNDS = Bounds(total=100, per_user=3, root_reserve=10)


def test_a_user_s_bound_and_giving_back() -> None:
    account = Account(BOUNDS)
    holdings = Holdings(account, Users())
    for key in range(3):
        holdings.take(key, 1000)
    with pytest.raises(OverBoundError):
        holdings.take(3, 1000)
    assert 3 not in holdings
    assert holdings.give_back(0)
    assert not holdings.give_back(0)
    holdings.take(3, 1000)
    holdings.clear()
    assert (account.held, account.users, len(holdings)) == (0, 0, 0)


def test_an_id_that_turns_out_to_be_another_user_s() -> None:
    account, users = Account(BOUNDS), Users()
    holdings = Holdings(account, users)
    holdings.take(1, 100_000)
    holdings.take(2, 1000)
    users.count_to(100_000, 1000)
    assert (account.of(100_000), account.of(1000), holdings.user_ids) == (0, 2, {1000})
    holdings.give_back(1)
    holdings.give_back(2)
    assert (account.held, account.users) == (0, 0)
