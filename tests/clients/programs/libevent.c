/* The third argument is the method: epoll, poll or select. */
#include "client.h"
#include <event2/event.h>

static void readable(evutil_socket_t fd, short what, void *unused)
{
	(void)what;
	(void)unused;
	woken(fd, 0);
}

int main(int argc, char **argv)
{
	const char *methods[] = { "epoll", "poll", "select" };
	int fd = open_device(argc, argv, O_NONBLOCK);
	struct event_config *config = event_config_new();
	struct event_base *base;

	for (int i = 0; argc > 3 && i < 3; i++)
		if (strcmp(methods[i], argv[3]))
			event_config_avoid_method(config, methods[i]);
	base = event_base_new_with_config(config);
	event_add(event_new(base, fd, EV_READ | EV_PERSIST, readable, NULL), NULL);
	return event_base_dispatch(base);
}
