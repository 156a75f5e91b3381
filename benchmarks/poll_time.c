/* Times poll() with a timeout of 0 on a file.   poll_time FILE COUNT   prints nanoseconds for each call. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	struct pollfd one = { .events = POLLIN };
	struct timespec begin, end;
	int count = argc == 3 ? atoi(argv[2]) : 0;

	if (count <= 0 || (one.fd = open(argv[1], O_RDONLY | O_NONBLOCK)) < 0) {
		fprintf(stderr, "usage: poll_time FILE COUNT\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		clock_gettime(CLOCK_MONOTONIC, &begin);
		if (poll(&one, 1, 0) < 0 || one.revents & ~POLLIN)
			return 2;
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%lld\n", (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec);
	}
	return 0;
}
