"""The kind of LRU is switched while the server runs: that is no pressure, and what is pressure then is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from tests.guest.experiment import Experiment, Place, calm_down
from tests.support.mounted import wait_until

SERVER: Final = Path("/run/mem_notify/server")
SWITCH: Final = Path("/sys/kernel/mm/lru_gen/enabled")


@pytest.fixture
def switch(place: Place) -> Iterator[Path]:
    if not SWITCH.exists():
        pytest.skip("this kernel has no MGLRU")
    before = SWITCH.read_text()
    yield SWITCH
    SWITCH.write_text(before)


def notifications() -> int:
    words = dict(word.split("=", 1) for word in SERVER.read_text().split())
    return int(words["notifications"])


def test_the_lru_is_switched_under_a_server(place: Place, device_server: subprocess.Popen[bytes], switch: Path) -> None:
    for kind, value in (("mglru", "y"), ("classic", "n"), ("mglru", "y")):
        calm_down()
        before = notifications()
        switch.write_text(value)
        wait_until(lambda kind=kind: f"lru={kind} " in SERVER.read_text(), kind)  # type: ignore[misc]
        assert notifications() == before
        with Experiment(place, "cold") as experiment:
            listener = experiment.hold(0, ("device", "/dev/mem_notify"))
            listener.wait_ready()
            free_pages = sum(zone.free_pages for zone in read_zoneinfo().zones if zone.id.node == 0)
            experiment.allocate(free_pages * 4 // 1024 + 40, node=0)
            assert listener.log.lines("notice"), kind
