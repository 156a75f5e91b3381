"""What all of this is for: with the device nobody dies, and without it somebody does.

Each test is an experiment of real memory pressure; the combination of swap and LRU kind is how the guest was booted.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from memnotify_cuse.cli.common import DEFAULT_MOUNT
from tests.guest.experiment import Place, Row
from tests.guest.listeners import DEVICE
from tests.guest.scenarios import headline, onlookers, page_cache
from tests.support.mounted import Blocking, wait_until

WORKLOADS = ["cold", "hot", "mixed"]
BYSTANDER_LIMIT_MS = 2000.0
"""The longest that anybody has to wait for an answer, on an emulated processor, while memory runs out."""


@pytest.mark.parametrize("workload", WORKLOADS)
def test_without_the_device_the_oom_killer_strikes(place: Place, rows: list[Row], workload: str) -> None:
    row = headline(place, workload, "none", None)
    rows.append(row)
    assert row.oom_kills > 0, row
    assert row.survived is False


@pytest.mark.parametrize("workload", WORKLOADS)
def test_with_the_device_nobody_dies_and_the_allocator_gets_its_memory(
    place: Place, rows: list[Row], workload: str, device_server: subprocess.Popen[bytes]
) -> None:
    row = headline(place, workload, "device", DEVICE)
    rows.append(row)
    assert row.oom_kills == 0, row
    assert row.survived, row
    assert row.bystander_ms["max"] < BYSTANDER_LIMIT_MS, row


@pytest.mark.parametrize("rate_mib_s", [200, 0])
def test_a_client_that_gives_little_at_a_time_keeps_up_with_a_fast_one(
    place: Place, rows: list[Row], rate_mib_s: int, device_server: subprocess.Popen[bytes]
) -> None:
    """16 MiB at each notice, while 200 MiB/s and more are taken: it has to be asked again as soon as it has given."""
    row = headline(place, "cold", "device", DEVICE, rate_mib_s)
    rows.append(row)
    assert row.oom_kills == 0, row
    assert row.survived, row


def test_a_server_that_is_killed_in_the_middle_costs_nobody_anything(
    place: Place, rows: list[Row], device_server: subprocess.Popen[bytes]
) -> None:
    before = server_facts()

    def kill_once_told() -> None:
        wait_until(lambda: server_facts()["notifications"] != before["notifications"], "the first notification")
        os.kill(int(before["server_pid"]), signal.SIGKILL)

    killer = Blocking(kill_once_told)
    row = headline(place, "cold", "device, killed once", DEVICE)
    killer.result()
    rows.append(row)
    assert int(server_facts()["restarts"]) == int(before["restarts"]) + 1
    assert row.oom_kills == 0, row
    assert row.survived, row


def server_facts() -> dict[str, str]:
    words = Path(DEFAULT_MOUNT, "server").read_text().split()
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize("workload", ["cold"])
def test_the_notice_comes_before_the_oom_killer(
    place: Place, rows: list[Row], workload: str, device_server: subprocess.Popen[bytes]
) -> None:
    row = onlookers(place, workload)
    rows.append(row)
    assert row.oom_kills > 0, "nobody gave anything back"
    assert row.lead_ms is not None, row
    assert row.lead_ms > 0, row


def test_a_page_cache_stream_tells_nobody(
    place: Place, rows: list[Row], device_server: subprocess.Popen[bytes]
) -> None:
    row = page_cache(place)
    rows.append(row)
    assert row.notified == 0, row
