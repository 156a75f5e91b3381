"""What people chose of memory cgroups, beside the numbers of the rules (`choices`): how soon, and at what price.

No recording holds them: tests/cgroups and benchmarks/cgroups do, with real cgroups that run out at full speed.
"""

from __future__ import annotations

from typing import Final

CEILING_FRACTION: Final = 4
"""The headroom of a cgroup is never more than this part of its limit. A limit of 256 MiB is full within a tenth of a
second at full speed, and a sixteenth of it is gone before a program has been woken."""

QUIET_S: Final = 0.05
"""While a cgroup does not grow, it is looked at no oftener than this. So much of what it can take in that time has
passed before it is seen."""

MOVING_S: Final = 0.002
"""While it grows, no oftener than this."""

QUIET_SHARE: Final = 100
QUIET_USERS: Final = 4
SHARE: Final = 8
"""Looking at the quiet cgroups of one user takes no more than this part of a CPU, those of all users no more than so
many times that; and looking at all cgroups no more than the last."""
