import select

import client

fd = client.device()
poll = select.poll()
poll.register(fd, select.POLLIN)
while True:
    for _, revents in poll.poll():
        client.woken(fd, revents)
