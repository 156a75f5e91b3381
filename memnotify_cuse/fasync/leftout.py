"""Users whose processes held up a helper: left out of SIGIO for longer each time. Pure; times are passed in.

By user, so that another process of the same user does not help. Root attacks no other user, and what is root's is many
things: of root's processes only the one is left out. A key is a user id, or minus a process id of root's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memnotify_cuse.accounts import FIRST_SUBORDINATE_UID

FIRST_S: Final = 1.0
LONGEST_S: Final = 3600.0
FORGIVEN_AFTER_S: Final = 600.0
"""A user who did not hold anything up for so long, after it was let in again, starts anew."""

NS: Final = 1_000_000_000


def key_of(uid: int, pid: int) -> int:
    """Who is left out for process `pid` of the real user `uid`: of ids that may be subordinate ones, all of them."""
    return min(uid, FIRST_SUBORDINATE_UID) or -pid


@dataclass(slots=True)
class _Record:
    times: int
    until_ns: int


class LeftOut:
    """Who is left out, and until when."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}

    def blame(self, key: int, now_ns: int) -> float:
        """Leave `key` out; for how many seconds."""
        self._forgive(now_ns)
        record = self._records.setdefault(key, _Record(0, 0))
        seconds = min(FIRST_S * float(1 << record.times), LONGEST_S)
        record.times += 1
        record.until_ns = now_ns + int(seconds * NS)
        return seconds

    def is_out(self, key: int, now_ns: int) -> bool:
        record = self._records.get(key)
        return record is not None and now_ns < record.until_ns

    def keys(self, now_ns: int) -> set[int]:
        """All that are left out at `now_ns`."""
        return {key for key, record in self._records.items() if now_ns < record.until_ns}

    def _forgive(self, now_ns: int) -> None:
        limit_ns = now_ns - int(FORGIVEN_AFTER_S * NS)
        self._records = {key: record for key, record in self._records.items() if record.until_ns > limit_ns}
