#include "client.h"
#include <zmq.h>

int main(int argc, char **argv)
{
	zmq_pollitem_t device = { .fd = open_device(argc, argv, O_NONBLOCK), .events = ZMQ_POLLIN };

	for (;;)
		if (zmq_poll(&device, 1, -1) > 0)
			woken(device.fd, (device.revents & ZMQ_POLLIN ? POLLIN : 0) | (device.revents & ZMQ_POLLERR ? POLLERR : 0));
}
