"""asyncio.to_thread: a thread, blocked in read."""

import asyncio
import os

import client


async def main() -> None:
    fd = client.device(0)
    while True:
        try:
            text = await asyncio.to_thread(os.read, fd, 4096)
        except OSError as error:
            client.end("OSError", error)
        else:
            print("told", text.decode().splitlines()[0], flush=True)


asyncio.run(main())
