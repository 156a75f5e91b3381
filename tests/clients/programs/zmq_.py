import client
import zmq

fd = client.device()
poller = zmq.Poller()
poller.register(fd, zmq.POLLIN)
while True:
    for _, events in poller.poll():
        client.woken(fd, (1 if events & zmq.POLLIN else 0) | (8 if events & zmq.POLLERR else 0))
