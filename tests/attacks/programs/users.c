/* users KIND PROGRAM ARGUMENT...: run PROGRAM (started by root) as the users that KIND says:
 *   nobody  uid 65534
 *   subs    eight processes, uids 100000 to 100007, entered by setuid
 *   userns  the same eight in a user namespace that uid 65534 made, so that the kernel can tell whose they are
 *   root    root itself, for what needs root to set up
 */
#include "attack.h"
#include <grp.h>
#include <sched.h>

enum { NOBODY = 65534, FIRST_SUB = 100000, SUBS = 8 };

static void become(uid_t uid)
{
	if (setgroups(0, NULL) || setgid(uid) || setuid(uid))
		fail("setuid");
}

static void write_map(pid_t pid, const char *name)
{
	char path[64], map[64];

	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	snprintf(map, sizeof map, "0 %d %d\n", FIRST_SUB, SUBS);
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, map, strlen(map)) < 0)
		fail(path);
	close(fd);
}

static void wait_for_all(void)
{
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

static void run_subs(uid_t first, char **argv)
{
	for (int i = 0; i < SUBS; i++)
		if (fork() == 0) {
			become(first + i);
			execv(argv[0], argv);
			fail("exec");
		}
	wait_for_all();
}

static void run_in_namespace(char **argv)
{
	int made[2], mapped[2];
	char byte;

	if (pipe(made) || pipe(mapped))
		fail("pipe");
	pid_t child = fork();
	if (child == 0) {
		become(NOBODY);
		if (unshare(CLONE_NEWUSER))
			fail("unshare");
		if (write(made[1], "", 1) != 1 || read(mapped[0], &byte, 1) != 1)
			_exit(1);
		run_subs(0, argv);
		_exit(0);
	}
	if (read(made[0], &byte, 1) != 1)
		fail("namespace");
	write_map(child, "uid_map");
	write_map(child, "gid_map");
	if (write(mapped[1], "", 1) != 1)
		fail("pipe");
	wait_for_all();
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "subs"))
		run_subs(FIRST_SUB, argv + 2);
	else if (!strcmp(argv[1], "userns"))
		run_in_namespace(argv + 2);
	else {
		if (strcmp(argv[1], "root"))
			become(NOBODY);
		execv(argv[2], argv + 2);
		fail("exec");
	}
	return 0;
}
