/* The main loop of libpulse. */
#include "client.h"
#include <pulse/mainloop.h>

static void readable(pa_mainloop_api *api, pa_io_event *event, int fd, pa_io_event_flags_t flags, void *unused)
{
	(void)api;
	(void)event;
	(void)unused;
	woken(fd, (flags & PA_IO_EVENT_INPUT ? POLLIN : 0) | (flags & PA_IO_EVENT_HANGUP ? POLLHUP : 0) |
		(flags & PA_IO_EVENT_ERROR ? POLLERR : 0));
}

int main(int argc, char **argv)
{
	pa_mainloop *loop = pa_mainloop_new();
	pa_mainloop_api *api = pa_mainloop_get_api(loop);

	api->io_new(api, open_device(argc, argv, O_NONBLOCK), PA_IO_EVENT_INPUT, readable, NULL);
	return pa_mainloop_run(loop, NULL);
}
