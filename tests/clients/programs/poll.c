#include "client.h"

int main(int argc, char **argv)
{
	struct pollfd device = { .fd = open_device(argc, argv, O_NONBLOCK), .events = POLLIN };

	while (poll(&device, 1, -1) > 0)
		woken(device.fd, (unsigned)device.revents);
	return 1;
}
