/* puppet: does what the lines on its stdin say, so that a test can put it into any state. One reply for each line:
 *
 *     = WORDS                             it was done
 *     ! ENAME                             it failed
 *
 * and, whenever a handler runs or a thread that waits gets a signal, a line with what siginfo_t said and who got it:
 *
 *     s NUMBER CODE FD BAND PID TID
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static long thread_id(void)
{
	return syscall(SYS_gettid);
}

static void say(const char *line, int length)
{
	if (write(1, line, (size_t)length) != length)
		_exit(3);
}

static void report(int number, const siginfo_t *info)
{
	char line[160];

	say(line, snprintf(line, sizeof line, "s %d %d %d %ld %d %ld\n", number, info->si_code, info->si_fd,
			   (long)info->si_band, (int)getpid(), thread_id()));
}

static void handle(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)context;
	report(number, info);
	errno = saved;
}

static void reply(long result)
{
	char line[64];

	say(line, result < 0 ? snprintf(line, sizeof line, "! %s\n", strerrorname_np(errno))
			     : snprintf(line, sizeof line, "= %ld\n", result));
}

static sigset_t set_of(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	return set;
}

static long install_handler(int number)
{
	struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART};

	return sigaction(number, &action, NULL);
}

static long dispose(int number, void (*disposition)(int))
{
	struct sigaction action = {.sa_handler = disposition};

	return sigaction(number, &action, NULL);
}

static long mask(int how, int number)
{
	sigset_t set = set_of(number);

	errno = pthread_sigmask(how, &set, NULL);
	return errno ? -1 : 0;
}

/* What a C library does around fork and posix_spawn: block everything, its own signals too. */
static long mask_all(int how)
{
	unsigned char all[8];

	memset(all, 0xff, sizeof all);
	return syscall(SYS_rt_sigprocmask, how, all, NULL, sizeof all);
}

struct order {
	int unblock, wait;
	pthread_barrier_t started;
	long tid;
};

static void *thread(void *argument)
{
	struct order *order = argument;
	int number = order->wait;
	sigset_t set = set_of(number ? number : SIGIO);
	siginfo_t info;

	if (order->unblock)
		mask(SIG_UNBLOCK, order->unblock);
	order->tid = thread_id();
	pthread_barrier_wait(&order->started);
	for (;;) {
		if (!number)
			pause();
		else if (sigwaitinfo(&set, &info) > 0)
			report(number, &info);
	}
	return NULL;
}

static long start_thread(int unblock, int wait)
{
	static struct order order;
	pthread_t id;

	order.unblock = unblock;
	order.wait = wait;
	pthread_barrier_init(&order.started, NULL, 2);
	errno = pthread_create(&id, NULL, thread, &order);
	if (errno)
		return -1;
	pthread_barrier_wait(&order.started);
	return order.tid;
}

/* Waits for one signal and answers what it said: "= NUMBER CODE FD BAND". */
static void wait_for(int number)
{
	sigset_t set = set_of(number);
	siginfo_t info;
	char line[160];

	if (sigwaitinfo(&set, &info) < 0)
		reply(-1);
	else
		say(line, snprintf(line, sizeof line, "= %d %d %d %ld\n", info.si_signo, info.si_code, info.si_fd,
				   (long)info.si_band));
}

/* How often a blocked signal is pending, taking them all; it may be several times for a real-time signal. */
static long take(int number)
{
	sigset_t set = set_of(number);
	const struct timespec now = {0, 0};
	long count = 0;

	while (sigtimedwait(&set, NULL, &now) > 0)
		count++;
	return count;
}

static void read_signalfd(int fd)
{
	struct signalfd_siginfo info;
	char line[160];

	if (read(fd, &info, sizeof info) != sizeof info)
		reply(-1);
	else
		say(line, snprintf(line, sizeof line, "= %d %d %d %d\n", (int)info.ssi_signo, info.ssi_code, info.ssi_fd,
				   (int)info.ssi_band));
}

static long forked(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	close(0);
	for (;;)
		pause();
}

/* The rest of the lines is for a child that is the first process of a pid namespace. */
static long new_pid_namespace(void)
{
	pid_t pid;
	int status;

	if (unshare(CLONE_NEWPID) < 0 || (pid = fork()) < 0)
		return -1;
	if (pid == 0)
		return getpid();
	waitpid(pid, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static long pass(int by, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	return sendmsg(by, &message, 0);
}

static long receive(int by)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int fd;

	if (recvmsg(by, &message, 0) < 0)
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

static long connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	return connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : fd;
}

static long limit(int resource, long value)
{
	struct rlimit bound = {(rlim_t)value, (rlim_t)value};

	return setrlimit(resource, &bound);
}

/* Opens /dev/null until descriptor `last` is taken. */
static long fill(int last)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDONLY);
	} while (fd >= 0 && fd < last);
	return fd;
}

static long set_owner_ex(int fd, int type, int pid)
{
	struct f_owner_ex owner = {type, pid};

	return fcntl(fd, F_SETOWN_EX, &owner);
}

static long polled(int fd, int timeout_ms)
{
	struct pollfd entry = {.fd = fd, .events = POLLIN | POLLRDNORM};

	return poll(&entry, 1, timeout_ms) < 0 ? -1 : entry.revents;
}

