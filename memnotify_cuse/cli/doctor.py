"""``memnotify doctor``: what this kernel offers, what will be used, and why."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from memnotify_cuse.cli.common import EXIT_NEGATIVE, EXIT_OK, CommandError

if TYPE_CHECKING:
    from memnotify_cuse.cli.host import Finding, Host
    from memnotify_cuse.cli.main import Subparsers

_EPILOG = """\
Each line is: ok, warn or fail, the name of the check, what was found, and what it means.
'warn' is something that the server does without, later or less well told; 'fail' keeps it from running.
Run it as the user who will run the server.

examples:
  sudo memnotify doctor
  memnotify doctor | grep -v ^ok

exit codes: 0 the server could run here, 1 it could not, 2 an error.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Describe ``memnotify doctor``."""
    subparsers.add_parser(
        "doctor",
        help="check what this kernel offers and what will be used",
        description="Check what this machine offers to the server, what will be used, and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings and a conclusion. Return 0 if the server could run, 1 if not."""
    from memnotify_cuse.cli.host import this_host
    from memnotify_cuse.kernel.errors import KernelFileError

    try:
        machine = this_host()
    except KernelFileError as error:
        raise CommandError(str(error)) from None
    findings = [check(machine) for check in checks()]
    for finding in findings:
        print(finding.line())
    print(f"\n{conclusion(findings)}")
    return EXIT_NEGATIVE if any(finding.level == "fail" for finding in findings) else EXIT_OK


def checks() -> list[Callable[[Host], Finding]]:
    """Return every check, in the order of the report: the device first, then the evidence."""
    from memnotify_cuse.cli import checks_kernel, checks_serving

    return [
        checks_serving.fuse,
        checks_serving.pyfuse3,
        checks_serving.cuse,
        checks_serving.mounting,
        checks_serving.device,
        checks_serving.mount_point,
        checks_serving.descriptors,
        checks_serving.sigio,
        checks_serving.memlock,
        checks_serving.oom_score,
        checks_serving.realtime,
        checks_kernel.zoneinfo,
        checks_kernel.vmstat,
        checks_kernel.meminfo,
        checks_kernel.lru,
        checks_kernel.swap,
        checks_kernel.tracefs,
        checks_kernel.psi,
        checks_kernel.cgroups,
        checks_kernel.kprobes,
    ]


def conclusion(findings: Sequence[Finding]) -> str:
    """Return the last line: what will be used, or what keeps the server from running."""
    failed = [finding.name for finding in findings if finding.level == "fail"]
    if failed:
        return f"the server cannot run here; see: {', '.join(failed)}"
    level = {finding.name: finding.level for finding in findings}
    if level.get("tracefs") == "ok":
        wakeup = "woken by tracefs"
    elif level.get("psi") == "ok":
        wakeup = "woken by a PSI trigger and a timer"
    else:
        wakeup = "woken by a timer alone"
    return f"the server can run here, {wakeup}"
