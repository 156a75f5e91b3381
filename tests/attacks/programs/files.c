/* files MODE PATH COUNT: users of many files, and users in a hurry. PATH is the device, or a file of the mount.
 *   asleep     COUNT files, poll() asleep on all of them
 *   idle       COUNT files, open and no more
 *   hold       as many opens as COUNT, in processes of a full table each, held; prints "held N refused M"
 *   statx      COUNT threads that ask for attributes, with AT_STATX_FORCE_SYNC, without end
 *   opens      open and close without end
 *   ask        poll with a time-out of 0 without end
 *   texts      open, read and close without end
 *   interrupts COUNT readers that block and are interrupted by a timer
 *   epoll      EPOLL_CTL_ADD and DEL without end
 *   passing    descriptors sent through sockets without end
 *   writes     writes to `simulate`, and opens for writing, without end: refused
 *   lookups    names that do not exist, without end
 *   slow       COUNT readers of one byte at a time
 *   selects    COUNT processes in poll with a time-out of a millisecond
 */
#include "attack.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

enum { STACK_BYTES = 65536, SPARE_DESCRIPTORS = 64 };

static const char *path;
static int count;

static int open_many(int wanted, int *fds, int *refused)
{
	int held = 0;

	for (int i = 0; i < wanted; i++) {
		int fd = open(path, O_RDONLY | O_NONBLOCK);
		if (fd < 0)
			++*refused;
		else
			fds[held++] = fd;
	}
	return held;
}

static void asleep(void)
{
	int refused = 0, *fds = calloc(count, sizeof *fds);
	struct pollfd *waits = calloc(count, sizeof *waits);
	char line[4096];
	int held = open_many(count, fds, &refused);

	for (int i = 0; i < held; i++)
		waits[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	ready();
	for (;;) {
		poll(waits, held, -1);
		for (int i = 0; i < held; i++)
			if (waits[i].revents & POLLIN && read(fds[i], line, sizeof line) < 0 && errno != EAGAIN)
				fail("read");
	}
}

static void idle(void)
{
	int refused = 0, *fds = calloc(count, sizeof *fds);

	open_many(count, fds, &refused);
	ready();
	wait_for_ever();
}

static void hold(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	int share = limit.rlim_cur - SPARE_DESCRIPTORS;
	int said = 0;
	for (int left = count; left > 0; left -= share)
		if (fork() == 0) {
			int refused = 0, wanted = left < share ? left : share, *fds = calloc(wanted, sizeof *fds);
			int held = open_many(wanted, fds, &refused);
			printf("held %d refused %d\n", held, refused);
			fflush(stdout);
			wait_for_ever();
		} else if (!said++)
			ready();
	wait_for_ever();
}

static void *ask_attributes(void *unused)
{
	struct statx found;

	for (;;)
		statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found);
	return unused;
}

static void statx_threads(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	for (int i = 1; i < count && !pthread_create(&thread, &attributes, ask_attributes, NULL); i++)
		;
	ready();
	ask_attributes(NULL);
}

static void opens(void)
{
	fork_workers();
	for (;;) {
		int fd = open(path, O_RDONLY | O_NONBLOCK);
		if (fd >= 0)
			close(fd);
	}
}

static void ask(void)
{
	struct pollfd wait = { .events = POLLIN };

	fork_workers();
	wait.fd = open_device(path);
	for (;;)
		poll(&wait, 1, 0);
}

static void texts(void)
{
	char text[65536];

	fork_workers();
	for (;;) {
		int fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		while (read(fd, text, sizeof text) > 0)
			;
		close(fd);
	}
}

static void interrupts(void)
{
	struct sigaction action = { .sa_handler = nothing };
	struct itimerval timer = { { 0, 500000 }, { 0, 500000 } };
	char line[4096];

	sigaction(SIGALRM, &action, NULL);
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			int fd = open(path, O_RDONLY);
			if (fd < 0)
				_exit(1);
			setitimer(ITIMER_REAL, &timer, NULL);
			for (;;)
				if (read(fd, line, sizeof line) < 0 && errno != EINTR && errno != EAGAIN)
					_exit(1);
		}
	}
	ready();
	wait_for_ever();
}

static void epoll(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };

	fork_workers();
	int fd = open_device(path), set = epoll_create1(0);
	for (;;) {
		epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
		epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
	}
}

static int take(int socket)
{
	int fd = -1;
	char byte, control[CMSG_SPACE(sizeof fd)];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof control };

	if (recvmsg(socket, &message, 0) > 0 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

/* Eight files with the sender as owner go round between two processes that keep none for longer than a moment. */
static void passing(void)
{
	int pair[2];

	signal(SIGNAL, SIG_IGN);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fail("socketpair");
	int mine = fork() == 0;
	if (mine)
		for (int i = 0; i < 8; i++) {
			int fd = open_device(path);
			set_owner(fd, getpid());
			send_descriptor(pair[1], fd, 0);
			close(fd);
		}
	else
		ready();
	for (;;) {
		int fd = take(pair[mine]);
		if (fd >= 0) {
			send_descriptor(pair[mine], fd, 0);
			close(fd);
		}
	}
}

static void writes(void)
{
	fork_workers();
	for (;;) {
		int fd = open(path, O_WRONLY);
		if (fd < 0)
			continue;
		if (write(fd, "all 1\n", 6) == 6)
			printf("hit: simulated\n");
		close(fd);
	}
}

static void lookups(void)
{
	char name[512];
	struct stat found;

	fork_workers();
	for (unsigned i = 0;; i++) {
		snprintf(name, sizeof name, "%s/%d-%u", path, getpid(), i);
		stat(name, &found);
	}
}

static void slow(void)
{
	char byte;

	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			int fd = open(path, O_RDONLY);
			while (fd >= 0 && (read(fd, &byte, 1) >= 0 || errno == EAGAIN))
				;
			_exit(1);
		}
	}
	ready();
	wait_for_ever();
}

static void selects(void)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			struct pollfd wait = { .fd = open(path, O_RDONLY | O_NONBLOCK), .events = POLLIN };
			for (;;)
				poll(&wait, 1, 1);
		}
	}
	ready();
	wait_for_ever();
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "asleep", asleep }, { "idle", idle }, { "hold", hold }, { "statx", statx_threads }, { "opens", opens },
	{ "ask", ask }, { "texts", texts }, { "interrupts", interrupts }, { "epoll", epoll }, { "passing", passing },
	{ "writes", writes }, { "lookups", lookups }, { "slow", slow }, { "selects", selects },
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	path = argv[2];
	count = atoi(argv[3]);
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
		if (!strcmp(modes[i].name, argv[1]))
			modes[i].run();
	return 2;
}
