/* Holds a cache of MIB, listens, and at each notice gives STEP_KIB of it back after REACT_MS, until nothing is left.
 * With REFILL in its environment it takes STEP_KIB back whenever it has not been told for a second, up to REFILL MiB.
 * With MIB 0 it only listens. Says "ready", "notice ...", "freed KIB"; ends on SIGTERM.
 *
 *   hold MIB STEP_KIB REACT_MS device PATH                   poll() on the device, and read the record
 *   hold MIB STEP_KIB REACT_MS psi PATH "some 150000 2000000"   a PSI trigger
 *   hold MIB STEP_KIB REACT_MS vmpressure DIR low            cgroup v1 memory.pressure_level
 *   hold MIB STEP_KIB REACT_MS percent 10                    available memory and free swap both at or below
 *                                                            10 %, looked at ten times a second, as earlyoom does
 *   hold MIB STEP_KIB REACT_MS lines COMMAND WORD            each line of a command's output that has WORD in it
 *   hold MIB STEP_KIB REACT_MS none                          does not listen
 */
#include "common.h"
#include <sys/eventfd.h>

static struct pollfd source;
static FILE *command;

static int open_in(const char *directory, const char *name, int flags)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, flags);
	if (fd < 0)
		fail(path);
	return fd;
}

static void open_source(char **argv)
{
	char text[512];

	if (!strcmp(argv[0], "device")) {
		source.fd = open(argv[1], O_RDONLY | O_NONBLOCK);
		source.events = POLLIN;
		if (source.fd < 0)
			fail(argv[1]);
	} else if (!strcmp(argv[0], "psi")) {
		source.fd = open(argv[1], O_RDWR | O_NONBLOCK);
		source.events = POLLPRI;
		if (source.fd < 0 || write(source.fd, argv[2], strlen(argv[2]) + 1) < 0)
			fail(argv[1]);
	} else if (!strcmp(argv[0], "vmpressure")) {
		int level = open_in(argv[1], "memory.pressure_level", O_RDONLY);
		int control = open_in(argv[1], "cgroup.event_control", O_WRONLY);

		source.fd = eventfd(0, EFD_NONBLOCK);
		source.events = POLLIN;
		snprintf(text, sizeof(text), "%d %d %s", source.fd, level, argv[2]);
		if (write(control, text, strlen(text) + 1) < 0)
			fail("cgroup.event_control");
	} else if (!strcmp(argv[0], "lines")) {
		command = popen(argv[1], "r");
		if (!command)
			fail(argv[1]);
		source.fd = fileno(command);
		source.events = POLLIN;
		setvbuf(command, NULL, _IONBF, 0);
	} else {
		source.fd = -1;
	}
}

static uint64_t field(const char *meminfo, const char *name)
{
	const char *at = strstr(meminfo, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static int below(int meminfo, unsigned long percent)
{
	char text[4096];
	ssize_t got = pread(meminfo, text, sizeof(text) - 1, 0);

	if (got < 0)
		fail("/proc/meminfo");
	text[got] = 0;
	return field(text, "MemAvailable:") * 100 <= field(text, "MemTotal:") * percent &&
	       field(text, "SwapFree:") * 100 <= field(text, "SwapTotal:") * percent;
}

/* Sleeps until the next notice and puts what it says into `text`; 0 if there was none in time. */
static int wait_for_notice(char **argv, int meminfo, int timeout_ms, char *text, size_t size)
{
	uint64_t count;
	ssize_t got;

	text[0] = 0;
	if (meminfo >= 0) {
		do
			sleep_until_ns(now_ns() + 100000000LL);
		while (!below(meminfo, strtoul(argv[1], NULL, 10)));
		return 1;
	}
	if (poll(&source, 1, timeout_ms) < 0)
		fail("poll");
	if (!source.revents)
		return 0;
	if (source.revents & (POLLERR | POLLNVAL)) {
		say("error", argv[0]);
		pause();
	}
	if (!strcmp(argv[0], "device")) {
		got = read(source.fd, text, size - 1);
		if (got < 0 && errno != EAGAIN)
			fail("read");
		text[got > 0 ? got : 0] = 0;
		text[strcspn(text, "\n")] = 0;
	} else if (!strcmp(argv[0], "lines")) {
		if (!fgets(text, size, command))
			fail("the command has ended");
		text[strcspn(text, "\n")] = 0;
		return strstr(text, argv[2]) != NULL;
	} else if (!strcmp(argv[0], "vmpressure")) {
		got = read(source.fd, &count, sizeof(count));
	}
	return 1;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	size_t left = strtoul(argv[1], NULL, 10) * MIB, step = strtoul(argv[2], NULL, 10) * 1024;
	int refill = getenv("REFILL") != NULL;
	size_t whole = refill ? strtoul(getenv("REFILL"), NULL, 10) * MIB : left;
	int64_t react_ns = strtoll(argv[3], NULL, 10) * 1000000LL;
	char *cache = whole ? map(whole) : NULL, text[512];
	int meminfo = strcmp(argv[4], "percent") ? -1 : open("/proc/meminfo", O_RDONLY);

	if (left)
		fill(cache, left);
	open_source(argv + 4);
	say("ready", argv[4]);
	if (source.fd < 0 && meminfo < 0)
		pause();
	for (;;) {
		int told = wait_for_notice(argv + 4, meminfo, refill && left < whole ? 1000 : -1, text, sizeof(text));

		if (!told && !refill)
			continue;
		if (!told) {
			size_t back = whole - left < step ? whole - left : step;

			if (mmap(cache + left, back, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
				fail("mmap");
			fill(cache + left, back);
			left += back;
			continue;
		}
		say("notice", text);
		if (!left)
			continue;
		sleep_until_ns(now_ns() + react_ns);
		if (step > left)
			step = left;
		left -= step;
		if (munmap(cache + left, step) < 0)
			fail("munmap");
		snprintf(text, sizeof(text), "%zu", step / 1024);
		say("freed", text);
	}
}
