"""`make test-vm`: the guest tier. Boots guests, two at a time, runs the tests in them, and adds up what they say.

    python -m tests.support.guest.vm [NAME …] [--if-possible] [--within MINUTES]

NAME chooses among the boots (`--list` shows them); some are run only when they are named. With --within, a boot that
would not be over by then is not begun, and one that is not over is ended, and counts for what it had come to; a line of
its own says so.

Results: build/results/test-vm.xml (JUnit), what each guest said under build/guest/results. Exit code 0: all passed; 1:
something failed; 2: no guest can be had, unless --if-possible was given, for which saying so is enough.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.guest.boot import Guest, Shape
from tests.support.guest.disk import PROJECT
from tests.support.guest.kernel import GuestUnavailableError
from tests.support.guest.prepare import BUILD, prepare, results_of
from tests.support.guest.systemd import BOOKWORM, TRIXIE, make_image, make_project_disk

JUNIT: Final = PROJECT / "build" / "results" / "test-vm.xml"
LIMIT_S: Final = 2400.0
PYTEST: Final = ("-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--durations=5")
_OVER: Final = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
TESTS_FAILED: Final = 1
"""pytest's exit code; all others but 0 are about pytest itself."""


@dataclass(frozen=True)
class Boot:
    """One guest and the tests that run in it; with `systemd`, one that boots it from that suite of Debian, and tests
    here that drive it.

    With `only_named` it is run only when it is named.
    """

    name: str
    shape: Shape
    arguments: tuple[str, ...]
    expected_s: float
    systemd: str | None = None
    only_named: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a boot came to; `suites` are JUnit's."""

    boot: Boot
    suites: list[ET.Element]
    took_s: float

    def count(self, what: str) -> int:
        return sum(int(suite.get(what, "0")) for suite in self.suites)

    @property
    def failed(self) -> int:
        return self.count("failures") + self.count("errors")

    @property
    def skipped(self) -> int:
        return self.count("skipped")

    @property
    def passed(self) -> int:
        return self.count("tests") - self.failed - self.skipped


def boots() -> list[Boot]:
    """All boots, with what they took on two emulated processors. FUSE comes last: this machine tests it as well."""
    oom = [
        Boot(f"oom-{swap}-{lru}", Shape(swap=swap, lru=lru), ("tests/guest/test_oom.py",), 280)
        for swap in ("zram", "none")
        for lru in ("classic", "mglru")
    ]
    conformance = [
        Boot(
            f"conformance-{transport}",
            Shape(memory_mib=1024),
            ("tests/conformance", "-k", f"{transport} or test_asked"),
            600,
        )
        for transport in ("cuse", "fuse")
    ]
    kills = Boot("kills", Shape(memory_mib=1024), ("tests/guest/test_kills.py", "-k", "not hundred"), 400)
    many_kills = [
        Boot(
            f"kills-100-{node}",
            Shape(memory_mib=1024),
            ("tests/guest/test_kills.py", "-s", "-k", f"hundred and {node}"),
            1500,
            only_named=True,
        )
        for node in ("fuse", "cuse")
    ]
    nodes = Boot("two-nodes", Shape(memory_mib=1024, swap="zram", numa_nodes=2), ("tests/guest/test_nodes.py",), 150)
    switched = Boot(
        "lru-switched", Shape(memory_mib=1024, swap="zram"), ("tests/guest/test_lru.py",), 200, only_named=True
    )
    limits = ("cgroup_no_v1=all",)
    cgroups = [
        Boot("cgroups-v2", Shape(kernel_arguments=limits), ("tests/guest/test_cgroups.py",), 500),
        Boot(
            "cgroups-v2-zram",
            Shape(swap="zram", kernel_arguments=limits),
            ("tests/guest/test_cgroups.py", "-k", "lives or swap or page_cache or machine"),
            300,
        ),
    ]
    suspend = Boot("suspend", Shape(memory_mib=1024), ("tests/guest/test_suspend.py",), 300)
    exact = ("tests/conformance/test_sigio_exact.py", "tests/conformance/test_sigio.py", "tests/guest/test_sigio.py")
    sigio = Boot("sigio", Shape(memory_mib=1024), (*exact, "-k", "exact or guest"), 300)
    service, newer_service = (
        Boot(
            name,
            Shape(memory_mib=1024),
            ("tests/guest/test_service.py",),
            900,
            systemd=suite,
            only_named=suite == TRIXIE,
        )
        for name, suite in (("service", BOOKWORM), ("service-trixie", TRIXIE))
    )
    return [
        service,
        conformance[0],
        *oom,
        nodes,
        *cgroups,
        kills,
        suspend,
        sigio,
        conformance[1],
        *many_kills,
        newer_service,
        switched,
    ]


