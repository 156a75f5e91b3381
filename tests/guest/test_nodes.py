"""Two NUMA nodes, with pressure on one of them: the zone that is short is named, and the other is left alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from memnotify_cuse.kernel.zoneinfo import ZoneId, read_zoneinfo
from memnotify_cuse.record import Record
from tests.guest.experiment import Experiment, Place

MOUNT = Path("/run/mem_notify")


@pytest.mark.skipif(
    "MEMNOTIFY_RESULTS" in os.environ and not Path("/sys/devices/system/node/node1").exists(),
    reason="this guest has one NUMA node",
)
@pytest.mark.parametrize("node", [0, 1])
def test_the_node_that_is_short_is_named_and_the_other_is_left_alone(
    place: Place, device_server: subprocess.Popen[bytes], node: int
) -> None:
    zones = list(map(ZoneId.parse, sorted(os.listdir(MOUNT / "zones"))))
    with Experiment(place, "cold") as experiment:
        listeners = {zone: experiment.hold(0, ("device", str(MOUNT / "zones" / str(zone)))) for zone in zones}
        for listener in listeners.values():
            listener.wait_ready()
        free_pages = sum(zone.free_pages for zone in read_zoneinfo().zones if zone.id.node == node)
        allocator = experiment.allocate(free_pages * 4 // 1024 + 40, node=node)
        assert allocator.log.lines("got"), f"it took {len(allocator.log.lines('taken'))} MiB and ended"
        told = {zone: listener.log.lines("notice") for zone, listener in listeners.items()}
    assert {zone.node for zone in told if told[zone]} == {node}, told
    for zone, notices in told.items():
        for _, line in notices:
            record = Record.parse(line)
            assert ZoneId(record.node, record.zone) == zone
