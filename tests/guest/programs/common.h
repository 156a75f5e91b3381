/* What the programs of the experiments share: the clock, lines on standard output, memory that does not compress. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL

static inline int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static inline void sleep_until_ns(int64_t when_ns)
{
	struct timespec when = { when_ns / 1000000000LL, when_ns % 1000000000LL };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
		;
}

static inline void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* A line at once: who is killed a moment later has said it. */
static inline void say(const char *word, const char *rest)
{
	char line[1024];
	int length = snprintf(line, sizeof(line), "%" PRId64 " %s%s%s\n", now_ns(), word, *rest ? " " : "", rest);

	if (length > (int)sizeof(line) - 1)
		length = sizeof(line) - 1;
	if (write(STDOUT_FILENO, line, length) < 0)
		exit(1);
}

/* Noise: zram has to store it whole, so that swap in memory gains nothing. */
static inline void fill(char *memory, size_t bytes)
{
	static uint64_t state = 0x9e3779b97f4a7c15ULL;
	uint64_t *word = (uint64_t *)memory;

	state ^= (uint64_t)getpid() << 32;
	for (size_t i = 0; i < bytes / sizeof(*word); i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		word[i] = state;
	}
}

static inline char *map(size_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	/* Page by page, as most programs get theirs. */
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

static inline char *map_shared(size_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory;
}
