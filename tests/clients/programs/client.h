/* What the programs in C and C++ share. tests/clients/__init__.py says what they print. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0x2000
#endif

static int reads; /* not only polls */

/* The device that the first argument names. */
static inline int open_device(int argc, char **argv, int flags)
{
	int fd = argc > 2 ? open(argv[1], O_RDONLY | O_CLOEXEC | flags) : -1;

	if (fd < 0) {
		perror(argc > 2 ? argv[1] : "usage: PROGRAM DEVICE read|poll");
		exit(2);
	}
	reads = !strcmp(argv[2], "read");
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	return fd;
}

/* The program saw the end: what its way of waiting said, and the error of its read. */
static inline void end_with(const char *said, int error)
{
	printf("end %s%s%s\n", said, *said && error ? " " : "", error ? strerrorname_np(error) : "");
	exit(0);
}

static inline void end_of(unsigned revents, int error)
{
	char said[64] = "";
	const struct { unsigned bit; const char *name; } names[] = {
		{ POLLIN, "POLLIN" }, { POLLPRI, "POLLPRI" }, { POLLERR, "POLLERR" }, { POLLHUP, "POLLHUP" },
		{ POLLNVAL, "POLLNVAL" }, { POLLRDHUP, "POLLRDHUP" },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (revents & names[i].bit) {
			strcat(said, *said ? "|" : "");
			strcat(said, names[i].name);
		}
	end_with(said, error);
}

/* The loop said that the device is readable. `revents` as poll() has them, 0 where the library does not tell. */
static inline void woken(int fd, unsigned revents)
{
	char text[4096];
	ssize_t got;

	if (!reads) {
		if (revents & (POLLERR | POLLHUP | POLLNVAL))
			end_of(revents, 0);
		puts("woken");
		return;
	}
	got = read(fd, text, sizeof(text) - 1);
	if (got > 0) {
		text[got] = '\0';
		printf("told %.*s\n", (int)strcspn(text, "\n"), text);
	} else if (got < 0 && errno == EAGAIN && !(revents & (POLLERR | POLLHUP | POLLNVAL))) {
		puts("empty");
	} else {
		end_of(revents, got < 0 ? errno : 0);
	}
}
