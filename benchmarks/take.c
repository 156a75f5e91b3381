/* Takes memory, MIB at RATE MiB/s (0: as fast as it can) with PROCESSES processes, which share the work, and gives it
 * back at once. Prints when it had all of it and how much that was: CLOCK_MONOTONIC nanoseconds, MiB.
 *
 *   take MIB RATE PROCESSES
 */
#define _GNU_SOURCE
#include "../tests/guest/programs/common.h"
#include <sys/wait.h>

static void take(char *memory, size_t mib, size_t rate)
{
	int64_t begin_ns = now_ns();

	for (size_t i = 0; i < mib; i++) {
		for (size_t page = 0; page < MIB; page += PAGE)
			((volatile char *)memory)[i * MIB + page] = 1;
		if (rate)
			sleep_until_ns(begin_ns + (int64_t)((i + 1) * 1000000000ULL / rate));
	}
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t processes = strtoul(argv[3], NULL, 10), rate = strtoul(argv[2], NULL, 10) / processes;
	size_t share = strtoul(argv[1], NULL, 10) / processes;
	char *memory = map(share * MIB), byte;
	int together[2];

	if (pipe(together) < 0)
		fail("pipe");
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
	printf("%" PRId64 " %zu\n", now_ns(), processes * share);
	while (wait(NULL) > 0)
		;
	return 0;
}
