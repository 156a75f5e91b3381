"""A StreamReader of asyncio."""

import asyncio
import os

import client


async def main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    file = os.fdopen(client.device(), "rb", buffering=0)
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    except ValueError as error:
        client.end(f"ValueError: {error}")
    while line := await reader.readline():
        print("told", line.decode(), end="", flush=True)
    client.end("end of file")


asyncio.run(main())
