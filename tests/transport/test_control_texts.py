"""When the texts of the control file system are made anew: after a change, and not at each look."""

from __future__ import annotations

from memnotify_cuse.board import Board, ZoneState
from memnotify_cuse.control import FRESH_NS, Control, ServerFacts
from memnotify_cuse.device.device import Device
from memnotify_cuse.kernel.zoneinfo import ZoneId

ZONE = ZoneId(0, "Normal")
ZONEINFO = "Node 0, zone   Normal\n        protection: (0, 0)\n"


class Bench:
    def __init__(self) -> None:
        self.now_ns = 100 * FRESH_NS
        self.scans = 0
        self.device = Device(4)
        self.board = Board(self.device)
        self.scan(free_pages=1000)
        facts = ServerFacts({}, lambda: {})
        self.control = Control(
            self.board, self.device, facts, lambda: ZONEINFO, lambda: self.now_ns, lambda: self.scans
        )

    def scan(self, free_pages: int) -> None:
        self.scans += 1
        state = ZoneState(ZONE, 0, free_pages=free_pages, high_pages=60, reserve_pages=0, reason="", time_ns=1)
        self.board.publish([state], (), self.now_ns)


def test_the_status_is_the_same_until_the_board_changes() -> None:
    bench = Bench()
    before = bench.control.status_version(), bench.control.status()
    bench.now_ns += 10 * FRESH_NS
    assert bench.control.status_version() == before[0]
    bench.scan(free_pages=1000)
    assert (bench.control.status_version(), bench.control.status()) == before
    bench.scan(free_pages=999)
    assert bench.control.status_version() != before[0]
    simulated = bench.control.status_version()
    bench.control.simulate("all 5")
    assert bench.control.status_version() != simulated


def test_the_zoneinfo_is_the_same_until_a_scan_or_a_change_of_status() -> None:
    bench = Bench()
    before = bench.control.zoneinfo_version()
    bench.now_ns += 10 * FRESH_NS
    assert bench.control.zoneinfo_version() == before
    bench.control.simulate("all 5")
    simulated = bench.control.zoneinfo_version()
    assert simulated != before
    assert "mem_notify_status: 1" in bench.control.zoneinfo()
    bench.scan(free_pages=1000)
    assert bench.control.zoneinfo_version() != simulated


def test_the_server_s_line_is_made_anew_after_a_while_and_when_it_counts_something_else() -> None:
    bench = Bench()
    before = bench.control.server_version()
    bench.now_ns += FRESH_NS - 1
    assert bench.control.server_version() == before
    file = bench.device.open(1000, None, lambda _file: None)
    assert bench.control.server_version() != before
    bench.device.close(file)
    assert bench.control.server_version() == before
    bench.now_ns += 1
    assert bench.control.server_version() != before


def test_without_a_version_the_zoneinfo_is_made_anew_after_a_while() -> None:
    bench = Bench()
    control = Control(bench.board, bench.device, ServerFacts({}, lambda: {}), lambda: ZONEINFO, lambda: bench.now_ns)
    before = control.zoneinfo_version()
    assert control.zoneinfo_version() == before
    bench.now_ns += FRESH_NS
    assert control.zoneinfo_version() != before
