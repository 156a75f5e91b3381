import client
import trio


async def main() -> None:
    fd = client.device()
    while True:
        await trio.lowlevel.wait_readable(fd)
        client.woken(fd)


trio.run(main)
