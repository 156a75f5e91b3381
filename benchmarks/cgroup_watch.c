/* cgroup_watch FILE KEY MS: looks into FILE every MS milliseconds, and prints the time (CLOCK_MONOTONIC, nanoseconds)
 * whenever the number after KEY has grown (KEY "-": the first number of the file).
 *
 * Prints "ready" first. Ends when its standard input is closed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long number(int fd, const char *key)
{
	static char text[16384];
	ssize_t length = pread(fd, text + 1, sizeof(text) - 2, 0);
	char *found;

	if (length < 0)
		exit(2);
	text[0] = '\n';
	text[length + 1] = 0;
	found = strstr(text, key);
	return found ? atoll(found + strlen(key)) : -1;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	long long seen, now;
	struct timespec time;
	char key[256];
	int fd;

	if (argc != 4 || (fd = open(argv[1], O_RDONLY | O_CLOEXEC)) < 0) {
		fprintf(stderr, "cgroup_watch: cannot look into a file\n");
		return 2;
	}
	snprintf(key, sizeof(key), "\n%s%s", strcmp(argv[2], "-") ? argv[2] : "", strcmp(argv[2], "-") ? " " : "");
	seen = number(fd, key);
	puts("ready");
	fflush(stdout);
	while (poll(&input, 1, atoi(argv[3])) == 0) {
		now = number(fd, key);
		if (now > seen) {
			clock_gettime(CLOCK_MONOTONIC, &time);
			printf("%lld\n", time.tv_sec * 1000000000LL + time.tv_nsec);
			fflush(stdout);
		}
		seen = now;
	}
	return 0;
}
