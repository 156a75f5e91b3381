"""What a server that is attacked must keep to: the bounds of issue 12, in one place, and how long the tests wait."""

from __future__ import annotations

from typing import Final

MEDIAN_S: Final = 0.25
"""An honest program is told so soon after the record's time_ns at the median."""

WORST_S: Final = 1.0
"""And at the worst; also how long the scanner may take to see what happened, from the change to time_ns."""

STOP_S: Final = 2.0
"""From SIGTERM to the exit of every process of the server, with mounts and node gone."""

RELEASE_S: Final = 2.0
"""From SIGKILL of the server, and then of its clients, until the last of them is gone."""

PSS_GROWTH_MB: Final = 25.0
"""What all processes of the server may take together for any attack (a bound of the issue for 32,000 opens)."""

PSS_KEPT_MB: Final = 8.0
"""What they may keep of that once the attacker is gone: an allocator's fragments, no state."""

DESCRIPTORS_GROWTH: Final = 512
"""Of any process of the server, whatever clients do. A choice: half of what a login has by default."""

LOG_BYTES: Final = 65_536
"""What an attack may make the server write to its log. A choice: at 25 notices a second far more was written."""

GUARD_S: Final = 0.45
"""Between two notifications: the guard time of an honest user with two files (2 × 200 ms), and the tick of a timer."""

LIMIT_S: Final = 20.0
"""How long the tests wait for what must happen, an attack in full swing or a start, on a slow and busy machine."""

WATCHDOG_S: Final = 90.0
"""After that the connections are aborted and the server killed, so that no test can hang on what it tests."""

SILENT_S: Final = 25
"""So long a silent FUSE server of an attack may keep others waiting, the tests themselves among them."""
