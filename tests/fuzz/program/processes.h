/* Operations that take other threads and processes of our own: fork, exec, descriptors sent, blocked threads, io_uring. */
#pragma once

#include "state.h"

#include <linux/io_uring.h>

static char program[PATH_MAX];

static void any_operations(unsigned count);

/* A child that has what we have open, does something or nothing, and ends in one of several ways. */
static void op_fork(void)
{
	uint64_t seed = next_random();
	pid_t child;

	if (depth >= MAX_DEPTH)
		return;
	child = fork();
	if (child == 0) {
		depth++;
		seed_random(seed);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!one_in(3)) {
			arm_timer();
			any_operations(below(20));
		}
		if (one_in(4))
			raise(SIGKILL);
		_exit(0);
	}
	if (child > 0 && one_in(3)) {
		nap(below(3000));
		kill(child, one_in(2) ? SIGKILL : SIGTERM);
	}
	/* Others are left to be zombies for a while. */
	while (child > 0 && one_in(2) && waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void op_exec(void)
{
	char seed[32];
	pid_t child;

	if (depth)
		return;
	snprintf(seed, sizeof seed, "%llu", (unsigned long long)next_random());
	child = fork();
	if (child == 0) {
		execl(program, program, "--again", mount_point, seed, (char *)NULL);
		_exit(1);
	}
	if (child > 0 && one_in(3)) {
		nap(below(2000));
		kill(child, SIGKILL);
	}
}

/* Open files in a message: taken out, left in flight, or in a socket that is itself in flight. */
static void op_send(void)
{
	int ends[2], fds[8], received = 0;
	unsigned count = 1 + below(8);
	char byte = 'x', space[CMSG_SPACE(sizeof fds)];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *control;

	if (socketpair(AF_UNIX, (one_in(2) ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK, 0, ends))
		return;
	memset(space, 0, sizeof space);
	for (unsigned i = 0; i < count; i++)
		fds[i] = one_in(8) ? ends[below(2)] : any_fd();
	control = CMSG_FIRSTHDR(&message);
	*control = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
	memcpy(CMSG_DATA(control), fds, count * sizeof(int));
	for (unsigned i = 0; i < 1 + below(3); i++)
		sendmsg(ends[0], &message, 0);
	if (one_in(2)) {
		message.msg_controllen = sizeof space;
		if (recvmsg(ends[1], &message, one_in(2) ? MSG_PEEK : MSG_CMSG_CLOEXEC) > 0)
			for (control = CMSG_FIRSTHDR(&message); control; control = CMSG_NXTHDR(&message, control)) {
				received = (int)((control->cmsg_len - CMSG_LEN(0)) / sizeof(int));
				memcpy(fds, CMSG_DATA(control), (size_t)received * sizeof(int));
			}
		for (int i = 0; i < received; i++)
			if (i)
				close(fds[i]);
			else
				put(fds[i], NONE);
	}
	close(ends[0]);
	if (one_in(3))
		put(ends[1], OTHER);
	else
		close(ends[1]);
}

struct blocked {
	pthread_t thread;
	volatile int done;
	unsigned way;
	int fd;
};

static void *block(void *given)
{
	struct blocked *self = given;
	struct pollfd polled = { self->fd, POLLIN, 0 };
	char bytes[64];
	fd_set set;

	FD_ZERO(&set);
	switch (self->way) {
	case 0:
		poll(&polled, 1, -1);
		break;
	case 1:
		if (self->fd < FD_SETSIZE) {
			FD_SET(self->fd, &set);
			select(self->fd + 1, &set, NULL, NULL, NULL);
		}
		break;
	default:
		read(self->fd, bytes, sizeof bytes);
	}
	self->done = 1;
	return NULL;
}

/* Threads that block in read, poll and select until a signal of their own ends it, some on the same open file. */
static void op_threads(void)
{
	struct blocked threads[4];
	unsigned count = 1 + below(4);
	int shared = open_device(0);

	if (shared < 0)
		return;
	for (unsigned i = 0; i < count; i++) {
		threads[i] = (struct blocked){ .way = below(4), .fd = one_in(2) ? shared : open_device(0) };
		if (threads[i].fd < 0)
			threads[i].fd = shared;
		if (pthread_create(&threads[i].thread, NULL, block, &threads[i])) {
			if (threads[i].fd != shared)
				close(threads[i].fd);
			count = i;
		}
	}
	nap(below(3000));
	for (unsigned i = 0; i < count; i++) {
		while (!threads[i].done) {
			pthread_kill(threads[i].thread, SIGUSR1);
			nap(200);
		}
		pthread_join(threads[i].thread, NULL);
		if (threads[i].fd != shared)
			close(threads[i].fd);
	}
	close(shared);
}

static void op_close(void)
{
	struct descriptor *slot = any_slot();

	if (slot->fd >= 0)
		close(slot->fd);
	*slot = (struct descriptor){ -1, NONE };
}

static void op_close_storm(void)
{
	int fds[64];

	for (int i = 0; i < 64; i++)
		fds[i] = open_device(O_NONBLOCK);
	for (int i = 0; i < 64; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (one_in(4))
		for (int i = 0; i < POOL; i++) {
			if (pool[i].fd >= 0)
				close(pool[i].fd);
			pool[i] = (struct descriptor){ -1, NONE };
		}
}

static void op_signal(void)
{
	static const int numbers[] = { SIGIO, SIGUSR1, SIGTERM, SIGHUP, SIGURG, SIGWINCH };

	kill(getpid(), numbers[below(6)]);
}

/* A ring with no library: polls and reads are begun, some cancelled, some left to the ring's end. */
static void op_uring(void)
{
	struct io_uring_params params = { .flags = one_in(4) ? IORING_SETUP_SUBMIT_ALL : 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 8, &params);
	size_t queue_bytes, entries_bytes = params.sq_entries * sizeof(struct io_uring_sqe);
	struct io_uring_sqe *entries;
	unsigned char *queue;
	unsigned count = 1 + below(8);

	if (ring < 0)
		return;
	queue_bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	queue = mmap(NULL, queue_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	entries = mmap(NULL, entries_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (queue != MAP_FAILED && entries != MAP_FAILED) {
		for (unsigned i = 0; i < count; i++) {
			static const uint8_t codes[] = { IORING_OP_POLL_ADD, IORING_OP_READ, IORING_OP_ASYNC_CANCEL };
			struct io_uring_sqe *entry = &entries[i];

			memset(entry, 0, sizeof *entry);
			entry->opcode = codes[i ? below(3) : below(2)];
			entry->user_data = i;
			entry->flags = one_in(4) ? IOSQE_ASYNC : 0;
			if (entry->opcode == IORING_OP_ASYNC_CANCEL) {
				entry->addr = below(i);
			} else {
				entry->fd = any_fd();
				if (entry->opcode == IORING_OP_POLL_ADD) {
					entry->poll32_events = POLLIN;
					entry->len = one_in(3) ? IORING_POLL_ADD_MULTI : 0;
				} else {
					entry->addr = (uint64_t)(uintptr_t)buffer;
					entry->len = below(4096);
				}
			}
			((unsigned *)(void *)(queue + params.sq_off.array))[i] = i;
		}
		__atomic_store_n((unsigned *)(void *)(queue + params.sq_off.tail), count, __ATOMIC_RELEASE);
		syscall(SYS_io_uring_enter, ring, count, one_in(3) ? 1 : 0, IORING_ENTER_GETEVENTS, NULL, 0);
		nap(below(1000));
	}
	if (queue != MAP_FAILED)
		munmap(queue, queue_bytes);
	if (entries != MAP_FAILED)
		munmap(entries, entries_bytes);
	if (one_in(4))
		put(ring, OTHER);
	else
		close(ring);
}
