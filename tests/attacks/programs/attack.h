/* What the attacks share: an open device file with an owner, and the two lines that the arena waits for. */
#ifndef ATTACK_H
#define ATTACK_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIGNAL (SIGRTMIN + 2)

static inline void ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static inline void fail(const char *what)
{
	printf("failed %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static inline void rest(long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static inline void wait_for_ever(void)
{
	for (;;)
		pause();
}

static inline void set_owner(int fd, pid_t owner)
{
	if (fcntl(fd, F_SETSIG, SIGNAL) || fcntl(fd, F_SETOWN, owner) || fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC))
		fail("owner");
}

static inline int open_device(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK);

	if (fd < 0)
		fail("open");
	return fd;
}

static inline void nothing(int number)
{
	(void)number;
}
#endif
