/* owners MODE DEVICE COUNT: open files whose owners are more than a server can look at in time.
 *   group    one file after the other, owned by a process group of COUNT members
 *   threads  owned by a process of COUNT threads, which do not handle the signal
 *   sockets  COUNT files with an owner, each in flight in a socket and in no process
 *   random   owned by the processes of random ids, changed as fast as possible
 *   async    O_ASYNC set and cleared as fast as possible
 *   forks    owners that are born, open the device, own it and die, as fast as possible
 *   exec     owners that exec without end
 *   table    a process of COUNT descriptors, files of the device between them
 *   own      one file, owned by the process; prints "ready" as soon as it is
 *   stopped  owners that are stopped, blocked readers among them
 */
#include "attack.h"
#include <poll.h>
#include <pthread.h>

enum { FILES = 4, STACK_BYTES = 65536 };

static const char *device, *count_text;
static int count;

static void group(void)
{
	setpgid(0, 0);
	signal(SIGNAL, SIG_IGN);
	for (int i = 1; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0)
			wait_for_ever();
	}
	for (int i = 0; i < FILES; i++)
		set_owner(open_device(device), -getpgrp());
	ready();
	wait_for_ever();
}

static void *sleep_on(void *unused)
{
	wait_for_ever();
	return unused;
}

static void threads(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (int i = 1; i < count && !pthread_create(&thread, &attributes, sleep_on, NULL); i++)
		;
	/* Blocked in all threads but for one that is looked at last would be worse still; none is, and it would kill. */
	for (int i = 0; i < FILES; i++)
		set_owner(open_device(device), getpid());
	ready();
	wait_for_ever();
}

static void sockets(void)
{
	signal(SIGNAL, SIG_IGN);
	for (int i = 0; i < count; i += 100) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
			fail("socketpair");
		/* A socket's queue is short: a few for each. */
		for (int j = 0; j < 100; j++) {
			if (j % 8 == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
				fail("socketpair");
			int fd = open_device(device);
			set_owner(fd, getpid());
			if (send_descriptor(pair[0], fd, MSG_DONTWAIT) < 0)
				fail("sendmsg");
			close(fd);
		}
	}
	ready();
	wait_for_ever();
}

static void random_owners(void)
{
	int fd = open_device(device);

	fork_workers();
	srandom(getpid());
	for (;;)
		fcntl(fd, F_SETOWN, (random() & 1 ? -1 : 1) * (1 + random() % 32767));
}

static void async(void)
{
	int fd = open_device(device);

	signal(SIGNAL, SIG_IGN);
	fork_workers();
	set_owner(fd, getpid());
	for (;;) {
		fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC);
		fcntl(fd, F_SETFL, O_NONBLOCK);
	}
}

static void forks(void)
{
	signal(SIGNAL, SIG_IGN);
	fork_workers();
	for (;;) {
		if (fork() == 0) {
			int fd = open(device, O_RDONLY | O_NONBLOCK);
			if (fd >= 0)
				set_owner(fd, getpid());
			rest(random() % 50);
			_exit(0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		rest(2);
	}
}

static void exec(void)
{
	int fd = count_text[0] == '+' ? atoi(count_text + 1) : 0;

	if (!fd) {
		fork_workers();
		fd = open_device(device);
		set_owner(fd, getpid());
	}
	char number[16];
	snprintf(number, sizeof number, "+%d", fd);
	execl("/proc/self/exe", "owners", "exec", device, number, NULL);
	fail("exec");
}

static void table(void)
{
	signal(SIGNAL, SIG_IGN);
	int null = open("/dev/null", O_RDONLY);
	for (int i = 0; i < count; i++) {
		int fd = i % 1000 == 500 ? open(device, O_RDONLY | O_NONBLOCK) : dup(null);
		if (fd < 0)
			break;
		if (i % 1000 == 500)
			set_owner(fd, getpid());
	}
	ready();
	wait_for_ever();
}

static void own(void)
{
	int fd = open_device(device);

	signal(SIGNAL, nothing);
	set_owner(fd, getpid());
	ready();
	wait_for_ever();
}

static void stopped(void)
{
	char line[4096];

	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			int fd = open(device, O_RDONLY);
			if (fd < 0)
				_exit(1);
			signal(SIGNAL, nothing);
			fcntl(fd, F_SETSIG, SIGNAL);
			fcntl(fd, F_SETOWN, getpid());
			if (i % 2)
				raise(SIGSTOP);
			for (;;)
				if (read(fd, line, sizeof line) < 0 && errno != EINTR)
					_exit(1);
		}
		if (i % 4 == 0)
			kill(pid, SIGSTOP);
	}
	ready();
	wait_for_ever();
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "group", group }, { "threads", threads }, { "sockets", sockets }, { "random", random_owners }, { "async", async },
	{ "forks", forks }, { "exec", exec }, { "table", table }, { "own", own }, { "stopped", stopped },
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	device = argv[2];
	count_text = argv[3];
	count = atoi(count_text);
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (!strcmp(modes[i].name, argv[1]))
			modes[i].run();
	return 2;
}
