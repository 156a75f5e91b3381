#include "client.h"
#include <sys/epoll.h>
#include <systemd/sd-event.h>

static int readable(sd_event_source *source, int fd, uint32_t events, void *unused)
{
	(void)source;
	(void)unused;
	woken(fd, events);
	return 0;
}

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	sd_event *event = NULL;

	if (sd_event_default(&event) < 0 || sd_event_add_io(event, NULL, fd, EPOLLIN, readable, NULL) < 0)
		return 1;
	return sd_event_loop(event);
}
