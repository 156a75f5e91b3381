"""add_reader of asyncio; with a third argument under uvloop."""

import asyncio
import sys

import client


async def main() -> None:
    fd = client.device()
    asyncio.get_running_loop().add_reader(fd, client.woken, fd)
    await asyncio.Event().wait()


if len(sys.argv) > 3:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
