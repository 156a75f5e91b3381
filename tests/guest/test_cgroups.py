"""A program is told of the limits of its own memory cgroup and of those around it, before it is killed for them.

Cgroup v2: its limits are real here, and so is what comes of them. The client is examples/poll_cache.c as it is, with a
cache of 64 MiB. Another program in the same cgroup takes the rest of the limit, and more.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from memnotify_cuse.kernel.cgroup import find_hierarchy, read_cgroup
from memnotify_cuse.kernel.mountinfo import read_mountinfo
from memnotify_cuse.kernel.zoneinfo import read_zoneinfo
from memnotify_cuse.record import Record
from tests.guest.cgroups import Running, events, number, set_limits, start, v2_problem
from tests.guest.experiment import Place, calm_down
from tests.support.cgroups import MIB, Cgroup, new_cgroup
from tests.support.mounted import NOBODY, wait_until
from tests.support.reclaim.counters import meminfo_bytes, read_vmstat

CLIENT: Final = Path(__file__).parents[2] / "examples" / "poll_cache.c"
TAKER: Final = Path(__file__).parent / "programs" / "allocate.c"
FLAGS: Final = ("-std=c11", "-D_GNU_SOURCE", "-O1")
DEVICE: Final = Path("/dev/mem_notify")
IN_MOUNT: Final = Path("/run/mem_notify/mem_notify")
CGROUPS: Final = Path("/run/mem_notify/cgroups")

LIMIT: Final = 96 * MIB
CACHE_MIB: Final = 64
"""Of the client."""
WANTED_MIB: Final = 56
"""By the other program: with the client's cache 24 MiB more than the limit."""
RATE_MIB_S: Final = 16
FULL_SPEED: Final = 0
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module", autouse=True)
def _limits(place: Place) -> None:
    """What these tests are about."""
    problem = v2_problem()
    if problem is not None:
        pytest.skip(problem)


