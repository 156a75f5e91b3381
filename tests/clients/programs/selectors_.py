import selectors

import client

fd = client.device()
selector = selectors.DefaultSelector()
selector.register(fd, selectors.EVENT_READ)
while True:
    for _ in selector.select():
        client.woken(fd)
