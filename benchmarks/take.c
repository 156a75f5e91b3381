/* Takes memory, MIB at RATE MiB/s (0: as fast as it can), and gives it back at once. Prints for each 16 MiB when it had
 * them and how much that makes, once it is done: CLOCK_MONOTONIC nanoseconds, MiB.
 *
 *   take MIB RATE small|huge     with pages of 4 KiB, or of 2 MiB where the kernel gives those
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MIB (1UL << 20)
#define CHUNK (16 * MIB)
#define HUGE (2 * MIB)
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

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t bytes = strtoul(argv[1], NULL, 10) * MIB / CHUNK * CHUNK, rate = strtoul(argv[2], NULL, 10);
	long long *times_ns = calloc(bytes / CHUNK + 1, sizeof(*times_ns)), begin_ns;
	char *memory = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED || !times_ns) {
		perror("take");
		return 2;
	}
	memory += HUGE - (size_t)memory % HUGE;
	madvise(memory, bytes, strcmp(argv[3], "huge") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	begin_ns = now_ns();
	for (size_t at = 0; at < bytes; at += MIB) {
		for (size_t page = 0; page < MIB; page += PAGE)
			((volatile char *)memory)[at + page] = 1;
		if ((at + MIB) % CHUNK == 0)
			times_ns[at / CHUNK] = now_ns();
		if (rate)
			sleep_until_ns(begin_ns + (long long)((at + MIB) / MIB * 1000000000ULL / rate));
	}
	munmap(memory, bytes);
	for (size_t chunk = 0; chunk < bytes / CHUNK; chunk++)
		printf("%lld %zu\n", times_ns[chunk], (chunk + 1) * (CHUNK / MIB));
	return 0;
}
