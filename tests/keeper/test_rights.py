"""Who server and helpers are, and coming down to what each may do: in real child processes."""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from memnotify_cuse.keeper.children import fork
from memnotify_cuse.keeper.rights import (
    DESCRIPTORS,
    FIRST_DYNAMIC_UID,
    FORKER,
    HELPER,
    KEEPER,
    LAST_DYNAMIC_UID,
    USER,
    choose_identity,
    raise_limits,
    reduce_child,
    reduce_keeper,
    server_keeps,
)
from memnotify_cuse.kernel.capabilities import Capability, become_user, mask_of, parse_capability_masks, permitted
from tests.support.mounted import LIMIT_S, NOBODY
from tests.support.sigio import as_root

Account = Callable[..., pwd.struct_passwd]


def in_child(act: Callable[[], object]) -> str:
    """What `act` returns in a child, and its /proc/PID/status after that."""
    read_end, write_end = os.pipe()

    def body() -> int:
        result = act()
        os.write(write_end, f"{result}\n{Path('/proc/self/status').read_text()}".encode())
        return 0

    child = fork("memnotify-test", body)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    assert child.reap(LIMIT_S)
    assert child.code == 0
    return text


def only(accounts: Mapping[Any, tuple[int, int]], asked: list[object]) -> Account:
    """A name service with these accounts, by name and by id: a machine's own are not for a test to make."""

    def look_up(key: object) -> pwd.struct_passwd:
        asked.append(key)
        uid, gid = accounts[key]
        return pwd.struct_passwd(("x", "x", uid, gid, "", "/", ""))

    return look_up


@as_root
class TestIdentity:
    def test_the_user_of_that_name_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pwd, "getpwnam", only({USER: (997, 995)}, []))
        assert choose_identity() == (997, 995)

    def test_else_an_id_that_no_user_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[object] = []
        taken = {uid: (uid, uid) for uid in range(FIRST_DYNAMIC_UID, LAST_DYNAMIC_UID + 1) if uid % 7}
        monkeypatch.setattr(pwd, "getpwnam", only({}, []))
        monkeypatch.setattr(pwd, "getpwuid", only(taken, asked))
        identity = choose_identity()
        assert identity is not None
        uid, gid = identity
        assert FIRST_DYNAMIC_UID <= uid == gid <= LAST_DYNAMIC_UID
        assert uid % 7 == 0
        assert asked[-1] == uid

    def test_none_where_all_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        everybody = {uid: (uid, uid) for uid in range(FIRST_DYNAMIC_UID, LAST_DYNAMIC_UID + 1)}
        monkeypatch.setattr(pwd, "getpwnam", only({}, []))
        monkeypatch.setattr(pwd, "getpwuid", only(everybody, []))
        assert choose_identity() is None

    def test_of_this_machine(self) -> None:
        identity = choose_identity()
        assert identity is not None
        assert identity[0] not in (0, NOBODY)

    def test_an_ordinary_user_stays_who_it_is(self) -> None:
        def as_nobody() -> object:
            become_user(NOBODY, NOBODY)
            return choose_identity()

        assert in_child(as_nobody).startswith("None\n")


@as_root
class TestReduced:
    @pytest.mark.parametrize("kept", [frozenset[Capability](), HELPER, FORKER], ids=["server", "helper", "parent"])
    def test_a_child_is_another_user_with_only_these(self, kept: frozenset[Capability]) -> None:
        text = in_child(lambda: reduce_child((61234, 61235), kept))
        assert text.startswith("True\n")
        masks = parse_capability_masks(text)
        assert masks["CapPrm"] == masks["CapEff"] == masks["CapBnd"] == mask_of(kept)
        assert masks["CapInh"] == masks["CapAmb"] == 0
        assert "\nUid:\t61234\t61234\t61234\t61234\n" in text
        assert "\nGid:\t61235\t61235\t61235\t61235\n" in text
        assert "\nNoNewPrivs:\t1\n" in text

    def test_root_s_keeper_holds_what_the_table_says(self) -> None:
        text = in_child(reduce_keeper)
        masks = parse_capability_masks(text)
        expected = mask_of(KEEPER | server_keeps()) & permitted()
        assert masks["CapPrm"] == masks["CapEff"] == expected
        assert masks["CapInh"] == masks["CapAmb"] == 0
        assert masks["CapBnd"] & ~mask_of(KEEPER | server_keeps()) == 0
        assert "\nNoNewPrivs:\t1\n" in text

    def test_the_keeper_s_children_can_still_come_down_to_theirs(self) -> None:
        def as_keeper() -> object:
            reduce_keeper()
            return reduce_child((61234, 61234), FORKER)

        text = in_child(as_keeper)
        assert text.startswith("True\n")
        assert parse_capability_masks(text)["CapPrm"] == mask_of(FORKER)

    def test_an_ordinary_user_s_keeper_may_still_use_fusermount3(self) -> None:
        """Which is set-uid: no_new_privs would take that away."""

        def as_nobody() -> None:
            become_user(NOBODY, NOBODY)
            reduce_keeper()

        assert "\nNoNewPrivs:\t0\n" in in_child(as_nobody)

    def test_a_machine_without_such_a_user_id(self) -> None:
        """A user namespace, as of a container, with root alone."""
        assert in_child(lambda: reduce_child((2**32 - 1 - 1, 0), ())).startswith(("True\n", "False\n"))


def test_the_limits_are_raised_as_far_as_is_permitted() -> None:
    def limits() -> object:
        soft = min(64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        raise_limits()
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    soft, hard = eval(in_child(limits).split("\n")[0])
    assert soft >= min(hard, DESCRIPTORS)


def test_the_server_keeps_a_right_only_where_the_limit_cannot_be_had() -> None:
    has_limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0] >= 1
    assert server_keeps() == (frozenset() if has_limit else frozenset({Capability.SYS_NICE}))