static long set_async(int fd, long on)
{
	int flags = fcntl(fd, F_GETFL);

	return fcntl(fd, F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC);
}

/* The same by the system call of a program of 32 bits, fcntl64(), which a kernel of 64 bits has beside its own. */
static long set_async_32(int fd, long on)
{
#ifdef __x86_64__
	long result, flags = fcntl(fd, F_GETFL), wanted = on ? flags | O_ASYNC : flags & ~O_ASYNC;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(221L), "b"((long)fd), "c"((long)F_SETFL), "d"(wanted)
			 : "memory", "r8", "r9", "r10", "r11");
	if (result >= 0)
		return 0;
	errno = (int)-result;
#else
	(void)fd;
	(void)on;
	errno = ENOSYS;
#endif
	return -1;
}

static long fioasync(int fd, int on)
{
	return ioctl(fd, FIOASYNC, &on);
}

static void read_file(int fd)
{
	char data[4096], line[4200];
	ssize_t length = read(fd, data, sizeof data);

	if (length < 0)
		reply(-1);
	else
		say(line, snprintf(line, sizeof line, "= %.*s\n", (int)strcspn(data, "\n"), data));
}

static int read_line(char *line, size_t size)
{
	size_t length = 0;

	while (length + 1 < size && read(0, line + length, 1) == 1) {
		if (line[length] == '\n') {
			line[length] = '\0';
			return 1;
		}
		length++;
	}
	return 0;
}

int main(int argc, char **argv)
{
	char line[4200], word[32], text[4096];
	long a, b, c;

	(void)argc;
	say("= 0\n", 4);
	while (read_line(line, sizeof line)) {
		int words;

		a = b = c = 0;
		text[0] = '\0';
		words = sscanf(line, "%31s %ld %ld %ld", word, &a, &b, &c);
		if (words == 1)
			sscanf(line, "%*s %4095s", text);
#define IS(name) (!strcmp(word, name))
		if (IS("open"))
			reply(open(text, O_RDONLY | O_NONBLOCK | O_NOCTTY));
		else if (IS("close"))
			reply(close((int)a));
		else if (IS("dup"))
			reply(dup((int)a));
		else if (IS("dup2"))
			reply(dup2((int)a, (int)b));
		else if (IS("setown"))
			reply(fcntl((int)a, F_SETOWN, (int)b));
		else if (IS("setownex"))
			reply(set_owner_ex((int)a, (int)b, (int)c));
		else if (IS("setsig"))
			reply(fcntl((int)a, F_SETSIG, (int)b));
		else if (IS("async"))
			reply(set_async((int)a, b));
		else if (IS("async32"))
			reply(set_async_32((int)a, b));
		else if (IS("getasync"))
			reply(!!(fcntl((int)a, F_GETFL) & O_ASYNC));
		else if (IS("fioasync"))
			reply(fioasync((int)a, (int)b));
		else if (IS("handle"))
			reply(install_handler((int)a));
		else if (IS("ignore"))
			reply(dispose((int)a, SIG_IGN));
		else if (IS("default"))
			reply(dispose((int)a, SIG_DFL));
		else if (IS("block"))
			reply(mask(SIG_BLOCK, (int)a));
		else if (IS("unblock"))
			reply(mask(SIG_UNBLOCK, (int)a));
		else if (IS("blockall"))
			reply(mask_all(SIG_BLOCK));
		else if (IS("unblockall"))
			reply(mask_all(SIG_UNBLOCK));
		else if (IS("wait"))
			wait_for((int)a);
		else if (IS("take"))
			reply(take((int)a));
		else if (IS("signalfd")) {
			sigset_t set = set_of((int)a);
			reply(signalfd(-1, &set, 0));
		} else if (IS("readsignalfd"))
			read_signalfd((int)a);
		else if (IS("thread"))
			reply(start_thread((int)a, 0));
		else if (IS("waitthread"))
			reply(start_thread(0, (int)a));
		else if (IS("ownfiles"))
			reply(unshare(CLONE_FILES));
		else if (IS("endthread")) {
			reply(0);
			pthread_exit(NULL);
		} else if (IS("pid"))
			reply(getpid());
		else if (IS("setpgid"))
			reply(setpgid(0, (int)a));
		else if (IS("fork"))
			reply(forked());
		else if (IS("newpid"))
			reply(new_pid_namespace());
		else if (IS("exec")) {
			execv("/proc/self/exe", argv);
			reply(-1);
		} else if (IS("connect"))
			reply(connect_to(text));
		else if (IS("pass"))
			reply(pass((int)a, (int)b));
		else if (IS("receive"))
			reply(receive((int)a));
		else if (IS("poll"))
			reply(polled((int)a, (int)b));
		else if (IS("read"))
			read_file((int)a);
		else if (IS("setresuid"))
			reply(syscall(SYS_setresuid, (int)a, (int)b, (int)c));
		else if (IS("setresgid"))
			reply(syscall(SYS_setresgid, (int)a, (int)b, (int)c));
		else if (IS("nofile"))
			reply(limit(RLIMIT_NOFILE, a));
		else if (IS("sigpending"))
			reply(limit(RLIMIT_SIGPENDING, a));
		else if (IS("fill"))
			reply(fill((int)a));
		else if (IS("exit"))
			_exit((int)a);
		else
			_exit(2);
	}
	return 0;
}
