"""A flood is when requests take more than half of the time, window by window."""

from __future__ import annotations

from memnotify_cuse.transport.flood import WINDOW_S, FloodGauge


class Bench:
    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.gauge = FloodGauge(self.calls.append)
        self.now_s = 1000.0
        self.gauge.update(self.now_s)

    def pass_time(self, windows: float, share: float) -> None:
        """So many windows of which requests take `share`, a fortieth of a window at a time."""
        for _ in range(round(windows * 40)):
            self.gauge.add(WINDOW_S / 40 * share)
            self.now_s += WINDOW_S / 40
            self.gauge.update(self.now_s)


def test_a_busy_window_is_a_flood_and_a_calm_one_its_end() -> None:
    bench = Bench()
    bench.pass_time(3, 0.8)
    assert bench.calls == [True]
    bench.pass_time(3, 0.2)
    assert bench.calls == [True, False]


def test_less_than_half_of_the_time_is_none() -> None:
    bench = Bench()
    bench.pass_time(5, 0.45)
    assert bench.calls == []


def test_a_burst_shorter_than_a_window_is_none() -> None:
    bench = Bench()
    for _ in range(5):
        bench.pass_time(0.4, 1)
        bench.pass_time(1.6, 0)
    assert bench.calls == []


def test_a_pause_ends_it_at_the_next_look() -> None:
    bench = Bench()
    bench.pass_time(2, 1)
    bench.gauge.update(bench.now_s + 60)
    assert bench.calls == [True, False]
