/* silent MODE DEVICE FILE FUSE_FD: SIGIO owners whose descriptors, memory or exec wait for ever on a silent FUSE server
 * of their own. A new one joins every 300 ms, so that it does not help to be done with one.
 *   sigwait  waits in rt_sigtimedwait with its set in a page that is no longer there
 *   exec     hangs in the exec, which closes a close-on-exec file
 *   swap     exchanges a descriptor of the device with one of the silent file
 *   cmdline  has its arguments and environment in a page that is no longer there
 *   held     has descriptors of the silent file between those of the device
 */
#include "silent.h"
#include <pthread.h>
#include <sys/syscall.h>

enum { OWNERS = 24, EVERY_MS = 300, SLOTS = 8 };

static const char *device, *path;
static char *self;
static int connection;

static char *map_page(int fd, void *at)
{
	struct stat found;

	/* Asks for the size, without which there is nothing to fault in. */
	if (fstat(fd, &found))
		fail("fstat");
	char *page = mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | (at ? MAP_FIXED : 0), fd, 0);

	if (page == MAP_FAILED)
		fail("mmap");
	return page;
}

static void take_away(void)
{
	silent->opcode = FUSE_READ;
	silent_invalidate(connection);
}

static char *page_of_set;

static int first_thread_waits(void)
{
	char name[64], text[256] = "";

	snprintf(name, sizeof name, "/proc/self/task/%d/syscall", getpid());
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t length = read(fd, text, sizeof text - 1);
	close(fd);
	return length > 0 && atoi(text) == SYS_rt_sigtimedwait;
}

static void *lose_set(void *unused)
{
	while (!first_thread_waits())
		rest(1);
	take_away();
	set_owner(open_device(device), getpid());
	wait_for_ever();
	return unused;
}

static void sigwait_owner(void)
{
	pthread_t thread;
	sigset_t set;

	page_of_set = map_page(open(path, O_RDWR), NULL);
	/* The zeroes of the file are a set without a signal: only who reads it knows that the signal would kill. */
	if (*(volatile char *)page_of_set)
		fail("page");
	/* Blocked in the other thread: the first one alone could take it. */
	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pthread_create(&thread, NULL, lose_set, NULL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	syscall(SYS_rt_sigtimedwait, page_of_set, NULL, NULL, 8);
	fail("sigtimedwait");
}

static void exec_owner(void)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), notify = open_device(device);

	if (fd < 0)
		fail("open silent");
	set_owner(notify, getpid());
	silent->opcode = FUSE_FLUSH;
	execl(self, self, "asleep", NULL);
	fail("exec");
}

static void swap_owner(void)
{
	int slots[SLOTS];

	for (int i = 0; i < SLOTS; i++)
		slots[i] = open("/dev/null", O_RDONLY);
	int file = open(path, O_RDONLY), notify = open_device(device);
	/* Above the slots, so that a search comes to those first. */
	int high = fcntl(notify, F_DUPFD, 1000);
	close(notify);
	if (file < 0 || high < 0)
		fail("descriptors");
	set_owner(high, getpid());
	signal(SIGNAL, nothing);
	silent->opcode = FUSE_FLUSH;
	for (;;)
		for (int i = 0; i < SLOTS; i++) {
			dup2(high, slots[i]);
			dup2(file, slots[i]);
		}
}

static char **arguments;

static void *lose_arguments(void *unused)
{
	(void)unused;
	int fd = open(path, O_RDWR), notify = open_device(device);
	/* The page may be that of the main thread's frames, which therefore never returns from its join. */
	map_page(fd, (char *)((unsigned long)arguments[0] & ~4095UL));
	set_owner(notify, getpid());
	take_away();
	wait_for_ever();
	return NULL;
}

static void cmdline_owner(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, lose_arguments, NULL);
	pthread_join(thread, NULL);
}

static void held_owner(void)
{
	int notify = open_device(device);

	set_owner(notify, getpid());
	signal(SIGNAL, nothing);
	for (int i = 0; i < 200; i++)
		if (open(path, O_RDONLY) < 0 || dup(notify) < 0)
			fail("open");
	silent->opcode = FUSE_FLUSH;
	wait_for_ever();
}

struct mode {
	const char *name;
	void (*own)(void);
	int owners, to_strangers;
};

static const struct mode modes[] = {
	{ "sigwait", sigwait_owner, OWNERS, 1 }, { "exec", exec_owner, OWNERS, 0 }, { "swap", swap_owner, 3, 1 },
	{ "cmdline", cmdline_owner, OWNERS, 1 }, { "held", held_owner, OWNERS, 1 },
};

int main(int argc, char **argv)
{
	if (argc == 2)
		wait_for_ever();
	const struct mode *mode = modes;
	while (strcmp(mode->name, argv[1]))
		mode++;
	arguments = argv;
	device = argv[2];
	path = argv[3];
	self = realpath("/proc/self/exe", NULL);
	connection = atoi(argv[4]);
	silent_start(connection);
	silent->to_strangers = mode->to_strangers;
	for (int i = 0; i < mode->owners; i++) {
		if (fork() == 0)
			mode->own();
		if (i == 2)
			ready();
		/* An exec that hangs was open before: the next owner opens the silent file as well. */
		rest(EVERY_MS);
	}
	wait_for_ever();
}
