import asyncio

import client
from tornado.ioloop import IOLoop


async def main() -> None:
    fd = client.device()
    IOLoop.current().add_handler(fd, lambda fd, events: client.woken(fd), IOLoop.READ)
    await asyncio.Event().wait()


asyncio.run(main())
