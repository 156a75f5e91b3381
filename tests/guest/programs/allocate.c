/* Takes memory, MIB at RATE MiB/s (0: as fast as it can), holds it for two seconds, and ends with 0. With NODE in its
 * environment, from that NUMA node alone.
 *
 *   allocate cold  MIB RATE          touches each page once
 *   allocate hot   MIB RATE          touches its first half again and again
 *   allocate mixed MIB RATE FILE     reads 4 MiB of FILE for each MiB it takes
 *   allocate churn MIB RATE SECONDS  as cold, gives all of it back, and begins anew, for so long
 */
#include "common.h"
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#define HOT_EVERY 8

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
	int hot = !strcmp(argv[1], "hot"), fd = argc > 4 ? open(argv[4], O_RDONLY) : -1;
	char *memory = map(mib * MIB), *buffer = map(MIB), done[32];
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
	for (size_t i = 0; i < mib; i++) {
		fill(memory + i * MIB, MIB);
		if (hot && i % HOT_EVERY == HOT_EVERY - 1)
			retouch(memory, i * MIB / 2);
		if (fd >= 0)
			for (int part = 0; part < 4; part++)
				read_on(fd, buffer);
		snprintf(done, sizeof(done), "%zu", i + 1);
		say("taken", done);
		/* Time lost in a stall is not made up for: nobody can take memory faster because it was short before. */
		next_ns += rate ? 1000000000LL / (int64_t)rate : 0;
		if (next_ns < now_ns())
			next_ns = now_ns();
		else
			sleep_until_ns(next_ns);
	}
	say("got", "all");
	sleep_until_ns(now_ns() + 2000000000LL);
	return 0;
}
