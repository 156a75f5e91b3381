/* Takes memory, MIB at RATE MiB/s (0: as fast as it can) with PROCESSES processes, which share the work, and gives it
 * back at once. Prints when it had all of it and how much that was: CLOCK_MONOTONIC nanoseconds, MiB.
 *
 *   take MIB RATE PROCESSES
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void sleep_until_ns(long long when_ns)
{
	struct timespec when = { when_ns / 1000000000LL, when_ns % 1000000000LL };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
		;
}

/* Page by page, as most programs get theirs. */
static void take(char *memory, size_t mib, size_t rate)
{
	long long begin_ns = now_ns();

	for (size_t i = 0; i < mib; i++) {
		for (size_t page = 0; page < MIB; page += PAGE)
			((volatile char *)memory)[i * MIB + page] = 1;
		if (rate)
			sleep_until_ns(begin_ns + (long long)((i + 1) * 1000000000ULL / rate));
	}
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t processes = strtoul(argv[3], NULL, 10), rate = strtoul(argv[2], NULL, 10) / processes;
	size_t share = strtoul(argv[1], NULL, 10) / processes;
	char *memory = mmap(NULL, share * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int together[2];
	char byte;

	if (memory == MAP_FAILED || pipe(together) < 0) {
		perror("take");
		return 2;
	}
	madvise(memory, share * MIB, MADV_NOHUGEPAGE);
	for (size_t i = 1; i < processes; i++)
		if (fork() == 0) {
			take(memory, share, rate);
			close(together[1]);
			/* Nobody gives anything back before all have theirs. */
			return read(together[0], &byte, 1) < 0;
		}
	take(memory, share, rate);
	close(together[1]);
	/* The end of the pipe comes when all of them have closed it. */
	if (read(together[0], &byte, 1) < 0)
		return 2;
	printf("%lld %zu\n", now_ns(), processes * share);
	while (wait(NULL) > 0)
		;
	return 0;
}
