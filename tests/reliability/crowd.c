/* A crowd of programs that wait for the device, each in a process and of a user of its own, which count what they are
 * told. (The guard time counts the files of one user: a thousand of them would be told every ten seconds.)
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

#define FIRST_UID 20000

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
	int opened[2];
	char byte;

	if (argc != 6 || pipe(opened))
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
			switch (fork()) {
			case -1:
				return 4;
			case 0:
				if (setgid(FIRST_UID + i) || setuid(FIRST_UID + i))
					_exit(5);
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				fd = open(argv[1], O_RDONLY | (kind == 1 ? 0 : O_NONBLOCK));
				if (fd < 0)
					counters[i].wrong = errno;
				close(opened[1]);
				if (fd < 0)
					_exit(3);
				if (kind == 0)
					wait_in_poll(fd, &counters[i]);
				else if (kind == 1)
					wait_in_read(fd, &counters[i]);
				else
					wait_for_signals(fd, &counters[i]);
				pause();
			}
		}
	close(opened[1]);
	while (read(opened[0], &byte, 1) > 0)
		;
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
