/* shared DEVICE fork|threads: two readers blocked on one open file: a parent and its child, or two threads.
 * Prints the thread ids of both, then blocks; a reader that gets something prints "got N" with the bytes it read. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fd;

static void *reader(void *unused)
{
	char line[4096];
	ssize_t length;

	(void)unused;
	printf("%ld\n", (long)syscall(SYS_gettid));
	length = read(fd, line, sizeof line);
	printf("got %zd\n", length);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 3 || (fd = open(argv[1], O_RDONLY)) < 0)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(argv[2], "fork") == 0) {
		pid_t pid = fork();
		if (pid < 0)
			return 3;
		reader(NULL);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return 0;
	}
	if (pthread_create(&thread, NULL, reader, NULL))
		return 3;
	reader(NULL);
	pthread_join(thread, NULL);
	return 0;
}
