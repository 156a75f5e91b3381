/* What every operation has: random numbers, a pool of descriptors, the paths of the mount, memory to read into. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define POOL 32
#define BUFFER_BYTES (1 << 20)
#define MAX_PATHS 32
#define TICK_US 20000 /* a call that blocks is ended by SIGALRM after so long */
#define MAX_DEPTH 2   /* of children that make children */

enum kind { NONE, OF_MOUNT, PIPE, OTHER };

struct descriptor {
	int fd;
	enum kind kind;
};

static struct descriptor pool[POOL];
static char mount_point[PATH_MAX / 2];
static char paths[MAX_PATHS][PATH_MAX];
static int path_count;
static unsigned char *buffer;
static unsigned char *no_access;
static uint64_t random_state;
static int depth;
static volatile sig_atomic_t signals_got;
static sigjmp_buf fault;
static volatile sig_atomic_t may_fault;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 0x2545F4914F6CDD1DULL;
}

/* 0 to limit - 1 */
static unsigned below(unsigned limit)
{
	return (unsigned)((next_random() >> 32) % limit);
}

static int one_in(unsigned number)
{
	return below(number) == 0;
}

static void seed_random(uint64_t seed)
{
	random_state = seed * 0x9E3779B97F4A7C15ULL + 0x1234567;
	if (!random_state)
		random_state = 1;
	next_random();
	next_random();
}

static const char *any_path(void)
{
	return paths[below((unsigned)path_count)];
}

/* The first path is the device; half of all opens are of it. */
static const char *likely_path(void)
{
	return one_in(2) ? paths[0] : any_path();
}

static struct descriptor *any_slot(void)
{
	return &pool[below(POOL)];
}

static void put(int fd, enum kind kind)
{
	struct descriptor *slot = any_slot();

	if (fd < 0)
		return;
	if (slot->fd >= 0)
		close(slot->fd);
	*slot = (struct descriptor){ .fd = fd, .kind = kind };
}

static int open_device(int flags)
{
	return open(one_in(4) ? any_path() : paths[0], O_RDONLY | flags);
}

/* A descriptor of the pool that is of this kind (NONE: any); opens a device where there is none. */
static int of_kind(enum kind kind)
{
	unsigned start = below(POOL);

	for (unsigned i = 0; i < POOL; i++) {
		struct descriptor *slot = &pool[(start + i) % POOL];

		if (slot->fd >= 0 && (kind == NONE || slot->kind == kind))
			return slot->fd;
	}
	put(open_device(O_NONBLOCK), OF_MOUNT);
	return one_in(2) ? -1 : 12345;
}

static int any_fd(void)
{
	return of_kind(one_in(5) ? NONE : OF_MOUNT);
}

static void *any_address(void)
{
	static char constant[] = "constant";

	switch (below(12)) {
	case 0:
		return NULL;
	case 1:
		return (void *)-1L;
	case 2:
		return (void *)0x1000;
	case 3:
		return no_access;
	case 4:
		return no_access - 1;
	case 5:
		return constant;
	default:
		return buffer + below(64);
	}
}

static size_t any_size(void)
{
	static const size_t sizes[] = { 0, 0, 1, 1, 7, 100, 4095, 4096, 4097, 65536, BUFFER_BYTES - 64, INT_MAX, SIZE_MAX };

	return sizes[below(sizeof sizes / sizeof *sizes)];
}

static off_t any_offset(void)
{
	static const off_t offsets[] = { 0, 0, 1, -1, 4096, 1L << 31, 1L << 40, LONG_MAX, LONG_MIN };

	return offsets[below(sizeof offsets / sizeof *offsets)];
}

static void nap(long microseconds)
{
	struct timespec time = { .tv_nsec = microseconds * 1000 };

	nanosleep(&time, NULL);
}

static void arm_timer(void)
{
	struct itimerval tick = { .it_interval.tv_usec = TICK_US, .it_value.tv_usec = TICK_US };

	setitimer(ITIMER_REAL, &tick, NULL);
}

static void on_signal(int number)
{
	(void)number;
	signals_got++;
}

static void on_fault(int number)
{
	if (may_fault)
		siglongjmp(fault, number);
	_exit(100 + number);
}

/* Every signal is taken and ends what blocks. Without SA_RESTART, as a client that wants to be interrupted. */
static void take_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t none;

	sigemptyset(&none);
	for (int number = 1; number <= 64; number++)
		if (number != SIGCHLD)
			sigaction(number, &action, NULL);
	action.sa_handler = on_fault;
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void list_paths(void)
{
	static const char *const fixed[] = { "mem_notify", "status", "server", "zoneinfo", "simulate", ".", "zones",
					     "zones/..",   "none",   "new",    "mem_notify/x" };
	DIR *zones;
	struct dirent *entry;

	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
		snprintf(paths[path_count++], PATH_MAX, "%s/%s", mount_point, fixed[i]);
	snprintf(paths[path_count], PATH_MAX, "%s/", mount_point);
	memset(paths[path_count] + strlen(paths[path_count]), 'x', 300);
	path_count++;
	snprintf(paths[path_count], PATH_MAX, "%s/zones", mount_point);
	zones = opendir(paths[path_count]);
	while (zones && (entry = readdir(zones)) && path_count < MAX_PATHS)
		if (entry->d_name[0] != '.')
			snprintf(paths[path_count++], PATH_MAX, "%s/zones/%.255s", mount_point, entry->d_name);
	if (zones)
		closedir(zones);
}

static void make_memory(void)
{
	buffer = mmap(NULL, BUFFER_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		_exit(2);
	no_access = buffer + BUFFER_BYTES;
	mprotect(no_access, 4096, PROT_NONE);
}
