/* The event loop of libwayland-server. */
#include "client.h"
#include <wayland-server-core.h>

static int readable(int fd, uint32_t mask, void *unused)
{
	(void)unused;
	woken(fd, (mask & WL_EVENT_READABLE ? POLLIN : 0) | (mask & WL_EVENT_HANGUP ? POLLHUP : 0) |
		(mask & WL_EVENT_ERROR ? POLLERR : 0));
	return 0;
}

int main(int argc, char **argv)
{
	struct wl_event_loop *loop = wl_event_loop_create();

	wl_event_loop_add_fd(loop, open_device(argc, argv, O_NONBLOCK), WL_EVENT_READABLE, readable, NULL);
	for (;;)
		wl_event_loop_dispatch(loop, -1);
}
