"""The list: what is run."""

from __future__ import annotations

from typing import Final, TypedDict, Unpack

from tests.clients.stack import PYTHON, Stack


class Options(TypedDict, total=False):
    """The fields of a stack that are given by name."""

    arguments: tuple[str, ...]
    command: tuple[str, ...]
    debian: tuple[str, ...]
    pypi: tuple[str, ...]
    npm: tuple[str, ...]
    blocks: bool
    in_tests: bool
    remark: str
    environment: dict[str, str]


def _c(title: str, source: str, *libraries: str, **others: Unpack[Options]) -> Stack:
    return Stack(f"C, {title}", f"{source}.c", "c", libraries, **others)


def _cpp(title: str, source: str, *libraries: str, **others: Unpack[Options]) -> Stack:
    return Stack(f"C++, {title}", f"{source}.cpp", "c++", libraries, **others)


def _python(title: str, source: str, *modules: str, **others: Unpack[Options]) -> Stack:
    others.setdefault("command", (PYTHON,))
    return Stack(f"Python, {title}", f"{source}.py", "python", modules, **others)


def _rust(title: str, source: str, *crates: str, **others: Unpack[Options]) -> Stack:
    return Stack(f"Rust, {title}", f"{source}.rs", "rust", crates, **others)


def _go(title: str, source: str, **others: Unpack[Options]) -> Stack:
    others.setdefault("debian", ("golang-go",))
    return Stack(f"Go, {title}", f"go_{source}.go", "go", **others)


def _run(title: str, source: str, *words: str, **others: Unpack[Options]) -> Stack:
    """A program in a language that has an interpreter."""
    others["command"] = words
    return Stack(title, source, "interpreted", **others)


def _tool(title: str, *words: str, **others: Unpack[Options]) -> Stack:
    others["command"] = words
    others["blocks"] = True
    return Stack(title, "", "tool", **others)


SYSTEM_PYTHON: Final = "/usr/bin/python3"
NODE_MODULES: Final = {"NODE_PATH": "NPM/node_modules"}

C: Final = (
    _c("poll", "poll", in_tests=True),
    _c("ppoll, 100 ms", "ppoll", in_tests=True),
    _c("select", "select", in_tests=True),
    *(_c(f"epoll, {kind}", "epoll", arguments=(kind,), in_tests=True) for kind in ("level", "edge", "oneshot")),
    _c("read", "read", blocks=True, in_tests=True),
    _c("getline", "getline", blocks=True),
    _c("io_uring, poll", "io_uring", arguments=("poll",), in_tests=True),
    _c("io_uring, multishot poll", "io_uring", arguments=("multishot",), in_tests=True),
    _c(
        "io_uring, read",
        "io_uring",
        arguments=("read",),
        blocks=True,
        remark="The kernel answers 0 to a read of a FUSE file that io_uring makes, at once. Poll first.",
    ),
    _c("Linux AIO, poll", "aio"),
    _c("GLib, g_unix_fd_add", "glib", "glib-2.0", debian=("libglib2.0-dev",), in_tests=True),
    _c("GLib, GIOChannel", "glib_channel", "glib-2.0", debian=("libglib2.0-dev",)),
    _c("libuv, uv_poll", "libuv", "libuv", debian=("libuv1-dev",), in_tests=True),
    _c("libuv, uv_fs_read", "libuv_fs", "libuv", debian=("libuv1-dev",), blocks=True),
    *(
        _c(
            f"libevent, {method}",
            "libevent",
            "libevent",
            arguments=(method,),
            debian=("libevent-dev",),
            in_tests=method == "epoll",
        )
        for method in ("epoll", "poll", "select")
    ),
    *(
        _c(f"libev, {backend}", "libev", "-lev", arguments=(backend,), debian=("libev-dev",))
        for backend in ("epoll", "poll", "select", "linuxaio", "iouring")
    ),
    _c("sd-event", "sd_event", "libsystemd", debian=("libsystemd-dev",)),
    _c("ivykis", "ivykis", "ivykis", debian=("libivykis-dev",)),
    _c("tevent (Samba)", "tevent", "tevent", "talloc", debian=("libtevent-dev", "libtalloc-dev")),
    _c("libverto", "verto", "libverto", debian=("libverto-dev",)),
    _c("libwayland, wl_event_loop", "wayland", "wayland-server", debian=("libwayland-dev",)),
    _c("Avahi, simple poll", "avahi", "-lavahi-common", debian=("libavahi-common-dev",)),
    _c("PulseAudio, pa_mainloop", "pulse", "libpulse", debian=("libpulse-dev",)),
    _c("liboop", "oop", "-loop", debian=("liboop-dev",)),
    _c("State Threads", "state_threads", "-lst", debian=("libst-dev",)),
    _c("GNU Pth", "pth", "-lpth", debian=("libpth-dev",)),
    _c("ZeroMQ, zmq_poll", "zmq", "libzmq", debian=("libzmq3-dev",)),
    _c("APR, pollset", "apr", "apr-1", debian=("libapr1-dev",)),
)

