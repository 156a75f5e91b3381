"""Real reclaim by hand; see the package."""

from __future__ import annotations

import argparse
import sys
import time

from tests.support import reclaim as package
from tests.support.reclaim.counters import MIB, SYSCTLS, ReclaimError, pressed_zones, read_sysctl, read_zones
from tests.support.reclaim.harness import RealReclaim, supported
from tests.support.reclaim.holder import hold
from tests.support.reclaim.putback import restore_leftovers


def _show(text: str) -> None:
    print(f"{time.monotonic():.3f} {text}", flush=True)


def _show_state(title: str) -> None:
    sysctls = " ".join(f"{name}={read_sysctl(name)}" for name in SYSCTLS)
    _show(f"{title}: {sysctls}")
    for zone in pressed_zones(read_zones()):
        _show(
            f"  node{zone.node}-{zone.zone}: free={zone.free_pages} min={zone.min_pages} low={zone.low_pages} "
            f"high={zone.high_pages} managed={zone.managed_pages} active_anon={zone.active_anon_pages} "
            f"inactive_anon={zone.inactive_anon_pages} "
            f"file={zone.active_file_pages + zone.inactive_file_pages}"
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit 0 done, 1 not as promised, 2 not possible here."""
    description = (package.__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.support.reclaim", description=description)
    parser.add_argument("what", choices=["episode", "stream", "hot", "restore"])
    parser.add_argument("--count", type=int, default=3, help="how many episodes (default 3)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of an episode (default 0.3)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between episodes (default 1)")
    parser.add_argument("--cold", type=int, metavar="MIB", help="memory nobody uses (default 1024 for episode)")
    parser.add_argument("--hot", type=int, metavar="MIB", help="memory in use (default 1024 for hot)")
    parser.add_argument("--file", type=int, metavar="MIB", default=4096, help="stream: its size (default 4096)")
    options = parser.parse_args(arguments)
    if options.what == "restore":
        _show("put back what an earlier run left" if restore_leftovers() else "nothing to put back")
        return 0
    reason = supported()
    if reason is not None:
        print(f"real reclaim is not possible: {reason}", file=sys.stderr)
        return 2
    cold_mib = options.cold if options.cold is not None else (1024 if options.what == "episode" else 0)
    hot_mib = options.hot if options.hot is not None else (1024 if options.what == "hot" else 0)
    _show_state("before")
    status = 0
    try:
        with RealReclaim(cold_bytes=cold_mib * MIB, hot_bytes=hot_mib * MIB) as reclaim:
            _show(f"zram swap on, {cold_mib} MiB cold and {hot_mib} MiB hot memory held")
            if options.what == "stream":
                _show(f"streaming {options.file} MiB twice; only page cache is reclaimed")
                result = reclaim.stream(options.file * MIB)
                _show(f"streamed: {result}")
            else:
                for number in range(options.count):
                    with reclaim.episode(max_s=options.seconds + 1.0) as running:
                        _show_state(f"episode {number + 1} of {options.count} begun")
                        time.sleep(options.seconds)
                    _show(f"episode ended: {running}")
                    if number + 1 < options.count:
                        time.sleep(options.pause)
    except ReclaimError as error:
        print(f"real reclaim failed: {error}", file=sys.stderr)
        status = 1
    _show_state("after")
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["_hold"]:
        hold(int(sys.argv[2]), sys.argv[3] == "hot")
    else:
        sys.exit(main())
