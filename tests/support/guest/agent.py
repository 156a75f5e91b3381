#!/usr/bin/env python3
"""Runs in a guest that boots systemd, on its second serial line: a line of JSON in, a line of JSON out.

    {"command": "systemctl is-active memnotify", "limit_s": 60}     →     {"code": 0, "output": "active\\n"}

`ready`, with the kernel's id of this boot, is said first. The code is null where the command took too long.
"""

import json
import os
import subprocess
import termios
import tty
from io import RawIOBase
from pathlib import Path
from typing import Any

LINE = "/dev/ttyS1"


def main() -> None:
    fd = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    termios.tcflush(fd, termios.TCIOFLUSH)
    with open(fd, "r+b", buffering=0) as line:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        line.write(json.dumps({"ready": boot}).encode() + b"\n")
        while request := read_line(line):
            line.write(json.dumps(answer(json.loads(request))).encode() + b"\n")


def read_line(line: RawIOBase) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        text += line.read(4096) or b""
    return text


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", request["command"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=request["limit_s"],
        )
    except subprocess.TimeoutExpired as error:
        return {"code": None, "output": (error.stdout or b"").decode(errors="replace")}
    return {"code": done.returncode, "output": done.stdout.decode(errors="replace")}


main()
