/* GNU Pth. */
#include <sys/select.h>

#include "client.h"
#include <pth.h>

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);

	pth_init();
	for (;;) {
		struct pollfd device = { .fd = fd, .events = POLLIN };

		if (pth_poll(&device, 1, -1) > 0)
			woken(fd, (unsigned)device.revents);
	}
}
