"""Users whose clients helpers had to wait for: known as slow until they have made up for it. Times are passed in.

A helper has 200 ms for each client, and past them a user is left out (`leftout`). A user that stays below, client for
client, is never left out, and could have all helpers wait for it in turn. So the time that was waited is counted, as in
a leaky bucket: it drains at a small part of the time that passes. A user in whose bucket there is more than a burst is
slow, and has to share one helper with all others who are.

Users are keys of `turns.key_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.05
"""For so much of the time a helper may wait for a user's clients."""
BURST_S: Final = 0.1
MOST_S: Final = 3.0
"""No more than this is counted: who mends its ways is an ordinary user again after a minute."""

NS: Final = 1_000_000_000


@dataclass(slots=True)
class _Bucket:
    waited_s: float
    at_ns: int

    def left_s(self, now_ns: int) -> float:
        return max(0.0, self.waited_s - SHARE * (now_ns - self.at_ns) / NS)


class Slowness:
    """How long was waited for whom."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def note(self, key: int, waited_s: float, now_ns: int) -> bool:
        """A helper waited so long for the clients of `key`; True if it was not slow before, and is now."""
        was_slow = self.is_slow(key, now_ns)
        self._buckets = {each: bucket for each, bucket in self._buckets.items() if bucket.left_s(now_ns)}
        bucket = self._buckets.get(key)
        left_s = bucket.left_s(now_ns) if bucket is not None else 0.0
        self._buckets[key] = _Bucket(min(left_s + waited_s, MOST_S), now_ns)
        return not was_slow and self.is_slow(key, now_ns)

    def is_slow(self, key: int, now_ns: int) -> bool:
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.left_s(now_ns) > BURST_S
