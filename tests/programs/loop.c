/* A loop as GLib's: one poll() over several descriptors, here stdin and the device. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char line[4096];
	struct pollfd fds[2] = {{.fd = 0, .events = POLLIN}, {.events = POLLIN | POLLPRI}};

	if (argc != 2 || (fds[1].fd = open(argv[1], O_RDONLY | O_NONBLOCK)) < 0)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			return 3;
		if (fds[1].revents) {
			ssize_t length = read(fds[1].fd, line, sizeof line);
			if (fds[1].revents != POLLIN || length <= 0)
				return 4;
			printf("memory\n%.*s", (int)length, line);
			fds[1].fd = -1;
		}
		if (fds[0].revents) {
			if (read(0, line, 1) <= 0) {
				puts("end of input");
				return 0;
			}
			puts("input");
		}
	}
}