def run(guest: Guest, boot: Boot, end_s: float = float("inf")) -> Outcome:
    """Boot and test. A guest that does not come to an end by itself is a failure, unless that is for want of time:
    then, at `end_s`, what it had come to counts.
    """
    results = results_of(boot.name)
    shutil.rmtree(results, ignore_errors=True)
    report = results / "junit.xml"
    began = time.monotonic()
    command = [sys.executable, *PYTEST, "--basetemp=/run/pytest", f"--junitxml={report}", *boot.arguments]
    limit_s = min(LIMIT_S, end_s - began)
    if boot.systemd:
        try:
            code = _drive(guest, boot.systemd, command, results, limit_s)
        except GuestUnavailableError as error:
            print(f"guest: {boot.name}: not run: {error}", flush=True)
            return Outcome(boot, [_left_out(boot.name, str(error))], time.monotonic() - began)
    else:
        code = guest.run(boot.shape, command, results, limit_s=limit_s)
    took_s = time.monotonic() - began
    suites = _suites(report, boot.name)
    if code is None and time.monotonic() >= end_s:
        suites = [_so_far(boot.name, results / "output.log")]
        print(f"guest: {boot.name}: ended for want of time")
    elif code not in (0, TESTS_FAILED) or not suites:
        suites.append(_silence(boot.name, results, code))
    outcome = Outcome(boot, suites, took_s)
    print(f"guest: {boot.name}: {_counts([outcome])} in {took_s:.0f} s", flush=True)
    if outcome.failed:
        output = results / "output.log"
        print(_tail(output if output.exists() else results / "console.log"), flush=True)
    return outcome


def _drive(guest: Guest, suite: str, command: list[str], results: Path, limit_s: float) -> int | None:
    """Run tests here that boot and drive a guest with systemd; the exit code, None if they took too long.

    Raises GuestUnavailableError.
    """
    directory = BUILD / ("systemd" if suite == BOOKWORM else f"systemd-{suite}")
    make_image(directory, suite)
    make_project_disk(directory, guest.programs, suite)
    results.mkdir(parents=True, exist_ok=True)
    here = {"MEMNOTIFY_SYSTEMD_IMAGE": str(directory), "MEMNOTIFY_RESULTS": str(results)}
    environment = {**os.environ, **here, "MEMNOTIFY_KVM": str(int(guest.kvm))}
    command = [part.replace("/run/pytest", str(results / "pytest")) for part in command]
    with (results / "output.log").open("wb") as output:
        try:
            return subprocess.run(
                command, cwd=PROJECT, env=environment, stdout=output, stderr=output, timeout=limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _left_out(name: str, why: str) -> ET.Element:
    """A suite that says that there was no such guest."""
    suite = ET.Element("testsuite", name=name, tests="1", errors="0", failures="0", skipped="1")
    case = ET.SubElement(suite, "testcase", classname=name, name="there is a guest that boots systemd")
    ET.SubElement(case, "skipped", message=why)
    return suite


def _suites(report: Path, name: str) -> list[ET.Element]:
    try:
        found = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        return []
    for suite in found:
        suite.set("name", name)
    return found


def _so_far(name: str, output: Path) -> ET.Element:
    """A suite of the tests that were over, as pytest -v wrote them down."""
    found = _OVER.findall(output.read_text(errors="replace")) if output.exists() else []
    failed = [test for test, how in found if how in ("FAILED", "ERROR")]
    skipped = [test for test, how in found if how == "SKIPPED"]
    suite = ET.Element("testsuite", name=name, tests=str(len(found)), errors="0")
    suite.attrib |= {"failures": str(len(failed)), "skipped": str(len(skipped))}
    for test, how in found:
        case = ET.SubElement(suite, "testcase", classname=name, name=test)
        if how != "PASSED":
            ET.SubElement(case, "skipped" if how == "SKIPPED" else "failure", message=how)
    return suite


def _silence(name: str, results: Path, code: int | None) -> ET.Element:
    """A suite that says that the guest did not come to an end by itself."""
    suite = ET.Element("testsuite", name=name, tests="1", errors="1", failures="0", skipped="0")
    case = ET.SubElement(suite, "testcase", classname=name, name="the guest ends its tests")
    how = "was ended: it took too long, or did not boot" if code is None else f"pytest ended with {code}"
    ET.SubElement(case, "error", message=how).text = _tail(results / "console.log")
    return suite


def _tail(path: Path, lines: int = 60) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)


def _counts(outcomes: list[Outcome]) -> str:
    passed, failed, skipped = (
        sum(getattr(each, name) for each in outcomes) for name in ("passed", "failed", "skipped")
    )
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.guest.vm", description="Run the guest tier.")
    parser.add_argument("boot", nargs="*", metavar="NAME", help="only these boots")
    parser.add_argument("--list", action="store_true", help="name the boots")
    parser.add_argument("--if-possible", action="store_true", help="exit with 0 where no guest can be had")
    parser.add_argument("--within", type=float, default=float("inf"), metavar="MINUTES", help="end by then")
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    wanted = {boot.name: boot for boot in boots()}
    if options.list:
        print("\n".join(wanted))
        return 0
    unknown = [name for name in options.boot if name not in wanted]
    if unknown:
        parser.error(f"no boot {unknown[0]}; there are {', '.join(wanted)}")
    try:
        guest = prepare()
    except GuestUnavailableError as error:
        print(f"guest tier not run: {error}")
        return 0 if options.if_possible else 2
    chosen = [wanted[name] for name in options.boot] or [boot for boot in wanted.values() if not boot.only_named]
    end_s = began_s + 60 * options.within
    left_out: list[str] = []

    def run_in_time(boot: Boot) -> Outcome | None:
        if time.monotonic() + boot.expected_s <= end_s:
            return run(guest, boot, end_s)
        left_out.append(boot.name)
        return None

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        outcomes = [outcome for outcome in pool.map(run_in_time, chosen) if outcome is not None]
    if left_out:
        print(f"guest: not run for want of time: {', '.join(left_out)}")
    root = ET.Element("testsuites")
    root.extend(suite for outcome in outcomes for suite in outcome.suites)
    JUNIT.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(root).write(JUNIT, encoding="utf-8", xml_declaration=True)
    print(_counts(outcomes))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
