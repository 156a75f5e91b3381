/* What the attacks share: an open device file with an owner, and the two lines that the arena waits for. */
#ifndef ATTACK_H
#define ATTACK_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

enum { WORKERS = 4 };

/* Go on as so many processes, of which the first says that it is ready. */
static inline void fork_workers(void)
{
	for (int i = 1; i < WORKERS; i++)
		if (fork() == 0)
			return;
	ready();
}

static inline ssize_t send_descriptor(int socket, int fd, int flags)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = "";
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	return sendmsg(socket, &message, flags);
}
#endif
