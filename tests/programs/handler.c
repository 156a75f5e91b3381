/* handler DEVICE: a SIGUSR1 handler without SA_RESTART, and a blocking read; prints what the read came to. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t handled;

static void handle(int number)
{
	handled = number;
}

int main(int argc, char **argv)
{
	char line[4096];
	struct sigaction action = {.sa_handler = handle};
	int fd;
	ssize_t length;

	if (argc != 2 || sigaction(SIGUSR1, &action, NULL) || (fd = open(argv[1], O_RDONLY)) < 0)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("reading");
	length = read(fd, line, sizeof line);
	printf("%s handled=%d\n", length < 0 ? strerrorname_np(errno) : "read", handled == SIGUSR1);
	length = read(fd, line, sizeof line);
	printf("%.*s", (int)(length < 0 ? 0 : length), line);
	return 0;
}
