/* Waits for notifications, in one of the ways there are, and says what came: "told", or "error" and what it was.
 *
 *   await poll|select|read|epoll PATH
 *
 * A read that a signal, or what freezes programs, has ended is begun again, and said with "again".
 */
#include "common.h"
#include <sys/epoll.h>
#include <sys/select.h>

static int epoll_of(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	int set = epoll_create1(0);

	if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("epoll");
	return set;
}

/* Whether the device is readable, once it is or fails. */
static int await(const char *how, int fd, int set)
{
	struct pollfd device = { .fd = fd, .events = POLLIN };
	struct epoll_event event;
	fd_set readable;

	if (!strcmp(how, "poll"))
		return poll(&device, 1, -1) < 0 ? -1 : device.revents == POLLIN;
	if (!strcmp(how, "epoll"))
		return epoll_wait(set, &event, 1, -1) < 0 ? -1 : event.events == EPOLLIN;
	FD_ZERO(&readable);
	FD_SET(fd, &readable);
	return select(fd + 1, &readable, NULL, NULL, NULL);
}

int main(int argc, char **argv)
{
	char record[4096];
	int blocking, fd, set;

	if (argc < 3)
		return 2;
	blocking = !strcmp(argv[1], "read");
	fd = open(argv[2], O_RDONLY | (blocking ? 0 : O_NONBLOCK));
	if (fd < 0)
		fail(argv[2]);
	set = strcmp(argv[1], "epoll") ? -1 : epoll_of(fd);
	say("ready", argv[1]);
	for (;;) {
		int ready = blocking ? 1 : await(argv[1], fd, set);
		ssize_t got;

		if (ready <= 0) {
			say(ready < 0 && errno == EINTR ? "again" : "error", ready < 0 ? strerror(errno) : "revents");
			if (ready < 0 && errno == EINTR)
				continue;
			return 1;
		}
		got = read(fd, record, sizeof(record));
		if (got > 0) {
			say("told", "");
		} else if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
			say("again", strerror(errno));
		} else {
			say("error", got ? strerror(errno) : "end of file");
			return 1;
		}
	}
}
