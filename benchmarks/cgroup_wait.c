/* cgroup_wait DEVICE: for each line on its standard input, the folder of a cgroup, a process that enters it and is
 * asleep in poll() on DEVICE.
 *
 * Prints "ready" when a line that is empty is reached and all of them are about to sleep. They end when its standard
 * input does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 4096 };

static int wait_in(const char *folder, const char *device, int told)
{
	struct pollfd waiting = { .events = POLLIN };
	char path[8192];
	int procs;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	procs = open(path, O_WRONLY | O_CLOEXEC);
	if (procs < 0 || write(procs, "0", 1) != 1 || (waiting.fd = open(device, O_RDONLY | O_CLOEXEC)) < 0)
		return 1;
	close(procs);
	if (write(told, "+", 1) != 1)
		return 1;
	close(told);
	poll(&waiting, 1, -1);
	return 0;
}

int main(int argc, char **argv)
{
	char line[4096], got;
	static pid_t pids[MOST];
	int told[2], count = 0, open_yet;

	if (argc != 2 || pipe(told))
		return 2;
	while (count < MOST && fgets(line, sizeof(line), stdin) && line[0] != '\n') {
		line[strcspn(line, "\n")] = 0;
		pids[count] = fork();
		if (pids[count] < 0)
			return 3;
		if (pids[count] == 0) {
			close(told[0]);
			_exit(wait_in(line, argv[1], told[1]));
		}
		count++;
	}
	close(told[1]);
	for (open_yet = 0; open_yet < count; open_yet++)
		if (read(told[0], &got, 1) != 1)
			return 4;
	puts("ready");
	fflush(stdout);
	while (read(0, line, sizeof(line)) > 0)
		;
	while (count)
		kill(pids[--count], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
