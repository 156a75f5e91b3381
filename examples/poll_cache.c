/* A program with a cache that it gives back when memory gets tight: level-triggered epoll(7) on /dev/mem_notify.
 *
 * poll(2) would do as well, but for one thing: a program in poll can keep the machine from going to sleep
 * (docs/reliability.md).
 *
 * Compile:  cc -std=c11 -O2 -Wall -Wextra -Werror -o poll_cache poll_cache.c
 * Run:      ./poll_cache [DEVICE [COUNT]]      DEVICE: default /dev/mem_notify; COUNT: end after so many
 *                                              notifications, default 0: never
 * Try it:   sudo memnotify simulate --for 2
 *
 * Prints one line per notification: how much was freed, and the record that asked for it.
 * Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications; 1 when the device fails; 2 for wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCK_KB = 256, BLOCKS = 256, REFILL_MS = 1000 };

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

/* The cache: a ring of blocks, the oldest at `first`. */
struct cache {
	void *block[BLOCKS];
	unsigned first, used;
};

static void cache_add(struct cache *cache)
{
	/* mmap and not malloc: free() may keep the pages for the program, munmap() gives them back at once. */
	void *block;

	if (cache->used == BLOCKS)
		return;
	block = mmap(NULL, BLOCK_KB * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (block == MAP_FAILED)
		return;
	memset(block, 0x5a, BLOCK_KB * 1024);
	cache->block[(cache->first + cache->used++) % BLOCKS] = block;
}

/* Free the oldest blocks until `target_kb` are free, but at least one; return how much that was. */
static unsigned long cache_free(struct cache *cache, unsigned long target_kb)
{
	unsigned long freed_kb = 0;

	while (cache->used && (freed_kb == 0 || freed_kb < target_kb)) {
		munmap(cache->block[cache->first], BLOCK_KB * 1024);
		cache->first = (cache->first + 1) % BLOCKS;
		cache->used--;
		freed_kb += BLOCK_KB;
	}
	return freed_kb;
}

static void told(struct cache *cache, const char *record)
{
	const char *key = strstr(record, " reclaim_target_kb=");
	unsigned long target_kb = key ? strtoul(strchr(key, '=') + 1, NULL, 10) : 0;
	unsigned long freed_kb = cache_free(cache, target_kb);

	printf("freed %lu KiB, kept %lu KiB: %s\n", freed_kb, (unsigned long)cache->used * BLOCK_KB, record);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *device = argc > 1 ? argv[1] : "/dev/mem_notify";
	long count = argc > 2 ? atol(argv[2]) : 0, notifications = 0;
	struct sigaction action = { .sa_handler = on_signal };
	static struct cache cache;
	static char line[4096];
	size_t length = 0;
	sigset_t blocked, unblocked;
	struct epoll_event event = { .events = EPOLLIN };
	int fd, set;

	if (argc > 3 || count < 0) {
		fprintf(stderr, "usage: %s [DEVICE [COUNT]]\n", argv[0]);
		return 2;
	}
	/* The signals are open only inside epoll_pwait(), so that none can slip in between the test and the wait. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);

	fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	set = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0 || set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0) {
		fprintf(stderr, "%s: cannot watch %s: %s\n", argv[0], device, strerror(errno));
		return 1;
	}
	while (cache.used < BLOCKS)
		cache_add(&cache);
	fprintf(stderr, "watching %s with a cache of %d KiB\n", device, BLOCKS * BLOCK_KB);

	while (!stopped) {
		int ready = epoll_pwait(set, &event, 1, cache.used < BLOCKS ? REFILL_MS : -1, &unblocked);
		char *end, *start = line;
		ssize_t got;

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready == 0) {
			cache_add(&cache);
			continue;
		}
		got = ready < 0 ? -1 : read(fd, line + length, sizeof(line) - 1 - length);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0) {
			fprintf(stderr, "%s: %s: %s\n", argv[0], device, got ? strerror(errno) : "end of file");
			return 1;
		}
		/* A byte stream: what was read may be part of a record, or several. */
		length += (size_t)got;
		line[length] = '\0';
		while ((end = strchr(start, '\n'))) {
			*end = '\0';
			told(&cache, start);
			if (++notifications == count)
				return 0;
			start = end + 1;
		}
		length -= (size_t)(start - line);
		memmove(line, start, length);
		if (length == sizeof(line) - 1) {
			fprintf(stderr, "%s: %s does not send records\n", argv[0], device);
			return 1;
		}
	}
	return 0;
}
