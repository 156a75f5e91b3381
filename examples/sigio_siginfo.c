/* Watch /dev/mem_notify with a real-time signal: F_SETSIG and sigwaitinfo(2), no handler.
 *
 * Compile:  cc -std=c11 -O2 -Wall -Wextra -Werror -o sigio_siginfo sigio_siginfo.c
 * Run:      ./sigio_siginfo [DEVICE [COUNT]]      DEVICE: default /dev/mem_notify; COUNT: end after so many
 *                                                 notifications, default 0: never
 * Try it:   sudo memnotify simulate --for 2
 *
 * Real-time signals are queued, and say which descriptor they are about: one program can watch many files with one
 * signal. Prints one line per notification: what the signal said, and the record.
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

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/mem_notify";
	long count = argc > 2 ? atol(argv[2]) : 0, notifications = 0;
	const struct timespec look = { .tv_sec = LOOK_SECONDS };
	const int told = SIGRTMIN + 1;
	sigset_t signals;
	int fd;

	if (argc > 3 || count < 0) {
		fprintf(stderr, "usage: %s [DEVICE [COUNT]]\n", argv[0]);
		return 2;
	}
	/* Blocked, so that they wait for sigtimedwait(). SIGIO comes when no more real-time signals can be queued. */
	sigemptyset(&signals);
	sigaddset(&signals, told);
	sigaddset(&signals, SIGIO);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_SETSIG, told) < 0 || fcntl(fd, F_SETOWN, getpid()) < 0 ||
	    fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) < 0) {
		fprintf(stderr, "%s: cannot watch %s: %s\n", argv[0], device, strerror(errno));
		return 1;
	}
	fprintf(stderr, "watching %s\n", device);

	for (;;) {
		char line[4096];
		siginfo_t info = { 0 };
		int number = sigtimedwait(&signals, &info, &look);
		ssize_t got;

		if (number == SIGTERM || number == SIGINT)
			return 0;
		got = read(number == told ? info.si_fd : fd, line, sizeof(line));
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got < 0) {
			fprintf(stderr, "%s: %s: %s\n", argv[0], device, strerror(errno));
			return 1;
		}
		printf("si_fd=%d si_band=%#lx %.*s", info.si_fd, (unsigned long)info.si_band, (int)got, line);
		fflush(stdout);
		if (++notifications == count)
			return 0;
	}
}
