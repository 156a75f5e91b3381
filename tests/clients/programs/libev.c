/* The third argument is the backend: epoll, poll, select, linuxaio or iouring. */
#include "client.h"
#include <ev.h>

static void readable(struct ev_loop *loop, ev_io *watcher, int events)
{
	(void)loop;
	if (events & EV_ERROR)
		end_with("EV_ERROR", 0);
	woken(watcher->fd, 0);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 3 ? argv[3] : "epoll";
	unsigned backend = !strcmp(kind, "poll") ? EVBACKEND_POLL : !strcmp(kind, "select") ? EVBACKEND_SELECT :
		!strcmp(kind, "linuxaio") ? EVBACKEND_LINUXAIO : !strcmp(kind, "iouring") ? EVBACKEND_IOURING : EVBACKEND_EPOLL;
	struct ev_loop *loop;
	ev_io watcher;
	int fd = open_device(argc, argv, O_NONBLOCK);

	loop = ev_default_loop(backend);
	if (!loop)
		end_with("no such backend", 0);
	ev_io_init(&watcher, readable, fd, EV_READ);
	ev_io_start(loop, &watcher);
	return ev_run(loop, 0);
}
