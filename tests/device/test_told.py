"""How many programs a device tells."""

from __future__ import annotations

from memnotify_cuse.board import ZoneState
from memnotify_cuse.device.device import Device
from memnotify_cuse.device.told import Told
from memnotify_cuse.kernel.zoneinfo import ZoneId

UNDER_PRESSURE = ZoneState(ZoneId(0, "Normal"), 1, 50, 60, 0, "anon_scan")


def test_woken_and_signalled_programs_are_counted() -> None:
    device = Device(page_kb=4)
    files = [device.open(1000, None, lambda _file: None) for _ in range(20)]
    for file in files:
        device.watch(file)
    subscriber = device.open(1001, None, lambda _file: None)
    device.subscribe(subscriber, subscribed=True)
    device.notified((UNDER_PRESSURE,), 10**9)
    assert device.told == Told(notifications=1, woken=2, signalled=0)
    before = device.signalled(subscriber, 10**9)
    assert before is not None
    assert device.told.signalled == 1
    device.not_signalled(subscriber, before)
    assert device.told == Told(1, 2, 0)
