/* N processes that sleep in poll() on a file, and how long after the trigger each of them is back.
 *
 *   herd DEVICE SIMULATE N     the device, woken by a simulation, written to SIMULATE and ended when all are back
 *   herd DEVICE SIMULATE N sigio  the same, but they sleep in sigtimedwait() and are owners of their file (O_ASYNC)
 *   herd pipe - N              the limit: one pipe that all of them poll, woken by one write
 *
 * Prints N lines: nanoseconds from just before the write; -1 for one that was not woken within 20 s. Who is back waits
 * until all are: the ends of the first must not delay the last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_NS 20000000000LL
#ifdef SYS_poll
#define SYS_poll_call SYS_poll
#else /* newer architectures have ppoll() alone */
#define SYS_poll_call SYS_ppoll
#endif

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "herd: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* Whether the process sleeps in poll(). */
static int sleeps(pid_t pid)
{
	char path[64], text[512];
	int fd, length;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[length > 0 ? length : 0] = 0;
	return length > 0 && text[0] >= '0' && text[0] <= '9' &&
	       (atoi(text) == SYS_poll_call || atoi(text) == SYS_rt_sigtimedwait);
}

/* Becomes the owner of `fd`, waits for SIGIO; whether it came. */
static int signalled(int fd)
{
	struct timespec limit = { .tv_sec = 60 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETFL, O_RDONLY | O_NONBLOCK | O_ASYNC))
		_exit(2);
	return sigtimedwait(&set, NULL, &limit) == SIGIO;
}

static void trigger_with(int fd, const char *message)
{
	if (write(fd, message, strlen(message)) < 0)
		die("trigger");
}

int main(int argc, char **argv)
{
	int count = argc >= 4 ? atoi(argv[3]) : 0, by_signal = argc == 5, is_pipe, ends[2] = { -1, -1 }, leave[2], trigger, missing;
	long long *back, begin;
	pid_t *children;

	if (count <= 0) {
		fprintf(stderr, "usage: herd DEVICE|pipe SIMULATE N [sigio]\n");
		return 2;
	}
	is_pipe = !strcmp(argv[1], "pipe");
	if ((is_pipe && pipe(ends)) || pipe(leave))
		die("pipe");
	trigger = is_pipe ? ends[1] : open(argv[2], O_WRONLY);
	if (trigger < 0)
		die(argv[2]);
	back = mmap(NULL, count * sizeof(*back), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	children = calloc(count, sizeof(*children));
	if (back == MAP_FAILED || !children)
		die("memory");
	for (int i = 0; i < count; i++) {
		children[i] = fork();
		if (children[i] < 0)
			die("fork");
		if (!children[i]) {
			struct pollfd one = { .events = POLLIN };

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			one.fd = is_pipe ? ends[0] : open(argv[1], O_RDONLY | O_NONBLOCK);
			if (one.fd < 0)
				_exit(2);
			if (by_signal ? signalled(one.fd) : poll(&one, 1, 60000) == 1 && one.revents & POLLIN)
				back[i] = now_ns();
			close(leave[1]);
			if (read(leave[0], &one, 1) < 0)
				_exit(2);
			_exit(0);
		}
	}
	for (int i = 0; i < count; i++)
		for (int tries = 0; !sleeps(children[i]) && tries < 100000; tries++)
			usleep(100);
	/* The server looks for the owners of new files within the first second. */
	usleep(by_signal ? 2000000 : 200000);
	begin = now_ns();
	trigger_with(trigger, "all 20");
	do {
		usleep(1000);
		missing = 0;
		for (int i = 0; i < count; i++)
			missing += !__atomic_load_n(&back[i], __ATOMIC_RELAXED);
	} while (missing && now_ns() - begin < LIMIT_NS);
	if (!is_pipe)
		trigger_with(trigger, "all 0");
	close(leave[1]);
	if (missing)
		for (int i = 0; i < count; i++)
			kill(children[i], SIGKILL);
	for (int i = 0; i < count; i++)
		waitpid(children[i], NULL, 0);
	for (int i = 0; i < count; i++)
		printf("%lld\n", back[i] ? back[i] - begin : -1);
	return 0;
}
