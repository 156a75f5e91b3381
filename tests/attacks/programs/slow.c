/* slow MODE DEVICE FILE FUSE_FD COUNT: COUNT processes, SIGIO owners all of them, that take their time, but always less
 * than a helper has for a client: nobody is to be left out for it, and nobody else is to wait for it. FILE is on a FUSE
 * server of their own, which answers late.
 *   exec   exec without end, closing a close-on-exec file of FILE's each time; the kernel lets nobody look meanwhile
 *   swap   share a table in which descriptors of the device and of FILE are exchanged without end
 *   epoll  wait in an epoll that asks FILE, under the lock that a look at its descriptor takes
 *   wide   have as many descriptors as they may
 *   long   have descriptors of an epoll of thousands of files, of which a look at each tells
 */
#include "silent.h"
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum { FILES = 8, SLOTS = 60, FIRST_OWN = 1000, STACK_BYTES = 65536, LONG_ITEMS = 5000, LONG_DUPS = 900, PAUSE_MS = 3 };
enum { LEAST_MS = 80, MOST_MS = 130, LEAST_POLL_MS = 40, MOST_POLL_MS = 60 };

static const char *device, *path;
static int count;

static int raise_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur;
}

static void own_files(int files, int first)
{
	signal(SIGNAL, SIG_IGN);
	for (int i = 0; i < files; i++) {
		int fd = open(device, O_RDONLY | O_NONBLOCK);
		if (fd < 0)
			return;
		int high = first ? fcntl(fd, F_DUPFD, first) : fd;
		if (first)
			close(fd);
		set_owner(high, getpid());
	}
}

static void exec_again(const char *file)
{
	if (open(file, O_RDONLY | O_CLOEXEC) < 0)
		fail("open slow");
	execl("/proc/self/exe", "slow", file, NULL);
	fail("exec");
}

static void exec_owner(void)
{
	own_files(FILES, 0);
	exec_again(path);
}

static int sleeper(void *unused)
{
	(void)unused;
	own_files(FILES, FIRST_OWN);
	wait_for_ever();
	return 0;
}

static void swap(void)
{
	int slots[SLOTS];

	for (int i = 0; i < SLOTS; i++)
		slots[i] = open("/dev/null", O_RDONLY);
	raise_limit();
	int file = open(path, O_RDONLY), notify = open_device(device);
	if (file < 0)
		fail("open slow");
	for (int i = 0; i < count; i++)
		if (clone(sleeper, (char *)malloc(STACK_BYTES) + STACK_BYTES, CLONE_FILES | SIGCHLD, NULL) < 0)
			break;
	ready();
	/* Some of the time only: who uses up the processors is another attack. */
	for (;; rest(PAUSE_MS))
		for (int i = 0; i < SLOTS; i++) {
			dup2(notify, slots[i]);
			dup2(file, slots[i]);
		}
}

static void epoll_owner(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int set = epoll_create1(0), file = open(path, O_RDONLY);

	if (file < 0 || dup(set) < 0)
		fail("descriptors");
	own_files(FILES, 0);
	if (epoll_ctl(set, EPOLL_CTL_ADD, file, &event))
		fail("epoll_ctl");
	for (;;)
		epoll_wait(set, &event, 1, -1);
}

static void wide_owner(void)
{
	int null = open("/dev/null", O_RDONLY);

	for (int left = raise_limit() - FILES - null - 1; left > 0; left--)
		dup(null);
	own_files(FILES, 0);
	wait_for_ever();
}

static void long_owner(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int set = epoll_create1(0), pair[2];

	raise_limit();
	for (int i = 0; i < LONG_DUPS; i++)
		dup(set);
	if (pipe(pair))
		fail("pipe");
	for (int i = 0; i < LONG_ITEMS; i++) {
		int fd = dup(pair[0]);
		if (fd < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event))
			break;
	}
	own_files(FILES, 0);
	wait_for_ever();
}

struct mode {
	const char *name;
	void (*own)(void);
	unsigned opcode, to_strangers, least_ms, most_ms;
};

static const struct mode modes[] = {
	{ "exec", exec_owner, FUSE_FLUSH, 0, LEAST_MS, MOST_MS },
	{ "swap", swap, FUSE_FLUSH, 1, LEAST_MS, MOST_MS },
	{ "epoll", epoll_owner, FUSE_POLL, 0, LEAST_POLL_MS, MOST_POLL_MS },
	{ "wide", wide_owner, 0, 0, 0, 0 },
	{ "long", long_owner, 0, 0, 0, 0 },
};

int main(int argc, char **argv)
{
	if (argc == 2)
		exec_again(argv[1]);
	const struct mode *mode = modes;
	while (strcmp(mode->name, argv[1]))
		mode++;
	device = argv[2];
	path = argv[3];
	count = atoi(argv[5]);
	silent_start(atoi(argv[4]));
	silent->to_strangers = mode->to_strangers;
	silent->least_ms = mode->least_ms;
	silent->most_ms = mode->most_ms;
	silent->opcode = mode->opcode;
	if (mode->own == swap)
		swap();
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			break;
		if (pid == 0)
			mode->own();
	}
	ready();
	wait_for_ever();
}
