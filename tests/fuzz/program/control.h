/* Operations on descriptors and for who waits: every fcntl, dup, poll, epoll, watches, SIGIO. */
#pragma once

#include "state.h"

#define NO_PROCESS 0x3fffffff /* above the largest pid that a kernel gives */

static int any_signal(void)
{
	int number = (int)below(66);

	/* They end or stop us, which the one who started us mends. */
	return (number == SIGKILL || number == SIGSTOP) && !one_in(20) ? SIGIO : number;
}

/* An owner that is ourselves, our group, our thread, a child that has ended, or nobody: never anybody else. */
static void set_owner(int fd)
{
	struct f_owner_ex owner = { .type = below(4), .pid = getpid() };
	pid_t child;

	switch (below(7)) {
	case 0:
		fcntl(fd, F_SETOWN, getpid());
		break;
	case 1:
		fcntl(fd, F_SETOWN, -getpgrp());
		break;
	case 2:
		if (owner.type == F_OWNER_PGRP)
			owner.pid = getpgrp();
		fcntl(fd, F_SETOWN_EX, &owner);
		break;
	case 3:
		fcntl(fd, F_SETOWN, NO_PROCESS);
		fcntl(fd, F_SETOWN, -NO_PROCESS);
		break;
	case 4:
		child = fork();
		if (!child) {
			pause();
			_exit(0);
		}
		if (child > 0) {
			fcntl(fd, F_SETOWN, child);
			kill(child, SIGKILL);
			if (one_in(2))
				waitpid(child, NULL, 0);
		}
		break;
	case 5:
		fcntl(fd, F_SETOWN, 0);
		break;
	default:
		owner = (struct f_owner_ex){ .type = F_OWNER_TID, .pid = (pid_t)syscall(SYS_gettid) };
		fcntl(fd, F_SETOWN_EX, &owner);
	}
}

static void lock(int fd)
{
	static const int commands[] = { F_SETLK, F_SETLKW, F_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK };
	struct flock region = { .l_type = (short)below(4), .l_whence = (short)below(3), .l_start = below(10), .l_len = below(10) };

	fcntl(fd, commands[below(6)], &region);
}

static void op_fcntl(void)
{
	int fd = any_fd();
	unsigned long command;
	struct f_owner_ex owner;
	uid_t uids[2];
	uint64_t hint = below(7);

	switch (below(14)) {
	case 0:
	case 1:
	case 2:
		set_owner(fd);
		break;
	case 3:
		fcntl(fd, F_SETSIG, any_signal());
		break;
	case 4:
	case 5:
		fcntl(fd, F_SETFL, one_in(2) ? O_ASYNC : (int)next_random());
		break;
	case 6:
		put(fcntl(fd, one_in(2) ? F_DUPFD : F_DUPFD_CLOEXEC, 64 + below(100)), OF_MOUNT);
		break;
	case 7:
		/* Whoever opens it waits for a lease to go: we hold none for longer than a moment. */
		fcntl(fd, F_SETLEASE, (int)below(3));
		fcntl(fd, F_GETLEASE);
		fcntl(fd, F_SETLEASE, F_UNLCK);
		break;
	case 8:
		fcntl(fd, F_NOTIFY, below(64));
		break;
	case 9:
		fcntl(of_kind(one_in(2) ? PIPE : NONE), F_SETPIPE_SZ, below(1 << 17));
		fcntl(fd, F_GETPIPE_SZ);
		break;
	case 10:
		lock(fd);
		break;
	case 11:
		fcntl(fd, F_GETOWN_EX, &owner);
		fcntl(fd, 17 /* F_GETOWNER_UIDS */, uids);
		fcntl(fd, F_GETSIG);
		fcntl(fd, F_SETFD, below(4));
		break;
	case 12:
		fcntl(fd, one_in(2) ? F_SET_RW_HINT : F_SET_FILE_RW_HINT, &hint);
		fcntl(fd, F_ADD_SEALS, below(32));
		break;
	default:
		command = one_in(2) ? below(20) : 1024 + below(40);
		if (command != F_SETOWN && command != F_SETOWN_EX && command != F_SETSIG && command != F_SETLEASE &&
		    command != F_SETLKW)
			fcntl(fd, (int)command, any_address());
	}
}

/* A SIGIO owner as programs are, some of whom wait for the signal. */
static void op_own(void)
{
	int fd = open_device(O_NONBLOCK), waiting = -1;
	sigset_t set, before;
	struct timespec moment = { .tv_nsec = 3000000 };
	siginfo_t info;

	if (fd < 0)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, &before);
	set_owner(fd);
	if (one_in(2))
		fcntl(fd, F_SETSIG, SIGRTMIN + 3);
	fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK);
	if (one_in(2))
		sigtimedwait(&set, &info, &moment);
	else if ((waiting = signalfd(-1, &set, SFD_NONBLOCK)) >= 0)
		read(waiting, buffer, 128);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (waiting >= 0)
		close(waiting);
	if (one_in(2))
		put(fd, OF_MOUNT);
	else
		close(fd);
}

