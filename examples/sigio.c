/* Watch /dev/mem_notify with SIGIO: fcntl(2), F_SETOWN and O_ASYNC.
 *
 * Compile:  cc -std=c11 -O2 -Wall -Wextra -Werror -o sigio sigio.c
 * Run:      ./sigio [DEVICE [COUNT]]      DEVICE: default /dev/mem_notify; COUNT: end after so many
 *                                         notifications, default 0: never
 * Try it:   sudo memnotify simulate --for 2
 *
 * Prints one line per notification: its record.
 * Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the device fails; 2 for wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nobody signals that the server is gone, so look from time to time. */
enum { LOOK_SECONDS = 5 };

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	if (number != SIGIO)
		stopped = 1;
}

/* Print the record that the signal announced; return how many there were (0: it was withdrawn), or -1 when the
 * device fails. */
static int print_record(int fd)
{
	char line[4096];
	ssize_t got = read(fd, line, sizeof(line));

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	fwrite(line, 1, (size_t)got, stdout);
	fflush(stdout);
	return got > 0;
}

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/mem_notify";
	long count = argc > 2 ? atol(argv[2]) : 0, notifications = 0;
	const struct timespec look = { .tv_sec = LOOK_SECONDS };
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t blocked, unblocked;
	int fd;

	if (argc > 3 || count < 0) {
		fprintf(stderr, "usage: %s [DEVICE [COUNT]]\n", argv[0]);
		return 2;
	}
	/* The signals are open only inside ppoll(): none can slip in between the test and the wait. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGIO);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	/* The handler comes first: without one, SIGIO ends the program. */
	sigaction(SIGIO, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);

	fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) < 0) {
		fprintf(stderr, "%s: cannot watch %s: %s\n", argv[0], device, strerror(errno));
		return 1;
	}
	fprintf(stderr, "watching %s\n", device);

	while (!stopped) {
		int records = print_record(fd);

		if (records < 0) {
			fprintf(stderr, "%s: %s: %s\n", argv[0], device, strerror(errno));
			return 1;
		}
		notifications += records;
		if (count && notifications == count)
			return 0;
		if (!records && ppoll(NULL, 0, &look, &unblocked) < 0 && errno != EINTR) {
			fprintf(stderr, "%s: ppoll: %s\n", argv[0], strerror(errno));
			return 1;
		}
	}
	return 0;
}
