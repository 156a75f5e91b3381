/* ppoll() with a time-out that passes again and again. */
#include "client.h"

int main(int argc, char **argv)
{
	struct pollfd device = { .fd = open_device(argc, argv, O_NONBLOCK), .events = POLLIN | POLLRDHUP | POLLPRI };

	for (;;) {
		struct timespec limit = { .tv_nsec = 100000000 };

		if (ppoll(&device, 1, &limit, NULL) > 0)
			woken(device.fd, (unsigned)device.revents);
	}
}
