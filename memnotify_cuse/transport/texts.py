"""The text files as they are read: a rendering is shared by all who opened the file since the last change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

KEPT_RENDERINGS: Final = 8
"""Of each text, so that a program that reads in pieces sees one state, unless it takes very long."""


class Text:
    """One text file. `render` makes its text, anew when `version` gives something else than at the last rendering.

    An open file is a generation: the number of the rendering that was the newest at its opening.
    """

    def __init__(self, render: Callable[[], str], version: Callable[[], object]) -> None:
        self._render = render
        self._version = version
        self._rendered: object = None
        self._newest = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def open(self) -> int:
        """The generation that is up to date. What `render` raises is passed on, and tried again the next time."""
        version = self._version()
        if not self._kept or version != self._rendered:
            text = self._render().encode()
            self._newest += 1
            self._kept[self._newest] = text
            self._rendered = version
            if len(self._kept) > KEPT_RENDERINGS:
                self._kept.popitem(last=False)
        return self._newest

    def read(self, generation: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` of that generation; of the newest if it is no longer kept."""
        text = self._kept.get(generation)
        if text is None:
            text = self._kept[self._newest]
        return text[offset : offset + size]
