/* syscalls: system calls of all kinds on a memnotify mount, in several processes, for a time.
 *
 *     syscalls MOUNT SECONDS SEED PROCESSES UID
 *
 * Every second process runs as UID (0: none does). What a process tries depends on SEED, its number and how often it was
 * started anew; what comes of it depends on the others. All paths are below MOUNT, all signals are to its own processes.
 * Prints, at the end, "fact NUMBER WHAT" and "found WHAT" lines; exits with 0 unless something was found.
 */
#include "control.h"
#include "files.h"
#include "processes.h"

#include <grp.h>
#include <sys/sysmacros.h>

#define MAX_PROCESSES 16
#define STUCK_S 30 /* a process that gets no call done for so long, though a signal comes every 20 ms, hangs */
#define REAP_S 30  /* and one that is still there so long after SIGKILL */

static const struct operation {
	const char *name;
	void (*run)(void);
	unsigned weight;
} operations[] = {
	{ "open", op_open, 12 },	 { "read", op_read, 10 },	{ "write", op_write, 2 },
	{ "seek", op_seek, 2 },		 { "map", op_map, 3 },		{ "ioctl", op_ioctl, 4 },
	{ "splice", op_splice, 4 },	 { "attributes", op_attributes, 10 }, { "handle", op_handle, 2 },
	{ "sync", op_sync, 4 },		 { "fcntl", op_fcntl, 14 },	{ "own", op_own, 6 },
	{ "dup", op_dup, 4 },		 { "dup race", op_dup_race, 2 }, { "poll", op_poll, 8 },
	{ "epoll", op_epoll, 6 },	 { "watch", op_watch, 3 },	{ "fork", op_fork, 2 },
	{ "exec", op_exec, 1 },		 { "send", op_send, 4 },	{ "threads", op_threads, 2 },
	{ "close", op_close, 6 },	 { "close storm", op_close_storm, 1 }, { "signal", op_signal, 2 },
	{ "io_uring", op_uring, 3 },
};
#define OPERATIONS (sizeof operations / sizeof *operations)

/* What the processes tell the one that started them. */
static struct shared {
	uint64_t done[MAX_PROCESSES][OPERATIONS];
	unsigned at[MAX_PROCESSES];
} *shared;

static int own_number;

static void any_operation(void)
{
	unsigned total = 0, chosen, i;

	for (i = 0; i < OPERATIONS; i++)
		total += operations[i].weight;
	chosen = below(total);
	for (i = 0; chosen >= operations[i].weight; i++)
		chosen -= operations[i].weight;
	if (!depth)
		shared->at[own_number] = i;
	operations[i].run();
	__atomic_fetch_add(&shared->done[own_number][i], 1, __ATOMIC_RELAXED);
}

static void any_operations(unsigned count)
{
	while (count--)
		any_operation();
}

static void prepare(void)
{
	struct rlimit no_core = { 0, 0 }, files = { 512, 512 };
	int nowhere = open("/dev/null", O_RDWR);

	/* Whoever reads what is found waits for the end of it: a process that hangs may not hold it open. */
	dup2(nowhere, 0);
	dup2(nowhere, 1);
	if (nowhere > 2)
		close(nowhere);

	setrlimit(RLIMIT_CORE, &no_core);
	setrlimit(RLIMIT_NOFILE, &files);
	make_memory();
	for (int i = 0; i < POOL; i++)
		pool[i] = (struct descriptor){ -1, NONE };
	take_signals();
	arm_timer();
}

static void work(int number, uint64_t seed, uid_t uid)
{
	own_number = number;
	/* Its own group, before anything that is sent to one. */
	if (setpgid(0, 0))
		_exit(2);
	if (uid && number % 2 && (setgroups(0, NULL) || setgid(uid) || setuid(uid)))
		_exit(2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 1);
	prepare();
	seed_random(seed);
	for (;;) {
		any_operation();
		reap();
	}
}

/* The program again, with the descriptors of the one that ran it. */
static int again(uint64_t seed)
{
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	depth = MAX_DEPTH;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prepare();
	seed_random(seed);
	for (int fd = 3; fd < 40; fd++)
		pool[fd % POOL] = (struct descriptor){ fd, NONE };
	any_operations(below(30));
	return 0;
}

static double now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t calls_of(int number)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < OPERATIONS; i++)
		sum += shared->done[number][i];
	return sum;
}

static pid_t start(int number, uint64_t seed, uid_t uid)
{
	pid_t pid = fork();

	if (pid == 0)
		work(number, seed, uid);
	/* A group -1 would be everybody. */
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	setpgid(pid, pid);
	return pid;
}

/* Ends the processes of these groups, and waits until all of ours are gone. How many are not. */
static int end_all(const pid_t *pids, int count)
{
	double limit_s = now_s() + REAP_S;
	siginfo_t info;

	for (;;) {
		for (int i = 0; i < count; i++)
			kill(-pids[i], SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) && errno == ECHILD)
			return 0;
		if (now_s() > limit_s)
			return 1;
		nap(20000);
	}
}

int main(int count, char **words)
{
	pid_t pids[MAX_PROCESSES], ended;
	double stuck_since_s[MAX_PROCESSES], end_s;
	uint64_t calls[MAX_PROCESSES] = { 0 }, seed, restarts = 0;
	int processes, status, found = 0;
	uid_t uid;

	if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
		return 2;
	if (count == 4 && !strcmp(words[1], "--again")) {
		snprintf(mount_point, sizeof mount_point, "%s", words[2]);
		list_paths();
		return again(strtoull(words[3], NULL, 10));
	}
	if (count != 6)
		return 2;
	snprintf(mount_point, sizeof mount_point, "%s", words[1]);
	seed = strtoull(words[3], NULL, 10);
	processes = atoi(words[4]);
	uid = (uid_t)atoi(words[5]);
	if (processes < 1 || processes > MAX_PROCESSES)
		return 2;
	list_paths();
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1))
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	end_s = now_s() + atof(words[2]);
	for (int i = 0; i < processes; i++) {
		pids[i] = start(i, seed * 1000 + (uint64_t)i, uid);
		stuck_since_s[i] = now_s();
	}
	while (now_s() < end_s) {
		nap(20000);
		while ((ended = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
			/* SIGSTOP can come by F_SETSIG; SIGKILL too, or a fault that is meant. */
			if (WIFSTOPPED(status)) {
				kill(ended, SIGCONT);
				continue;
			}
			for (int i = 0; i < processes; i++)
				if (pids[i] == ended) {
					kill(-ended, SIGKILL);
					restarts++;
					pids[i] = start(i, seed * 1000 + (uint64_t)i + restarts * 16, uid);
				}
		}
		for (int i = 0; i < processes; i++) {
			if (calls_of(i) != calls[i]) {
				calls[i] = calls_of(i);
				stuck_since_s[i] = now_s();
			} else if (now_s() - stuck_since_s[i] > STUCK_S) {
				printf("found process %d hangs in: %s\n", i, operations[shared->at[i]].name);
				found = 1;
				kill(-pids[i], SIGKILL);
				stuck_since_s[i] = now_s();
			}
		}
	}
	if (end_all(pids, processes)) {
		printf("found a process that SIGKILL does not end\n");
		found = 1;
	}
	for (size_t i = 0; i < OPERATIONS; i++) {
		uint64_t sum = 0;

		for (int number = 0; number < processes; number++)
			sum += shared->done[number][i];
		printf("fact %llu times: %s\n", (unsigned long long)sum, operations[i].name);
	}
	printf("fact %llu processes started anew after a signal\n", (unsigned long long)restarts);
	return found;
}