static void op_dup(void)
{
	struct descriptor *slot = any_slot(), *other = any_slot();

	if (slot->fd < 0)
		return;
	if (one_in(2) || other->fd < 0 || slot == other) {
		put(dup(slot->fd), slot->kind);
	} else if (dup3(slot->fd, other->fd, one_in(2) ? O_CLOEXEC : 0) >= 0) {
		other->kind = slot->kind;
	}
}

static volatile int racing;
static int race_fds[3];

static void *race(void *unused)
{
	while (racing) {
		dup2(race_fds[0], race_fds[2]);
		dup2(race_fds[1], race_fds[2]);
	}
	return unused;
}

/* Another file behind the same number, again and again, while it has an owner and is polled. */
static void op_dup_race(void)
{
	pthread_t thread;
	struct pollfd polled;
	int ends[2];

	race_fds[0] = open_device(O_NONBLOCK);
	race_fds[1] = one_in(2) ? open_device(O_NONBLOCK) : -1;
	if (race_fds[1] < 0 && !pipe2(ends, O_NONBLOCK)) {
		race_fds[1] = ends[0];
		close(ends[1]);
	}
	race_fds[2] = dup(race_fds[0]);
	racing = 1;
	if (race_fds[0] >= 0 && race_fds[1] >= 0 && race_fds[2] >= 0 && !pthread_create(&thread, NULL, race, NULL)) {
		fcntl(race_fds[0], F_SETOWN, getpid());
		for (int i = 0; i < 20; i++) {
			polled = (struct pollfd){ race_fds[2], POLLIN, 0 };
			poll(&polled, 1, 0);
			set_owner(race_fds[2]);
			read(race_fds[2], buffer, 10);
		}
		racing = 0;
		pthread_join(thread, NULL);
	}
	for (int i = 0; i < 3; i++)
		if (race_fds[i] >= 0)
			close(race_fds[i]);
}

static void op_poll(void)
{
	struct pollfd polled[8];
	unsigned count = below(9);
	struct timespec time = { .tv_nsec = below(3000000) };
	struct timeval select_time = { .tv_usec = below(3000) };
	fd_set sets[3];
	sigset_t none;

	sigemptyset(&none);
	memset(sets, 0, sizeof sets);
	for (unsigned i = 0; i < 8; i++) {
		polled[i] = (struct pollfd){ any_fd(), (short)next_random(), 0 };
		if (polled[i].fd >= 0 && polled[i].fd < FD_SETSIZE)
			FD_SET(polled[i].fd, &sets[below(3)]);
	}
	switch (below(4)) {
	case 0:
		poll(polled, count, (int)below(4));
		break;
	case 1:
		ppoll(polled, count, one_in(8) ? NULL : &time, &none);
		break;
	case 2:
		select(200, &sets[0], &sets[1], &sets[2], &select_time);
		break;
	default:
		pselect(200, &sets[0], one_in(2) ? &sets[1] : NULL, &sets[2], &time, &none);
	}
}

static void op_epoll(void)
{
	static const uint32_t ways[] = { 0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT, EPOLLEXCLUSIVE, EPOLLWAKEUP };
	int epoll = epoll_create1(one_in(2) ? EPOLL_CLOEXEC : 0);
	struct epoll_event event, found[8];

	for (unsigned i = 0; i < 1 + below(6); i++) {
		event = (struct epoll_event){ .events = ways[below(6)] | (one_in(4) ? below(32) : EPOLLIN) };
		epoll_ctl(epoll, EPOLL_CTL_ADD, one_in(10) ? epoll : any_fd(), &event);
		if (one_in(3))
			epoll_ctl(epoll, EPOLL_CTL_MOD, any_fd(), &event);
		epoll_wait(epoll, found, 8, one_in(20) ? -1 : (int)below(3));
		if (one_in(3))
			epoll_ctl(epoll, EPOLL_CTL_DEL, any_fd(), NULL);
	}
	put(epoll, OTHER);
}

static void op_watch(void)
{
	int watch;

	if (one_in(2)) {
		watch = inotify_init1(IN_NONBLOCK);
		for (unsigned i = 0; i < 1 + below(4); i++)
			inotify_add_watch(watch, any_path(), ((uint32_t)next_random() & IN_ALL_EVENTS) | IN_OPEN);
	} else {
		/* No events that ask for leave: nobody but us would give it. */
		watch = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | (one_in(2) ? FAN_REPORT_FID : 0), O_RDONLY);
		fanotify_mark(watch, FAN_MARK_ADD, FAN_OPEN | FAN_ACCESS | FAN_CLOSE | FAN_MODIFY, AT_FDCWD, any_path());
		fanotify_mark(watch, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN | FAN_CLOSE, AT_FDCWD, mount_point);
	}
	if (watch < 0)
		return;
	put(open_device(O_NONBLOCK), OF_MOUNT);
	/* Space for one event, which may bring a descriptor with it: the pool gets it. */
	if (read(watch, buffer, sizeof(struct fanotify_event_metadata)) == sizeof(struct fanotify_event_metadata)) {
		struct fanotify_event_metadata *event = (void *)buffer;

		if (event->vers == FANOTIFY_METADATA_VERSION && event->fd > 2)
			put(event->fd, OF_MOUNT);
	}
	close(watch);
}