CPP: Final = (
    _cpp("Asio, async_wait", "asio", "-pthread", debian=("libasio-dev",)),
    _cpp("Asio, async_read_some", "asio_read", "-pthread", debian=("libasio-dev",), blocks=True),
    _cpp("Boost.Asio, async_wait", "asio", "-DBOOST", "-pthread", debian=("libboost-dev",)),
    _cpp("ACE reactor", "ace", "-lACE", debian=("libace-dev",)),
    _cpp("Qt 5, QSocketNotifier", "qt", "Qt5Core", "-fPIC", debian=("qtbase5-dev",)),
    _cpp("std::ifstream", "ifstream", blocks=True),
)

PYTHONS: Final = (
    _python("select", "select_"),
    _python("poll", "poll"),
    _python("epoll", "epoll"),
    _python("selectors", "selectors_"),
    _python("for line in open()", "file_lines", blocks=True),
    _python("asyncio, add_reader", "asyncio_", in_tests=True),
    _python("asyncio, to_thread", "asyncio_thread", blocks=True),
    _python("asyncio, connect_read_pipe", "connect_read_pipe", blocks=True),
    _python("uvloop, add_reader", "asyncio_", "uvloop", arguments=("uvloop",), pypi=("uvloop",)),
    _python("trio, wait_readable", "trio_", "trio", pypi=("trio",), in_tests=True),
    _python("anyio, wait_readable", "anyio_", "anyio", pypi=("anyio",)),
    _python("gevent", "gevent_", "gevent", pypi=("gevent",)),
    _python("eventlet", "eventlet_", "eventlet", pypi=("eventlet",)),
    *(
        _python(f"Twisted, {name} reactor", "twisted_", "twisted", arguments=(name,), pypi=("twisted",))
        for name in ("epoll", "poll", "select")
    ),
    _python("Tornado, add_handler", "tornado_", "tornado", pypi=("tornado",)),
    _python("curio", "curio_", "curio", pypi=("curio",)),
    _python("pyzmq, Poller", "zmq_", "zmq", pypi=("pyzmq",)),
    _python("asyncore", "asyncore_", "asyncore"),
    _python("PySide6, QSocketNotifier", "pyqt", "PySide6", arguments=("pyside",), pypi=("PySide6-Essentials",)),
    _python("PyQt5, QSocketNotifier", "pyqt", "PyQt5", command=(SYSTEM_PYTHON,), debian=("python3-pyqt5",)),
    _python("PyGObject, GLib", "glib_", "gi", command=(SYSTEM_PYTHON,), debian=("python3-gi",)),
    _python("PyPy, poll", "poll", command=("pypy3",), debian=("pypy3",)),
    _python("PyPy, asyncio", "asyncio_", command=("pypy3",), debian=("pypy3",)),
)

TOKIO: Final = 'tokio = { version = "1", features = ["net", "rt", "macros", "fs", "io-util"] }'
RUST: Final = (
    _rust("tokio, AsyncFd", "tokio", TOKIO, debian=("librust-tokio-dev",), in_tests=True),
    _rust("tokio::fs", "tokio_fs", TOKIO, debian=("librust-tokio-dev",), blocks=True),
    _rust(
        "mio",
        "mio",
        'mio = { version = "0.8", features = ["os-poll", "os-ext"] }',
        debian=("librust-mio-dev",),
    ),
    _rust("async-io (smol)", "async_io", 'async-io = "1"', debian=("librust-async-io-dev",)),
    _rust("polling", "polling", 'polling = "2"', debian=("librust-polling-dev",)),
    _rust("nix, poll", "nix", 'nix = "0.26"', debian=("librust-nix-dev",)),
    _rust("std::fs::File", "std_file", blocks=True),
)

GO: Final = (
    _go("os.Open", "file", blocks=True, in_tests=True),
    _go("os.NewFile, runtime poller", "poller", blocks=True, in_tests=True),
    _go("epoll, level", "epoll"),
    _go("epoll, edge", "epoll", arguments=("edge",)),
    _go("unix.Poll", "unix_poll", debian=("golang-go", "golang-golang-x-sys-dev")),
)

JAVA: Final = (
    Stack("Java, FileInputStream", "Stream.java", "java", debian=("default-jdk-headless",), blocks=True, in_tests=True),
    Stack(
        "Java, FileChannel",
        "Stream.java",
        "java",
        arguments=("channel",),
        debian=("default-jdk-headless",),
        blocks=True,
    ),
    Stack(
        "Java, JNA, poll",
        "JnaPoll.java",
        "java",
        ("/usr/share/java/jna.jar",),
        debian=("default-jdk-headless", "libjna-java"),
    ),
)

