import select

import client

fd = client.device()
while True:
    if select.select([fd], [], [])[0]:
        client.woken(fd)
