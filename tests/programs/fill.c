/* fill cold|hot|shared AT_ONCE_MIB SLOW_MIB MIB_PER_S: takes AT_ONCE_MIB of memory as fast as it can, then SLOW_MIB more
 * at MIB_PER_S (0: as fast as it can).
 *
 * cold: each page is written once; hot: all pages are written again after each MiB; shared: the memory is shared.
 * Prints "begun" with the first part in hand, and "full" with all of it; keeps it until its standard input ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, PAGE = 4096 };

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void take(char *memory, long from, long to, double rate, int hot)
{
	double begin_s = now_s(), ahead_s;

	for (long i = from; i < to; i++) {
		memset(memory + i * MIB, (int)(1 + i % 100), MIB);
		for (long at = 0; hot && at < (i + 1) * MIB; at += PAGE)
			memory[at]++;
		ahead_s = rate > 0 ? begin_s + (double)(i + 1 - from) / rate - now_s() : 0;
		if (ahead_s > 0)
			usleep((useconds_t)(ahead_s * 1e6));
	}
}

int main(int argc, char **argv)
{
	long at_once, slow;
	int kind;
	char *memory, line[64];

	if (argc != 5)
		return 2;
	at_once = atol(argv[2]);
	slow = atol(argv[3]);
	kind = strcmp(argv[1], "shared") ? MAP_PRIVATE : MAP_SHARED;
	memory = mmap(NULL, (size_t)(at_once + slow) * MIB, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 3;
	take(memory, 0, at_once, 0, 0);
	puts("begun");
	fflush(stdout);
	take(memory, at_once, at_once + slow, atof(argv[4]), !strcmp(argv[1], "hot"));
	puts("full");
	fflush(stdout);
	while (read(0, line, sizeof(line)) > 0)
		;
	return 0;
}
