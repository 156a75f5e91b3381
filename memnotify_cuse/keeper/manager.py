"""What the service manager is about to do with this service. Asked once, at the end: nothing of it stays in memory.

A service that is restarted gets the descriptors back that it has stored, and goes on with them; one that is stopped has
to leave nothing. Both begin with SIGTERM. Which it is, the manager's list of jobs says:

    $ systemctl list-jobs --no-legend --plain
     1234 memnotify.service  restart running
"""

from __future__ import annotations

import os

CGROUP = "/proc/self/cgroup"
ASK_S = 0.5


def unit_of(cgroup: str) -> str | None:
    """The unit that a process runs in, by its /proc/PID/cgroup; None if it is no service."""
    for line in cgroup.split("\n"):
        name = line.rpartition("/")[2]
        if name.endswith(".service"):
            return name
    return None


def is_restarted(jobs: str, unit: str) -> bool:
    """Whether `unit` is being restarted, by the manager's list of jobs."""
    return any(words[1:3] == [unit, "restart"] for words in map(str.split, jobs.split("\n")))


def comes_back(stored: int) -> bool:
    """Whether this service is started again, with the descriptors that it has stored: `stored` of them."""
    if not stored or "INVOCATION_ID" not in os.environ:
        return False
    with open(CGROUP, errors="surrogateescape") as file:
        unit = unit_of(file.read())
    if unit is None:
        return False
    kept = _ask("show", "--property=NFileDescriptorStore", "--value", unit).strip()
    if not kept.isdecimal() or int(kept) < stored:
        return False
    return is_restarted(_ask("list-jobs", "--no-legend", "--plain"), unit)


def _ask(*arguments: str) -> str:
    """What systemctl says, nothing if it does not say it in time."""
    import subprocess

    argv = ["systemctl", *arguments]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_S, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
