import client
from gevent.hub import get_hub

fd = client.device()
watcher = get_hub().loop.io(fd, 1)
while True:
    get_hub().wait(watcher)
    client.woken(fd)
