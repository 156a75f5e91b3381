/* honest poll|sigio DEVICE: an honest program with one open file. Prints "ready", then for each notification
 * "told NOW_NS RECORD_NS" (CLOCK_MONOTONIC; RECORD_NS is the record's time_ns, 0 if there was no record to read).
 *
 * honest open PATH COUNT: opens it COUNT times, one after the other, and prints "opened N LAST_ERRNO". */
#include "attack.h"
#include <poll.h>

static long long now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void told(int fd)
{
	char text[4096];
	long long now = now_ns(), at = 0;
	ssize_t length;

	while ((length = read(fd, text, sizeof text - 1)) > 0) {
		text[length] = 0;
		/* The newest record is the one that this wake-up is about. */
		for (char *found = text; (found = strstr(found, "time_ns=")); found++)
			at = atoll(found + 8);
	}
	if (length < 0 && errno != EAGAIN)
		fail("read");
	printf("told %lld %lld\n", now, at);
	fflush(stdout);
}

static int open_often(const char *path, int count)
{
	int opened = 0, error = 0;

	for (int i = 0; i < count; i++) {
		int fd = open(path, O_RDONLY | O_NONBLOCK);
		if (fd < 0) {
			error = errno;
			continue;
		}
		opened++;
		close(fd);
	}
	printf("opened %d %d\n", opened, error);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4)
		return open_often(argv[2], atoi(argv[3]));
	int fd = open_device(argv[2]);
	if (!strcmp(argv[1], "poll")) {
		struct pollfd waits = { .fd = fd, .events = POLLIN };
		ready();
		for (;;) {
			if (poll(&waits, 1, -1) < 0)
				fail("poll");
			if (waits.revents & POLLERR) {
				printf("error\n");
				return 0;
			}
			told(fd);
		}
	}
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGNAL, nothing);
	signal(SIGIO, nothing);
	set_owner(fd, getpid());
	ready();
	for (;;)
		if (sigwaitinfo(&set, NULL) > 0)
			told(fd);
}
