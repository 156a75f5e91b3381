/* A crowd of programs that wait for the device, each in a process of its own, and count what they are told.
 *
 *   crowd DEVICE COUNTERS POLLERS READERS OWNERS
 *
 * COUNTERS is a file that holds, for each program, two numbers of 64 bits: how often it was told, and what went wrong
 * (0: nothing; else the errno, or 1000 + revents). Prints "ready" once all wait or are about to. Ends with its input.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct counter {
	volatile unsigned long long told, wrong;
};

static void wait_in_poll(int fd, struct counter *mine)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	char record[4096];

	for (;;) {
		if (poll(&one, 1, -1) < 0) {
			if (errno != EINTR)
				break;
			continue;
		}
		if (one.revents & ~(POLLIN | POLLRDNORM)) {
			mine->wrong = 1000 + one.revents;
			return;
		}
		if (read(fd, record, sizeof record) > 0)
			mine->told++;
		else if (errno != EAGAIN)
			break;
	}
	mine->wrong = errno;
}

static void wait_in_read(int fd, struct counter *mine)
{
	char record[4096];

	while (read(fd, record, sizeof record) > 0)
		mine->told++;
	mine->wrong = errno ? errno : 999;
}

static void wait_for_signals(int fd, struct counter *mine)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETFL, O_RDONLY | O_NONBLOCK | O_ASYNC)) {
		mine->wrong = errno;
		return;
	}
	while (sigwaitinfo(&set, NULL) == SIGIO)
		mine->told++;
	mine->wrong = errno;
}

int main(int argc, char **argv)
{
	int numbers[3], count = 0, file, i = 0, fd;
	struct counter *counters;
	char byte;

	if (argc != 6)
		return 2;
	for (int kind = 0; kind < 3; kind++)
		count += numbers[kind] = atoi(argv[3 + kind]);
	file = open(argv[2], O_RDWR | O_CREAT, 0600);
	if (file < 0 || ftruncate(file, count * sizeof *counters))
		return 2;
	counters = mmap(NULL, count * sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (counters == MAP_FAILED)
		return 2;
	for (int kind = 0; kind < 3; kind++)
		for (int one = 0; one < numbers[kind]; one++, i++) {
			fd = open(argv[1], O_RDONLY | (kind == 1 ? 0 : O_NONBLOCK));
			if (fd < 0)
				return 3;
			switch (fork()) {
			case -1:
				return 4;
			case 0:
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				if (kind == 0)
					wait_in_poll(fd, &counters[i]);
				else if (kind == 1)
					wait_in_read(fd, &counters[i]);
				else
					wait_for_signals(fd, &counters[i]);
				pause();
			}
			close(fd);
		}
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
