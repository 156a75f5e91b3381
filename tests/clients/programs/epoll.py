import select

import client

fd = client.device()
epoll = select.epoll()
epoll.register(fd, select.EPOLLIN)
while True:
    for _, revents in epoll.poll():
        client.woken(fd, revents)
