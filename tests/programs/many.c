/* many DEVICE COUNT: COUNT processes, each blocked in a read of its own open file. Prints their pids, then waits for
 * all of them and prints how each ended: "signal N" or "exit N". */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int status;

	if (argc != 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int left = atoi(argv[2]); left > 0; left--) {
		pid_t pid = fork();
		if (pid < 0)
			return 3;
		if (pid == 0) {
			char line[4096];
			int fd = open(argv[1], O_RDONLY);
			_exit(fd < 0 ? 4 : read(fd, line, sizeof line) < 0);
		}
		printf("%d\n", pid);
	}
	while (wait(&status) > 0) {
		if (WIFSIGNALED(status))
			printf("signal %d\n", WTERMSIG(status));
		else
			printf("exit %d\n", WEXITSTATUS(status));
	}
	return 0;
}
