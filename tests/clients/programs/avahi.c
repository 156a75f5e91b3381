#include "client.h"
#include <avahi-common/simple-watch.h>

static void readable(AvahiWatch *watch, int fd, AvahiWatchEvent event, void *unused)
{
	(void)watch;
	(void)unused;
	woken(fd, (unsigned)event);
}

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	AvahiSimplePoll *loop = avahi_simple_poll_new();
	const AvahiPoll *api = avahi_simple_poll_get(loop);

	api->watch_new(api, fd, AVAHI_WATCH_IN, readable, NULL);
	return avahi_simple_poll_loop(loop);
}
