/* Takes memory, MIB at RATE MiB/s (0: as fast as it can), holds it for two seconds, and ends with 0. With NODE in its
 * environment, from that NUMA node alone.
 *
 *   allocate cold  MIB RATE          touches each page once
 *   allocate hot   MIB RATE          touches its first half again and again
 *   allocate mixed MIB RATE FILE     reads 4 MiB of FILE for each MiB it takes
 *   allocate burst MIB RATE          as cold, but 32 MiB as fast as it can, and then nothing until RATE is kept again
 *   allocate shared MIB RATE         shared memory, which is on the anonymous lists and counted as page cache
 *   allocate locked MIB RATE         locks each MiB, so that reclaim cannot have it
 *   allocate cow MIB RATE            takes half of it, forks, and the child writes to all of that: the kernel copies it
 *   allocate pipes MIB RATE          pipes of 1 MiB each, filled: memory of the kernel's, on no list
 *   allocate churn MIB RATE SECONDS  as cold, gives all of it back, and begins anew, for so long
 */
#include "common.h"
#include <linux/mempolicy.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define HOT_EVERY 8
#define BURST 32

static void retouch(volatile char *memory, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += PAGE)
		memory[at]++;
}

static void take(char *memory, size_t mib, size_t rate)
{
	int64_t next_ns = now_ns();

	for (size_t i = 0; i < mib; i++) {
		fill(memory + i * MIB, MIB);
		next_ns += 1000000000LL / (int64_t)rate;
		if (next_ns < now_ns())
			next_ns = now_ns();
		else
			sleep_until_ns(next_ns);
	}
}

static int churn(size_t mib, size_t rate, int64_t seconds)
{
	int64_t end_ns = now_ns() + seconds * 1000000000LL;

	while (now_ns() < end_ns) {
		char *memory = map(mib * MIB);

		take(memory, mib, rate);
		say("taken", "all");
		munmap(memory, mib * MIB);
		sleep_until_ns(now_ns() + 2000000000LL);
	}
	say("got", "all");
	return 0;
}

static void raise_open_files(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* One MiB more in a pipe that stays open; what is written to it is not on any list of the kernel's. */
static void fill_pipe(char *buffer)
{
	int ends[2];

	if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, MIB) < 0)
		fail("pipe");
	fill(buffer, MIB);
	for (size_t at = 0; at < MIB;) {
		ssize_t put = write(ends[1], buffer + at, MIB - at);

		if (put < 0)
			fail("write");
		at += put;
	}
	close(ends[1]);
}

/* The step of a copy: the first half is the parent's, in the second half its child writes to all of that. */
static char *copied(char *memory, size_t i, size_t half)
{
	static pid_t child;

	if (i < half)
		return memory + i * MIB;
	if (!child) {
		int status;

		child = fork();
		if (child < 0)
			fail("fork");
		if (child > 0) {
			/* A parent whose child was killed has not got what it wanted. */
			waitpid(child, &status, 0);
			_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		}
		child = getpid();
	}
	return memory + (i - half) * MIB;
}

static void read_on(int fd, char *buffer)
{
	ssize_t got = read(fd, buffer, MIB);

	if (got < 0)
		fail("read");
	if (got == 0 && lseek(fd, 0, SEEK_SET) < 0)
		fail("lseek");
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t mib = strtoul(argv[2], NULL, 10), rate = strtoul(argv[3], NULL, 10);

	if (!strcmp(argv[1], "churn"))
		return argc < 5 || !rate ? 2 : churn(mib, rate, strtoll(argv[4], NULL, 10));
	int hot = !strcmp(argv[1], "hot"), burst = !strcmp(argv[1], "burst"), locked = !strcmp(argv[1], "locked");
	int cow = !strcmp(argv[1], "cow"), pipes = !strcmp(argv[1], "pipes"), fd = argc > 4 ? open(argv[4], O_RDONLY) : -1;
	char *memory = !strcmp(argv[1], "shared") ? map_shared(mib * MIB) : map(mib * MIB), *buffer = map(MIB), done[32];
	int64_t next_ns;

	if (getenv("NODE")) {
		unsigned long nodes = 1UL << strtoul(getenv("NODE"), NULL, 10);

		if (syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof(nodes)) < 0)
			fail("set_mempolicy");
	}
	if (argc > 4 && fd < 0)
		fail(argv[4]);
	say("begin", argv[1]);
	next_ns = now_ns();
	if (pipes)
		raise_open_files();
	for (size_t i = 0; i < mib; i++) {
		char *at = cow ? copied(memory, i, mib / 2) : memory + i * MIB;

		if (pipes)
			fill_pipe(buffer);
		else
			fill(at, MIB);
		if (locked && mlock(at, MIB))
			fail("mlock");
		if (hot && i % HOT_EVERY == HOT_EVERY - 1)
			retouch(memory, i * MIB / 2);
		if (fd >= 0)
			for (int part = 0; part < 4; part++)
				read_on(fd, buffer);
		snprintf(done, sizeof(done), "%zu", i + 1);
		say("taken", done);
		/* Time lost in a stall is not made up for: nobody can take memory faster because it was short before. */
		next_ns += rate ? 1000000000LL / (int64_t)rate : 0;
		if (burst && i % BURST != BURST - 1)
			continue;
		if (next_ns < now_ns())
			next_ns = now_ns();
		else
			sleep_until_ns(next_ns);
	}
	say("got", "all");
	sleep_until_ns(now_ns() + 2000000000LL);
	return 0;
}
