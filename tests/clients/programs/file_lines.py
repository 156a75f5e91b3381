"""A buffered file object."""

import sys

import client

with open(sys.argv[1]) as device:
    print("ready", flush=True)
    try:
        for line in device:
            print("told", line, end="", flush=True)
    except OSError as error:
        client.end("OSError", error)
client.end("end of file")
