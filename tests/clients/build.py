"""From a stack to the command that runs it. What is missing is a reason, in one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.clients.stack import PYTHON, Stack

PROGRAMS: Final = Path(__file__).parent / "programs"
CRATES: Final = Path("/usr/share/cargo/registry")
"""Where Debian has the sources of crates."""

GO_SOURCES: Final = "/usr/share/gocode"
BUILD_LIMIT_S: Final = 600.0
C_FLAGS: Final = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")
CPP_FLAGS: Final = ("-std=c++17", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra")


class CannotBuildError(Exception):
    """This stack cannot be had here; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: what is compiled in `directory`, the packages of PyPI and npm below `packages`."""

    directory: Path
    packages: Path

    @property
    def pythons(self) -> list[str]:
        """The interpreter that has the packages of PyPI, if there is such an environment, and this one."""
        own = self.packages / "venv" / "bin" / "python"
        return [*([str(own)] if own.exists() else []), sys.executable]

    @property
    def npm(self) -> Path:
        return self.packages / "npm"

    def folder(self, stack: Stack) -> Path:
        """One of its own to compile in, with its source."""
        folder = self.directory / stack.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROGRAMS / stack.source, folder)
        return folder


def command_of(stack: Stack, place: Place) -> list[str]:
    """The words before the device; for a tool, all of them. Compiles what has to be."""
    words = RECIPES[stack.language](stack, place)
    if shutil.which(words[0]) is None:
        raise CannotBuildError(f"no {Path(words[0]).name}")
    return words


def run(words: list[str], *, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What a command prints; CannotBuildError with what it complained of."""
    if shutil.which(words[0]) is None:
        raise CannotBuildError(f"no {words[0]}")
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise CannotBuildError(f"{words[0]} does not end") from None
    if done.returncode:
        raise CannotBuildError(f"{Path(words[0]).name}: {_complaint(done.stderr or done.stdout)}")
    return done.stdout


def _complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "failed")[:160]


def _is_fresh(made: Path) -> bool:
    """Whether it was made after all that it could have been made from."""
    sources = [*PROGRAMS.iterdir(), *Path(__file__).parent.glob("*.py")]
    return made.exists() and made.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def _compiled_c(stack: Stack, place: Place) -> list[str]:
    compiler, flags = ("cc", C_FLAGS) if stack.language == "c" else ("c++", CPP_FLAGS)
    modules = [library for library in stack.libraries if not library.startswith("-")]
    linked = [library for library in stack.libraries if library.startswith("-")]
    if modules:
        linked += run(["pkg-config", "--cflags", "--libs", *modules]).split()
    program = place.directory / stack.name
    place.directory.mkdir(parents=True, exist_ok=True)
    if not _is_fresh(program):
        run([compiler, *flags, "-o", str(program), str(PROGRAMS / stack.source), *linked])
    return [str(program)]


def _python(stack: Stack, place: Place) -> list[str]:
    candidates = place.pythons if stack.command[0] == PYTHON else [stack.command[0]]
    imports = "\n".join(f"import {module}" for module in stack.libraries)
    for interpreter in candidates:
        try:
            run([interpreter, "-W", "ignore", "-c", imports])
        except CannotBuildError as failed:
            reason = failed
        else:
            return [interpreter, str(PROGRAMS / stack.source)]
    raise reason


def _rust(stack: Stack, place: Place) -> list[str]:
    for crate in stack.libraries:
        if not list(CRATES.glob(f"{crate.split()[0]}-[0-9]*")):
            raise CannotBuildError(f"no sources of the crate {crate.split()[0]}")
    folder = place.folder(stack)
    name = f"client-{stack.name}"
    manifest = [
        f'[package]\nname = "{name}"\nversion = "0.0.0"\nedition = "2021"\n[workspace]',
        f'[[bin]]\nname = "{name}"\npath = "{PROGRAMS / stack.source}"',
        "[dependencies]",
        *stack.libraries,
    ]
    (folder / "Cargo.toml").write_text("\n".join(manifest) + "\n")
    source = ["--config", 'source.crates-io.replace-with="debian"']
    source += ["--config", f'source.debian.directory="{CRATES}"']
    target = place.directory / "cargo"
    run(["cargo", "build", "--quiet", "--offline", *source, "--target-dir", str(target)], folder=folder)
    return [str(target / "debug" / name)]


def _go(stack: Stack, place: Place) -> list[str]:
    folder = place.folder(stack)
    environment = {
        "PATH": "/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin",
        "GO111MODULE": "off",
        "GOPATH": GO_SOURCES,
        "GOCACHE": str(place.directory / "go-cache"),
        "GOTOOLCHAIN": "local",
    }
    if not _is_fresh(folder / "program"):
        run(["go", "build", "-o", "program", stack.source], folder=folder, environment=environment)
    return [str(folder / "program")]


def _java(stack: Stack, place: Place) -> list[str]:
    folder = place.folder(stack)
    path = ":".join([str(folder), *stack.libraries])
    name = Path(stack.source).stem
    if not _is_fresh(folder / f"{name}.class"):
        run(["javac", "-cp", path, "-d", str(folder), str(folder / stack.source)])
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path, name]


def _interpreted(stack: Stack, place: Place) -> list[str]:
    words = [word.replace("NPM", str(place.npm)) for word in stack.command]
    for package in stack.npm:
        if not (place.npm / "node_modules" / package).is_dir():
            raise CannotBuildError(f"no package {package} of npm")
    return [*words, str(PROGRAMS / stack.source)]


def _mono(stack: Stack, place: Place) -> list[str]:
    folder = place.folder(stack)
    run(["mcs", "-r:Mono.Posix.dll", "-out:program.exe", stack.source], folder=folder)
    return ["mono", str(folder / "program.exe")]


def _chicken(stack: Stack, place: Place) -> list[str]:
    folder = place.folder(stack)
    run(["csc", "-o", "program", stack.source], folder=folder)
    return [str(folder / "program")]


def _compiled_by(*words: str) -> Callable[[Stack, Place], list[str]]:
    """A compiler that is called in the folder, with SOURCE and LIBRARIES in its words, and makes `program`."""

    def compile_it(stack: Stack, place: Place) -> list[str]:
        folder = place.folder(stack)
        command: list[str] = []
        for word in words:
            command += stack.libraries if word == "LIBRARIES" else [word.replace("SOURCE", stack.source)]
        run(command, folder=folder)
        return [str(folder / "program")]

    return compile_it


RECIPES: Final[dict[str, Callable[[Stack, Place], list[str]]]] = {
    "c": _compiled_c,
    "c++": _compiled_c,
    "python": _python,
    "rust": _rust,
    "go": _go,
    "java": _java,
    "interpreted": _interpreted,
    "tool": lambda stack, _place: list(stack.command),
    "mono": _mono,
    "chicken": _chicken,
    "haskell": _compiled_by("ghc", "-v0", "-package", "unix", "LIBRARIES", "-o", "program", "SOURCE"),
    "ocaml": _compiled_by(
        "ocamlfind", "ocamlopt", "-thread", "-linkpkg", "-package", "LIBRARIES", "-o", "program", "SOURCE"
    ),
    "d": _compiled_by("gdc", "-o", "program", "SOURCE"),
    "pascal": _compiled_by("fpc", "-v0", "-oprogram", "SOURCE"),
    "nim": _compiled_by("nim", "c", "--hints:off", "--nimcache:cache", "-o:program", "SOURCE"),
    "vala": _compiled_by("valac", "--pkg", "posix", "-o", "program", "SOURCE"),
}
