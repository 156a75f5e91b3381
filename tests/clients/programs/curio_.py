import client
import curio
from curio.traps import _read_wait


async def main() -> None:
    fd = client.device()
    while True:
        await _read_wait(fd)
        client.woken(fd)


curio.run(main)
