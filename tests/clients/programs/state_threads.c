/* State Threads: a light-weight thread that waits for the descriptor. */
#include "client.h"
#include <st.h>

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	struct pollfd device = { .fd = fd, .events = POLLIN };

	st_set_eventsys(ST_EVENTSYS_ALT);
	if (st_init())
		return 1;
	for (;;)
		if (st_poll(&device, 1, ST_UTIME_NO_TIMEOUT) > 0)
			woken(fd, (unsigned)device.revents);
}
