/* The third argument says which kind: level, edge or oneshot. */
#include <sys/epoll.h>

#include "client.h"

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK), epoll = epoll_create1(0);
	const char *kind = argc > 3 ? argv[3] : "level";
	uint32_t flags = !strcmp(kind, "edge") ? EPOLLET : !strcmp(kind, "oneshot") ? EPOLLONESHOT : 0;
	struct epoll_event event = { .events = EPOLLIN | flags }, got;

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		end_with("epoll_ctl", errno);
	for (;;) {
		if (epoll_wait(epoll, &got, 1, -1) != 1)
			continue;
		woken(fd, got.events);
		if (flags == EPOLLONESHOT)
			epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
	}
}