JAVASCRIPT: Final = (
    _run("Node.js, fs.read", "node_read.cjs", "node", debian=("nodejs",), blocks=True, in_tests=True),
    _run("Node.js, fs.createReadStream", "node_stream.cjs", "node", debian=("nodejs",), blocks=True),
    _run("Node.js, net.Socket", "node_socket.cjs", "node", debian=("nodejs",), blocks=True),
    _run("Node.js, tty.ReadStream", "node_socket.cjs", "node", arguments=("tty",), debian=("nodejs",), blocks=True),
    _run(
        "Node.js, npm epoll",
        "node_epoll.cjs",
        "node",
        debian=("nodejs",),
        npm=("epoll",),
        environment=NODE_MODULES,
    ),
    _run("Bun, fs.read", "node_read.cjs", "NPM/node_modules/.bin/bun", npm=("bun",), blocks=True),
    _run("Deno, fs.read", "node_read.cjs", "NPM/node_modules/.bin/deno", "run", "-A", npm=("deno",), blocks=True),
)

PERL: Final = (
    _run("Perl, IO::Select", "select.pl", "perl"),
    _run("Perl, IO::Poll", "poll.pl", "perl"),
    _run("Perl, <$file>", "lines.pl", "perl", blocks=True),
    _run("Perl, AnyEvent", "anyevent.pl", "perl", debian=("libanyevent-perl",)),
    _run("Perl, AnyEvent on EV", "anyevent.pl", "perl", arguments=("EV",), debian=("libanyevent-perl", "libev-perl")),
    _run("Perl, EV", "ev.pl", "perl", debian=("libev-perl",)),
    _run("Perl, IO::Async", "io_async.pl", "perl", debian=("libio-async-perl",)),
    _run("Perl, POE", "poe.pl", "perl", debian=("libpoe-perl",)),
    _run("Perl, Mojo::Reactor", "mojo.pl", "perl", debian=("libmojolicious-perl",)),
)

RUBY: Final = (
    _run("Ruby, IO.select", "select.rb", "ruby", debian=("ruby",)),
    _run("Ruby, wait_readable", "wait_readable.rb", "ruby", debian=("ruby",)),
    _run("Ruby, gets", "gets.rb", "ruby", debian=("ruby",), blocks=True),
    _run("Ruby, nio4r", "nio4r.rb", "ruby", debian=("ruby", "ruby-nio4r")),
    _run("Ruby, EventMachine", "eventmachine.rb", "ruby", debian=("ruby", "ruby-eventmachine")),
    _run(
        "Ruby, EventMachine, epoll",
        "eventmachine.rb",
        "ruby",
        arguments=("epoll",),
        debian=("ruby", "ruby-eventmachine"),
    ),
    _run("Ruby, async", "async.rb", "ruby", debian=("ruby", "ruby-async")),
)

OTHERS: Final = (
    _run("PHP, stream_select", "stream_select.php", "php", debian=("php-cli",)),
    _run("PHP, fgets", "fgets.php", "php", debian=("php-cli",), blocks=True),
    _run("Lua, luaposix, poll", "posix_poll.lua", "lua5.3", debian=("lua5.3", "lua-posix")),
    _run("Lua, luv", "luv.lua", "lua5.3", debian=("lua5.3", "lua-luv", "lua-posix")),
    _run("Lua, lines()", "lines.lua", "lua5.3", debian=("lua5.3",), blocks=True),
    _run("Tcl, fileevent", "fileevent.tcl", "tclsh", debian=("tcl",)),
    _run("Tcl, gets", "gets.tcl", "tclsh", debian=("tcl",), blocks=True),
    _run("Guile, select", "select.scm", "guile", "--no-auto-compile", debian=("guile-3.0",)),
    Stack("Chicken Scheme, file-select", "file_select.chicken", "chicken", debian=("chicken-bin",)),
    _run("SBCL, serve-event", "serve_event.lisp", "sbcl", "--script", debian=("sbcl",)),
    _run(
        "Erlang, file:read",
        "file_read.escript",
        "escript",
        debian=("erlang-base",),
        blocks=True,
        remark="Erlang reads until as many bytes are there as were asked for, or the file ends. Ask for one at a time, "
        "or use a port.",
    ),
    _run(
        "Erlang, open_port",
        "open_port.escript",
        "sh",
        "-c",
        'exec 3<"$1"; exec escript "$0" "$@"',
        debian=("erlang-base",),
        blocks=True,
        remark="The emulator reads ENOTCONN, looks at the descriptor no more, and says nothing to the port's owner.",
    ),
    _run(
        "Elixir, File.stream!",
        "stream.exs",
        "elixir",
        debian=("elixir",),
        blocks=True,
        remark="As with Erlang's file:read, which it uses.",
    ),
    Stack("Haskell, threadWaitRead", "Wait.hs", "haskell", debian=("ghc",)),
    Stack("Haskell, threadWaitRead, -threaded", "Wait.hs", "haskell", ("-threaded",), debian=("ghc",)),
    Stack("OCaml, Unix.select", "select_.ml", "ocaml", ("unix",), debian=("ocaml-nox", "ocaml-findlib")),
    Stack(
        "OCaml, Lwt",
        "lwt_.ml",
        "ocaml",
        ("lwt.unix",),
        debian=("ocaml-nox", "ocaml-findlib", "liblwt-ocaml-dev"),
    ),
    Stack("C#, Mono, Syscall.poll", "Poll.cs", "mono", debian=("mono-mcs", "libmono-posix4.0-cil")),
    Stack(
        "C#, Mono, StreamReader",
        "Poll.cs",
        "mono",
        arguments=("lines",),
        debian=("mono-mcs", "libmono-posix4.0-cil"),
        blocks=True,
    ),
    Stack("D, poll", "poll.d", "d", debian=("gdc",)),
    Stack("Free Pascal, fpSelect", "poll.pas", "pascal", debian=("fp-compiler", "fp-units-rtl")),
    Stack("Nim, selectors", "poll.nim", "nim", debian=("nim",)),
    Stack("Vala, IOChannel", "watch.vala", "vala", debian=("valac", "libglib2.0-dev")),
    _run(
        "R, readLines",
        "lines.R",
        "Rscript",
        debian=("r-base-core",),
        blocks=True,
        remark="R reads 4 KiB at a time and waits until they are there, so that records come by the dozen.",
    ),
)

