/* Waits for memory notifications in one of several ways, and prints when each came: CLOCK_MONOTONIC, nanoseconds.
 *
 *   listen poll DEVICE             poll() on /dev/mem_notify; the record is read after the time is taken, and its
 *                                  time_ns, when the server looked, is printed behind it
 *   listen psi STALL_US WINDOW_US  a PSI trigger on /proc/pressure/memory ("some")
 *   listen vmpressure CGROUP LEVEL cgroup v1 memory.pressure_level, through an eventfd
 *   listen proc MS                 looks at pgscan_anon in /proc/vmstat every MS milliseconds
 *   listen stall STALL_US MS       looks at the stall time in /proc/pressure/memory ("some") every MS milliseconds: when
 *                                  it has grown by STALL_US within 2 s, at most once in 2 s. What a PSI trigger could do
 *                                  at best, were it evaluated so often.
 *
 * Prints "ready" first. Ends when its standard input is closed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define WINDOW_NS 2000000000LL
#define SAMPLES 4096

static void die(const char *what)
{
	fprintf(stderr, "listen: %s: %s\n", what, strerror(errno));
	exit(2);
}

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void say(long long time_ns)
{
	printf("%lld\n", time_ns);
	fflush(stdout);
}

static void say_with_record(int fd, long long time_ns)
{
	char record[512], *found;
	ssize_t length = read(fd, record, sizeof(record) - 1);

	if (length < 0 && errno != EAGAIN)
		die("read");
	record[length > 0 ? length : 0] = 0;
	found = strstr(record, "time_ns=");
	printf("%lld %lld\n", time_ns, found ? atoll(found + strlen("time_ns=")) : 0);
	fflush(stdout);
}

static int must_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static long long pgscan_anon(int fd)
{
	static char text[65536];
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
	char *found;

	if (length < 0)
		die("/proc/vmstat");
	text[length] = 0;
	found = strstr(text, "\npgscan_anon ");
	return found ? atoll(found + strlen("\npgscan_anon ")) : -1;
}

static long long stall_us(int fd)
{
	char text[256], *found;
	ssize_t length = pread(fd, text, sizeof(text) - 1, 0);

	if (length < 0)
		die("/proc/pressure/memory");
	text[length] = 0;
	found = strstr(text, "total=");
	return found ? atoll(found + strlen("total=")) : 0;
}

/* Whether the stall time has grown by `most` within WINDOW_NS; then not again for as long. */
static int stalled(int fd, long long most)
{
	static long long times[SAMPLES], totals[SAMPLES], told;
	static int oldest, newest = -1;
	long long now = now_ns();

	newest = (newest + 1) % SAMPLES;
	times[newest] = now;
	totals[newest] = stall_us(fd);
	if (newest == oldest && times[(newest + 1) % SAMPLES])
		oldest = (oldest + 1) % SAMPLES;
	while (oldest != newest && times[oldest] < now - WINDOW_NS)
		oldest = (oldest + 1) % SAMPLES;
	if (totals[newest] - totals[oldest] < most || (told && now - told < WINDOW_NS))
		return 0;
	told = now;
	return 1;
}

int main(int argc, char **argv)
{
	struct pollfd fds[2] = { { .fd = 0, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	const char *how = argc > 2 ? argv[1] : "";
	long long seen = 0, most = 0;
	int timeout = -1;
	char buffer[512];

	if (!strcmp(how, "poll")) {
		fds[1].fd = must_open(argv[2], O_RDONLY | O_NONBLOCK);
	} else if (!strcmp(how, "psi") && argc > 3) {
		int length = snprintf(buffer, sizeof(buffer), "some %s %s", argv[2], argv[3]);

		fds[1].fd = must_open("/proc/pressure/memory", O_RDWR | O_NONBLOCK);
		fds[1].events = POLLPRI;
		if (write(fds[1].fd, buffer, length + 1) < 0)
			die("PSI trigger");
	} else if (!strcmp(how, "vmpressure") && argc > 3) {
		int level, control;

		snprintf(buffer, sizeof(buffer), "%s/memory.pressure_level", argv[2]);
		level = must_open(buffer, O_RDONLY);
		snprintf(buffer, sizeof(buffer), "%s/cgroup.event_control", argv[2]);
		control = must_open(buffer, O_WRONLY);
		fds[1].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		snprintf(buffer, sizeof(buffer), "%d %d %s", fds[1].fd, level, argv[3]);
		if (write(control, buffer, strlen(buffer)) < 0)
			die("cgroup.event_control");
	} else if (!strcmp(how, "proc")) {
		fds[1].fd = must_open("/proc/vmstat", O_RDONLY);
		fds[1].events = 0;
		timeout = atoi(argv[2]);
		seen = pgscan_anon(fds[1].fd);
	} else if (!strcmp(how, "stall") && argc > 3) {
		fds[1].fd = must_open("/proc/pressure/memory", O_RDONLY);
		fds[1].events = 0;
		most = atoll(argv[2]);
		timeout = atoi(argv[3]);
	} else {
		fprintf(stderr, "usage: listen poll|psi|vmpressure|proc|stall ...\n");
		return 2;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		int ready = poll(fds, timeout >= 0 ? 1 : 2, timeout);

		if (ready < 0 && errno != EINTR)
			die("poll");
		if (fds[0].revents)
			return 0;
		if (most) {
			if (stalled(fds[1].fd, most))
				say(now_ns());
		} else if (timeout >= 0) {
			long long now = pgscan_anon(fds[1].fd);

			if (now != seen)
				say(now_ns());
			seen = now;
		} else if (fds[1].revents & (POLLIN | POLLPRI) && !(fds[1].revents & POLLERR)) {
			long long time_ns = now_ns();

			if (!strcmp(how, "poll")) {
				say_with_record(fds[1].fd, time_ns);
			} else {
				say(time_ns);
				if (fds[1].events == POLLIN && read(fds[1].fd, buffer, sizeof(buffer)) < 0 && errno != EAGAIN)
					die("read");
			}
		} else if (fds[1].revents) {
			fprintf(stderr, "listen: revents %x\n", fds[1].revents);
			return 2;
		}
	}
}
