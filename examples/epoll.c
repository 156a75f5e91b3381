/* Watch /dev/mem_notify with edge-triggered epoll(7): drain the device until it says EAGAIN.
 *
 * Compile:  cc -std=c11 -O2 -Wall -Wextra -Werror -o epoll epoll.c
 * Run:      ./epoll [DEVICE [COUNT]]      DEVICE: default /dev/mem_notify; COUNT: end after so many
 *                                         notifications, default 0: never
 * Try it:   sudo memnotify simulate --for 2
 *
 * Prints one line per notification: its record.
 * Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the device fails; 2 for wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

/* Read until nothing is left, and print each whole record; return how many, or -1 when the device fails.
 * An edge is told once: to stop reading early would be to sleep on what is left. */
static long drain(int fd, long limit)
{
	static char line[4096];
	static size_t length;
	long records = 0;

	for (;;) {
		ssize_t got = read(fd, line + length, sizeof(line) - length);
		char *end, *start = line;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return records;
		if (got == 0)
			errno = 0;
		if (got <= 0)
			return -1;
		length += (size_t)got;
		while ((end = memchr(start, '\n', length))) {
			size_t size = (size_t)(end + 1 - start);

			fwrite(start, 1, size, stdout);
			fflush(stdout);
			start += size;
			length -= size;
			if (++records == limit)
				return records;
		}
		memmove(line, start, length);
		if (length == sizeof(line)) {
			errno = EPROTO;
			return -1;
		}
	}
}

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/mem_notify";
	long count = argc > 2 ? atol(argv[2]) : 0, notifications = 0;
	struct sigaction action = { .sa_handler = on_signal };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	sigset_t blocked, unblocked;
	int fd, set;

	if (argc > 3 || count < 0) {
		fprintf(stderr, "usage: %s [DEVICE [COUNT]]\n", argv[0]);
		return 2;
	}
	/* The signals are open only inside epoll_pwait(): none can slip in between the test and the wait. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);

	fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	set = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0 || set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0) {
		fprintf(stderr, "%s: cannot watch %s: %s\n", argv[0], device, strerror(errno));
		return 1;
	}
	fprintf(stderr, "watching %s\n", device);

	while (!stopped) {
		/* Read before the first wait: EPOLL_CTL_ADD polls too, and may be the poll that was told. */
		long records = drain(fd, count ? count - notifications : -1);

		if (records < 0) {
			fprintf(stderr, "%s: %s: %s\n", argv[0], device, errno ? strerror(errno) : "end of file");
			return 1;
		}
		notifications += records;
		if (count && notifications == count)
			return 0;
		if (epoll_pwait(set, &event, 1, -1, &unblocked) < 0 && errno != EINTR) {
			fprintf(stderr, "%s: epoll: %s\n", argv[0], strerror(errno));
			return 1;
		}
	}
	return 0;
}
