import anyio
import client


async def main() -> None:
    fd = client.device()
    while True:
        await anyio.wait_readable(fd)
        client.woken(fd)


anyio.run(main)
