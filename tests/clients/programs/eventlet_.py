import client
from eventlet.hubs import trampoline

fd = client.device()
while True:
    trampoline(fd, read=True)
    client.woken(fd)
