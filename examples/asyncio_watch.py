#!/usr/bin/env python3
"""Watch /dev/mem_notify in an asyncio program.

Run:     python3 asyncio_watch.py [DEVICE [COUNT]]
         DEVICE: default /dev/mem_notify; COUNT: end after so many notifications, default 0: never
Needs:   memnotify_cuse (pip install memnotify-cuse)
Try it:  sudo memnotify simulate --for 2

Prints one line per notification. Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the
device fails.
"""

import asyncio
import signal
import sys

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


async def main(device: str, count: int) -> int:
    """Run ``watch`` until it ends or a signal ends it; return the exit code."""
    watching = asyncio.create_task(watch(device, count))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
    try:
        await watching
    except asyncio.CancelledError:
        pass
    except DeviceError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DEVICE
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    sys.exit(asyncio.run(main(device, count)))