def compiled(source: Path, directory: Path, *flags: str) -> Path:
    program = directory / source.stem
    done = subprocess.run(["cc", *FLAGS, *flags, "-o", str(program), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def client_program() -> Iterator[Path]:
    """The example, where an ordinary user can get at it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield compiled(CLIENT, Path(name))


class Stage:
    """Cgroups with clients and other programs in them, which end with the test."""

    def __init__(self, place: Place, client_program: Path, logs: Path, stack: ExitStack) -> None:
        self.place = place
        self._client_program = client_program
        self._logs = logs
        self._stack = stack
        self._count = 0

    def cgroup(self, **limits: int | str) -> Cgroup:
        """A cgroup with limits: `max=LIMIT, swap_max=0` for memory.max and memory.swap.max."""
        made = self._stack.enter_context(new_cgroup())
        set_limits(made, {f"memory.{name.replace('_', '.')}": value for name, value in limits.items()})
        return made

    def start(
        self, name: str, command: list[str | Path | int], inside: Cgroup | None = None, *, user: int | None = None
    ) -> Running:
        self._count += 1
        running = start(self._logs / f"{self._count}-{name}.log", command, inside=inside, user=user)
        self._stack.callback(running.end)
        return running

    def client(self, inside: Cgroup | None, device: Path = DEVICE, *, user: int | None = None) -> Running:
        """The example with its cache full, listening to `device`."""
        client = self.start("client", [self._client_program, device], inside, user=user)
        client.wait_for("watching")
        return client

    def deaf_client(self, inside: Cgroup) -> Running:
        """The same program, listening to a pipe that says nothing."""
        pipe = self._logs / "pipe"
        os.mkfifo(pipe)
        return self.client(inside, pipe)

    def take(self, inside: Cgroup | None, rate_mib_s: int = RATE_MIB_S, mib: int = WANTED_MIB) -> Running:
        """Another program, which takes memory."""
        return self.start("allocate", [self.place.programs / "allocate", "cold", mib, rate_mib_s], inside)

    def read(self, inside: Cgroup, mib: int) -> None:
        """Have a file of that size read in a cgroup."""
        reader = self.start("dd", ["dd", f"if={self.place.disk}", "of=/dev/null", "bs=1M", f"count={mib}"], inside)
        assert finished(reader) == 0, reader.text


@pytest.fixture
def stage(place: Place, client_program: Path, tmp_path: Path) -> Iterator[Stage]:
    # The OOM killer must not strike the tests.
    Path("/proc/self/oom_score_adj").write_text("-1000")
    calm_down()
    with ExitStack() as stack:
        yield Stage(place, client_program, tmp_path, stack)


@pytest.fixture
def figures(place: Place, request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """What a test measured; it goes out with the results, as a line of cgroups.jsonl."""
    measured: dict[str, object] = {}
    yield measured
    if measured:
        with (place.results / "cgroups.jsonl").open("a") as file:
            file.write(json.dumps({"test": request.node.name, **measured}) + "\n")


def finished(running: Running) -> int:
    """The exit code of a program that ends by itself."""
    wait_until(lambda: not running.alive, f"the end of {running.path.name}", limit_s=300)
    return running.process.wait()


def survived(cgroup: Cgroup, client: Running, taker: Running) -> None:
    """Nothing was killed, the client lives, and the other program got what it wanted."""
    code = finished(taker)
    said = f"{events(cgroup)}\n{CGROUPS.read_text()}{client.text[-3000:]}\n{taker.text[-1500:]}"
    assert events(cgroup)["oom_kill"] == 0, said
    assert client.alive, said
    assert code == 0, said
    assert taker.log.lines("got"), said


def told_of(client: Running, cgroup: Cgroup) -> list[Record]:
    """What the client was told, which is something, and all of it about that cgroup."""
    records = client.records
    assert records, f"{events(cgroup)}: {client.text}"
    assert {(record.node, record.zone) for record in records} == {(-1, cgroup.zone)}, client.text
    return records


def told_in_time(client: Running, cgroup: Cgroup) -> None:
    """The client was told of that cgroup alone, and for the first time while some of the limit was left."""
    assert told_of(client, cgroup)[0].free_pages > 0, client.text


def measure(figures: dict[str, object], cgroup: Cgroup, client: Running, taker: Running) -> None:
    """When the client was told, how much it gave, and how often the limit was reached."""
    records = client.records
    taken = taker.log.lines("taken")
    whole_s = (taken[-1][0] - taker.log.lines("begin")[0][0]) / 1e9 if taken else 0.0
    figures |= {
        "notices": len(records),
        "taken_mib_when_told": sum(when <= records[0].time_ns for when, _ in taken) if records else None,
        "free_mib_when_told": records[0].free_pages * PAGE_BYTES // MIB if records else None,
        "reason": records[0].reason if records else None,
        "levels": sorted({record.level for record in records}),
        "freed_mib": round(client.freed_kb / 1024, 1),
        "mib_s": round(len(taken) / whole_s, 1) if whole_s else None,
        "events": events(cgroup),
    }


@pytest.mark.parametrize("rate_mib_s", [4, 16, FULL_SPEED], ids=["4-mib-s", "16-mib-s", "full-speed"])
def test_a_client_is_told_before_its_limit_and_lives(
    stage: Stage,
    device_server: subprocess.Popen[bytes],
    figures: dict[str, object],
    rate_mib_s: int,
) -> None:
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.client(cgroup)
    taker = stage.take(cgroup, rate_mib_s)
    finished(taker)
    measure(figures, cgroup, client, taker)
    survived(cgroup, client, taker)
    told_in_time(client, cgroup)


@pytest.mark.parametrize("rate_mib_s", [4, FULL_SPEED], ids=["4-mib-s", "full-speed"])
def test_the_same_client_without_the_device_is_killed(
    stage: Stage, device_server: subprocess.Popen[bytes], rate_mib_s: int
) -> None:
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.deaf_client(cgroup)
    stage.take(cgroup, rate_mib_s)
    assert finished(client) == -signal.SIGKILL
    assert events(cgroup)["oom_kill"] == 1


@pytest.mark.parametrize("device", [DEVICE, IN_MOUNT], ids=["cuse", "fuse"])
def test_both_nodes_know_the_cgroup_of_the_program_that_opens_them(
    stage: Stage, device_server: subprocess.Popen[bytes], device: Path
) -> None:
    assert stat.S_ISCHR(device.stat().st_mode) == (device == DEVICE), "not the kind of node that this test is for"
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.client(cgroup, device)
    assert f"cgroup={cgroup.zone} " in CGROUPS.read_text()
    survived(cgroup, client, stage.take(cgroup))
    told_in_time(client, cgroup)


def test_an_ordinary_users_client_is_told(stage: Stage, device_server: subprocess.Popen[bytes]) -> None:
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.client(cgroup, user=NOBODY)
    assert f"Uid:\t{NOBODY}\t{NOBODY}" in Path(f"/proc/{client.process.pid}/status").read_text()
    survived(cgroup, client, stage.take(cgroup))
    told_of(client, cgroup)


@pytest.mark.parametrize("rate_mib_s", [RATE_MIB_S, FULL_SPEED], ids=["16-mib-s", "full-speed"])
def test_memory_high_alone_is_a_limit(
    stage: Stage, device_server: subprocess.Popen[bytes], figures: dict[str, object], rate_mib_s: int
) -> None:
    """Nothing is killed for it, and programs above it are slowed down until they hardly move."""
    cgroup = stage.cgroup(high=LIMIT, swap_max=0)
    client = stage.client(cgroup)
    taker = stage.take(cgroup, rate_mib_s)
    finished(taker)
    measure(figures, cgroup, client, taker)
    survived(cgroup, client, taker)
    told_in_time(client, cgroup)


def test_without_the_device_memory_high_slows_programs_down(
    stage: Stage, device_server: subprocess.Popen[bytes], figures: dict[str, object]
) -> None:
    cgroup = stage.cgroup(high=LIMIT, swap_max=0)
    stage.deaf_client(cgroup)
    taker = stage.take(cgroup)
    wait_until(lambda: events(cgroup)["high"] > 0, "the limit is reached")
    figures["events"] = events(cgroup)
    assert not taker.log.lines("got")


def test_a_client_that_is_already_above_memory_high_is_told(
    stage: Stage, device_server: subprocess.Popen[bytes]
) -> None:
    """The limit is set below what is used; programs in there are slowed down from then on."""
    cgroup = stage.cgroup()
    client = stage.client(cgroup)
    set_limits(cgroup, {"memory.high": (CACHE_MIB - 8) * MIB})
    taker = stage.take(cgroup, mib=8)
    wait_until(lambda: client.records, "the client is told")
    told_of(client, cgroup)
    survived(cgroup, client, taker)


@pytest.mark.parametrize("tighter", ["the parent's", "the program's own"])
def test_of_nested_limits_the_tighter_one_is_told_of(
    stage: Stage, device_server: subprocess.Popen[bytes], tighter: str
) -> None:
    parent = stage.cgroup(swap_max=0)
    inner = parent.child("inner")
    tight, wide = (parent, inner) if tighter == "the parent's" else (inner, parent)
    set_limits(tight, {"memory.max": LIMIT})
    set_limits(wide, {"memory.max": 2 * LIMIT})
    client = stage.client(inner)
    survived(parent, client, stage.take(inner))
    told_of(client, tight)


def test_what_a_sibling_takes_of_the_parents_limit_is_told(
    stage: Stage, device_server: subprocess.Popen[bytes]
) -> None:
    parent = stage.cgroup(max=LIMIT, swap_max=0)
    mine, siblings = parent.child("mine"), parent.child("sibling")
    client = stage.client(mine)
    survived(parent, client, stage.take(siblings))
    told_of(client, parent)


def test_other_programs_are_not_told(stage: Stage, device_server: subprocess.Popen[bytes]) -> None:
    """Neither one in no cgroup, nor one in another cgroup with a limit."""
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    others = [stage.client(None), stage.client(stage.cgroup(max=LIMIT, swap_max=0))]
    client = stage.client(cgroup)
    survived(cgroup, client, stage.take(cgroup))
    told_of(client, cgroup)
    assert [other.records for other in others] == [[], []]


@pytest.mark.parametrize("swap_max", ["0", str(16 * MIB), "max"])
def test_a_limit_of_swap_is_heeded(
    stage: Stage, device_server: subprocess.Popen[bytes], figures: dict[str, object], swap_max: str
) -> None:
    if stage.place.swap == "none":
        pytest.skip("this guest has no swap")
    cgroup = stage.cgroup(max=LIMIT, swap_max=swap_max)
    client = stage.client(cgroup)
    taker = stage.take(cgroup)
    finished(taker)
    measure(figures, cgroup, client, taker)
    survived(cgroup, client, taker)
    figures["swapped_mib"] = number(cgroup, "memory.swap.current") // MIB
    told_of(client, cgroup)


def test_a_stream_of_page_cache_is_silent(stage: Stage, device_server: subprocess.Popen[bytes]) -> None:
    cgroup = stage.cgroup(max=LIMIT)
    client = stage.client(cgroup)
    stage.read(cgroup, 3 * LIMIT // MIB)
    assert events(cgroup)["max"] > 0, "page cache never filled the limit"
    assert not client.records, client.text


def test_a_limit_full_of_page_cache_is_no_shortage_until_programs_take_it(
    stage: Stage, device_server: subprocess.Popen[bytes], figures: dict[str, object]
) -> None:
    cgroup = stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.client(cgroup)
    stage.read(cgroup, LIMIT // MIB)
    assert not client.records, client.text
    taker = stage.take(cgroup)
    finished(taker)
    measure(figures, cgroup, client, taker)
    survived(cgroup, client, taker)
    told_of(client, cgroup)


def test_a_shortage_of_the_machine_is_told_to_a_client_in_a_cgroup(
    stage: Stage, device_server: subprocess.Popen[bytes]
) -> None:
    kills = read_vmstat()["oom_kill"]
    cgroup = stage.cgroup(max=4 * LIMIT)
    client = stage.client(cgroup)
    # Not all that is called available can be had, so without the client's cache there is not enough.
    taker = stage.take(None, RATE_MIB_S, meminfo_bytes("MemAvailable") // MIB)
    survived(cgroup, client, taker)
    assert read_vmstat()["oom_kill"] == kills
    zones = {(zone.id.node, zone.id.name) for zone in read_zoneinfo().zones}
    assert client.records, client.text
    assert {(record.node, record.zone) for record in client.records} <= zones, client.text


def test_a_program_that_is_moved_is_told_of_where_it_is(stage: Stage, device_server: subprocess.Popen[bytes]) -> None:
    """Its memory stays in the cgroup that it was taken in: it is told of what the other program takes."""
    before, after = stage.cgroup(max=4 * LIMIT), stage.cgroup(max=LIMIT, swap_max=0)
    client = stage.client(before)
    assert f"cgroup={before.zone} " in CGROUPS.read_text()
    set_limits(after, {"cgroup.procs": client.process.pid})
    wait_until(lambda: f"cgroup={after.zone} " in CGROUPS.read_text(), "the server notices")
    assert f"cgroup={before.zone} " not in CGROUPS.read_text()
    stage.take(after, mib=LIMIT // MIB - 8)
    wait_until(lambda: client.records, "the client is told")
    told_of(client, after)


@pytest.fixture(scope="module")
def container_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of two programs that need no library."""
    if shutil.which("crun") is None:
        pytest.skip("crun is not installed")
    directory = tmp_path_factory.mktemp("container")
    for folder in ("proc", "dev", "sys"):
        (directory / folder).mkdir()
    for source in (CLIENT, TAKER):
        compiled(source, directory, "-static")
    return directory


class Container:
    """What `crun` runs: the client, with the device at its place and a limit of memory."""

    def __init__(self, stage: Stage, root: Path, bundle: Path, device: Path) -> None:
        self._stage = stage
        self._id = f"memnotify-{os.getpid()}"
        self._bundle = bundle
        subprocess.run(["crun", "spec"], cwd=bundle, check=True)
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"] |= {"terminal": False, "args": ["/poll_cache"]}
        spec["root"] = {"path": str(root), "readonly": True}
        bind = {"destination": str(DEVICE), "source": str(device), "type": "bind", "options": ["bind", "rw"]}
        spec["mounts"].append(bind)
        resources = spec["linux"]["resources"]
        resources["memory"] = {"limit": LIMIT, "swap": LIMIT}
        found = device.stat()
        if stat.S_ISCHR(found.st_mode):
            numbers = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
            resources["devices"].append({"allow": True, "type": "c", **numbers, "access": "rw"})
        spec["linux"]["namespaces"].append({"type": "cgroup"})
        spec["linux"]["cgroupsPath"] = f"/{self._id}"
        (bundle / "config.json").write_text(json.dumps(spec))

    def run(self) -> Running:
        command = ["crun", "--cgroup-manager=cgroupfs", "run", f"--bundle={self._bundle}", self._id]
        client = self._stage.start("container", [*command])
        client.wait_for("watching")
        return client

    def take(self) -> Running:
        """Another program in the container."""
        return self._stage.start("allocate", ["crun", "exec", self._id, "/allocate", "cold", WANTED_MIB, RATE_MIB_S])

    @property
    def cgroup(self) -> Cgroup:
        pid = int(self.state()["pid"])
        path = read_cgroup(Path("/proc"), pid, unified=True)
        hierarchy = find_hierarchy(read_mountinfo())
        assert hierarchy is not None
        return Cgroup(hierarchy, path)

    def state(self) -> dict[str, Any]:
        done = subprocess.run(["crun", "state", self._id], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def remove(self) -> None:
        subprocess.run(["crun", "delete", "--force", self._id], capture_output=True, check=False)


@pytest.fixture(params=[DEVICE, IN_MOUNT], ids=["cuse", "fuse"])
def container(
    request: pytest.FixtureRequest,
    stage: Stage,
    device_server: subprocess.Popen[bytes],
    container_root: Path,
    tmp_path: Path,
) -> Iterator[Container]:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    made = Container(stage, container_root, bundle, request.param)
    yield made
    made.remove()


def test_a_client_in_a_container_is_told_before_its_limit(container: Container, figures: dict[str, object]) -> None:
    """It is in namespaces of its own, of process ids and cgroups among them."""
    client = container.run()
    cgroup = container.cgroup
    assert number(cgroup, "memory.max") == LIMIT
    taker = container.take()
    finished(taker)
    measure(figures, cgroup, client, taker)
    survived(cgroup, client, taker)
    told_in_time(client, cgroup)
