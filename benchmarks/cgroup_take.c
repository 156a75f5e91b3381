/* cgroup_take DIR AT_ONCE_MIB MORE_MIB MIB_PER_S: takes AT_ONCE_MIB of memory, prints "ready", waits for a line on its
 * standard input, and takes MORE_MIB more at that rate (0: as fast as it can).
 *
 * Whenever it has taken STEP of that, it looks into DIR/memory.stat. When the first page was swapped out, it prints that
 * moment: CLOCK_MONOTONIC, nanoseconds. Prints "full" in the end, and keeps the memory until its standard input ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, STEP = 32 << 10 };

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long swapped(int fd)
{
	static const char key[] = "\ntotal_swap ";
	static char text[16384];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
	char *found;

	if (length < 0)
		exit(2);
	text[length] = 0;
	found = strstr(text, key);
	return found ? atoll(found + strlen(key)) : 0;
}

/* Memory as programs have it: it does not compress to nothing. */
static void take(char *memory, size_t size, const char *noise)
{
	for (size_t at = 0; at < size; at += STEP)
		memcpy(memory + at, noise, STEP);
}

int main(int argc, char **argv)
{
	size_t at_once, more;
	double rate;
	char path[4096], line[64], *memory, *noise;
	long long begin_ns, before, ahead_ns;
	int fd, said = 0;

	if (argc != 5)
		return 2;
	at_once = strtoul(argv[2], NULL, 10) * MIB;
	more = strtoul(argv[3], NULL, 10) * MIB;
	rate = atof(argv[4]) * MIB;
	snprintf(path, sizeof(path), "%s/memory.stat", argv[1]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	memory = mmap(NULL, at_once + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	noise = malloc(STEP);
	if (fd < 0 || memory == MAP_FAILED || !noise)
		return 3;
	srandom(1);
	for (size_t at = 0; at < STEP; at++)
		noise[at] = at & 2048 ? 0 : (char)random();
	take(memory, at_once, noise);
	puts("ready");
	fflush(stdout);
	if (read(0, line, sizeof(line)) <= 0)
		return 0;
	before = swapped(fd);
	begin_ns = now_ns();
	for (size_t at = 0; at < more; at += STEP) {
		take(memory + at_once + at, STEP, noise);
		if (!said && swapped(fd) > before) {
			printf("%lld\n", now_ns());
			fflush(stdout);
			said = 1;
		}
		ahead_ns = rate > 0 ? begin_ns + (long long)((double)(at + STEP) / rate * 1e9) - now_ns() : 0;
		if (ahead_ns > 0)
			usleep((useconds_t)(ahead_ns / 1000));
	}
	puts("full");
	fflush(stdout);
	while (read(0, line, sizeof(line)) > 0)
		;
	return 0;
}
