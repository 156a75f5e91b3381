"""Ways to wait for a descriptor, of a program that reads nothing. What they open lasts as long as they do."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

Wait = Callable[[float], int]
"""Waits for so many seconds, and says how many events were reported."""


def by_poll(fd: int) -> Wait:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda limit_s: len(poll.poll(limit_s * 1000))


def by_select(fd: int) -> Wait:
    return lambda limit_s: len(select.select([fd], [], [], limit_s)[0])


def by_epoll(fd: int, mode: int = 0) -> Wait:
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | mode)
    return lambda limit_s: len(epoll.poll(limit_s))


def by_edge(fd: int) -> Wait:
    return by_epoll(fd, select.EPOLLET)


def by_oneshot(fd: int) -> Wait:
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def wait(limit_s: float) -> int:
        told = len(epoll.poll(limit_s))
        if told:
            epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        return told

    return wait


def by_epoll_in_epoll(fd: int, mode: int = 0) -> Wait:
    inner, outer = select.epoll(), select.epoll()
    inner.register(fd, select.EPOLLIN | mode)
    outer.register(inner, select.EPOLLIN)
    return lambda limit_s: len(inner.poll(0)) if outer.poll(limit_s) else 0


def by_edge_in_epoll(fd: int) -> Wait:
    return by_epoll_in_epoll(fd, select.EPOLLET)


def by_poll_of_epoll(fd: int) -> Wait:
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN)
    poll = by_poll(epoll.fileno())
    return lambda limit_s: len(epoll.poll(0)) if poll(limit_s) else 0


def by_poll_that_looks_twice(fd: int) -> Wait:
    """As libraries do that make sure before they read."""
    poll = by_poll(fd)
    return lambda limit_s: poll(0) if poll(limit_s) else 0


WAYS: Final[dict[str, Callable[[int], Wait]]] = {
    "poll": by_poll,
    "select": by_select,
    "epoll": by_epoll,
    "edge-triggered": by_edge,
    "oneshot": by_oneshot,
    "epoll in epoll": by_epoll_in_epoll,
    "edge-triggered in epoll": by_edge_in_epoll,
    "poll of epoll": by_poll_of_epoll,
    "poll that looks twice": by_poll_that_looks_twice,
}

NESTED: Final = ("epoll in epoll", "edge-triggered in epoll", "poll of epoll")
