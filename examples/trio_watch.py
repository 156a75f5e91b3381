#!/usr/bin/env python3
"""Watch /dev/mem_notify in a trio program.

Run:     python3 trio_watch.py [DEVICE [COUNT]]
         DEVICE: default /dev/mem_notify; COUNT: end after so many notifications, default 0: never
Needs:   memnotify_cuse and trio (pip install memnotify-cuse)
Try it:  sudo memnotify simulate --for 2

Prints one line per notification. Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the
device fails.
"""

import signal
import sys

import trio

from memnotify_cuse.client import DEFAULT_DEVICE, DeviceError, notifications


async def watch(device: str, count: int) -> None:
    """Print a line for each notification, until there were ``count`` (0: for ever)."""
    told = 0
    async with notifications(device) as records:
        print(f"watching {device}", file=sys.stderr, flush=True)
        async for record in records:
            print(f"node{record.node}-{record.zone}: please free {record.reclaim_target_kb} KiB", flush=True)
            told += 1
            if told == count:
                return


async def main(device: str, count: int) -> None:
    """Run ``watch`` until it ends or a signal ends it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def watch_and_end() -> None:
                await watch(device, count)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_and_end)
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DEVICE
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    try:
        trio.run(main, device, count)
    except* DeviceError as errors:
        sys.exit(f"{sys.argv[0]}: {errors.exceptions[0]}")