SHELLS: Final = (
    _run("sh, read", "read.sh", "sh", blocks=True, in_tests=True),
    _run(
        "sh, head -n1 in a loop",
        "head.sh",
        "sh",
        blocks=True,
        in_tests=True,
        remark="The head of coreutils prints the record and complains: `cannot seek to relative offset 0`. It expects "
        "that it can seek in a regular file, and exits with 0.",
    ),
    _run("bash, read", "read.sh", "bash", blocks=True),
    _run("busybox sh, read", "read.sh", "busybox", "sh", debian=("busybox-static",), blocks=True),
    _run("zsh, read", "read.sh", "zsh", debian=("zsh",), blocks=True),
    _run("zsh, zselect", "zselect.zsh", "zsh", debian=("zsh",)),
    _run("ksh, read", "read.sh", "ksh", debian=("ksh",), blocks=True),
    _run("mksh, read", "read.sh", "mksh", debian=("mksh",), blocks=True),
    _run("fish, read", "read.fish", "fish", debian=("fish",), blocks=True),
    _run("mawk -W interactive, getline", "lines.awk", "mawk", "-W", "interactive", "-f", debian=("mawk",), blocks=True),
    _run("gawk, getline", "lines.awk", "gawk", "-f", debian=("gawk",), blocks=True),
    _run("busybox awk, getline", "lines.awk", "busybox", "awk", "-f", debian=("busybox-static",), blocks=True),
    _tool("socat", "socat", "-u", "OPEN:DEVICE", "STDOUT", debian=("socat",)),
    _tool("cat", "cat", "DEVICE"),
    _tool(
        "busybox cat",
        "busybox",
        "cat",
        "DEVICE",
        debian=("busybox-static",),
        remark="It uses sendfile(2), to which the kernel answers 0 for a FUSE file, at once.",
    ),
    _tool("dd", "dd", "if=DEVICE", "bs=4096", "status=none"),
    _tool(
        "tail -f",
        "tail",
        "-n",
        "+1",
        "-f",
        "DEVICE",
        remark="It reads the records, and writes them when its buffer is full or the file ends.",
    ),
    _tool("sed -u", "sed", "-u", "", "DEVICE"),
    _tool("grep --line-buffered", "grep", "--line-buffered", "node=", "DEVICE"),
    _tool("pv", "pv", "-q", "DEVICE", debian=("pv",)),
)

STACKS: Final[tuple[Stack, ...]] = (
    *C,
    *CPP,
    *PYTHONS,
    *RUST,
    *GO,
    *JAVA,
    *JAVASCRIPT,
    *PERL,
    *RUBY,
    *OTHERS,
    *SHELLS,
)

CANNOT_BE_HAD: Final = (
    (".NET", "neither Debian nor PyPI nor npm has its runtime; Mono stands for C#"),
    ("Kotlin, Scala", "what they wait with is Java's"),
    ("Swift, Zig, Crystal, Julia", "Debian 12 has no compiler of theirs, or one that needs more than it shows"),
)
"""Languages that have no row, and why."""
