/* A FUSE server of one file, the root of its mount, that answers everything but the one opcode it is told to be silent
 * on, or slow with (least_ms and most_ms, if most_ms is not 0). Root has mounted it for us; FUSE_FD is the connection. It serves in a process of its own, so that whoever waits
 * for it waits for somebody who lives. */
#ifndef SILENT_H
#define SILENT_H
#include "attack.h"
#include <linux/fuse.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { SILENT_BYTES = 1 << 16, SILENT_LATER = 4096 };

struct silent {
	atomic_uint opcode;
	/* Our own session is answered all the same: only others are to wait. */
	atomic_uint to_strangers;
	atomic_uint least_ms, most_ms;
};

static struct silent *silent;

static void silent_answer(int fd, uint64_t unique, const void *body, size_t size)
{
	char out[SILENT_BYTES + 64];
	struct fuse_out_header header = { .len = sizeof header + size, .unique = unique };

	memcpy(out, &header, sizeof header);
	memcpy(out + sizeof header, body, size);
	if (write(fd, out, header.len) < 0 && errno != ENOENT)
		_exit(0);
}

static int silent_to(uint32_t pid)
{
	return !silent->to_strangers || getsid(pid) != getsid(0);
}

static struct {
	uint64_t unique;
	long long due_ms;
} silent_later[SILENT_LATER];
static int silent_waiting;

static long long silent_now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static void silent_put_off(uint64_t unique)
{
	unsigned spread_ms = silent->most_ms - silent->least_ms + 1;

	if (silent_waiting < SILENT_LATER) {
		silent_later[silent_waiting].unique = unique;
		silent_later[silent_waiting++].due_ms = silent_now_ms() + silent->least_ms + random() % spread_ms;
	}
}

/* Answer what is due; how long until the next is, -1 if none waits. */
static int silent_answer_late(int fd)
{
	struct fuse_poll_out readable = { .revents = POLLIN };
	long long now_ms = silent_now_ms(), next_ms = -1;

	for (int i = 0; i < silent_waiting;) {
		long long left_ms = silent_later[i].due_ms - now_ms;
		if (left_ms <= 0) {
			int is_poll = silent->opcode == FUSE_POLL;
			silent_answer(fd, silent_later[i].unique, is_poll ? &readable : NULL, is_poll ? sizeof readable : 0);
			silent_later[i] = silent_later[--silent_waiting];
			continue;
		}
		if (next_ms < 0 || left_ms < next_ms)
			next_ms = left_ms;
		i++;
	}
	return next_ms;
}

static void silent_serve(int fd)
{
	static char in[SILENT_BYTES + 4096], zeroes[SILENT_BYTES];
	struct fuse_in_header header;

	for (;;) {
		struct pollfd asked = { .fd = fd, .events = POLLIN };
		if (poll(&asked, 1, silent_answer_late(fd)) == 0)
			continue;
		ssize_t length = read(fd, in, sizeof in);
		if (length < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (length < (ssize_t)sizeof header)
			_exit(0);
		memcpy(&header, in, sizeof header);
		if (header.opcode == silent->opcode && silent_to(header.pid)) {
			if (silent->most_ms)
				silent_put_off(header.unique);
			continue;
		}
		if (header.opcode == FUSE_INIT) {
			struct fuse_init_out out = { .major = 7, .minor = 31, .max_write = 4096, .max_background = 64,
						     .congestion_threshold = 48, .time_gran = 1 };
			silent_answer(fd, header.unique, &out, sizeof out);
		} else if (header.opcode == FUSE_GETATTR) {
			struct fuse_attr_out out = { .attr_valid = 3600 };
			out.attr = (struct fuse_attr){ .ino = 1, .size = SILENT_BYTES, .mode = S_IFREG | 0666, .nlink = 1,
						       .blksize = 4096 };
			silent_answer(fd, header.unique, &out, sizeof out);
		} else if (header.opcode == FUSE_OPEN) {
			struct fuse_open_out out = { .fh = 1 };
			silent_answer(fd, header.unique, &out, sizeof out);
		} else if (header.opcode == FUSE_READ) {
			struct fuse_read_in *asked = (void *)(in + sizeof header);
			silent_answer(fd, header.unique, zeroes, asked->size < SILENT_BYTES ? asked->size : SILENT_BYTES);
		} else if (header.opcode != FUSE_INTERRUPT && header.opcode != FUSE_FORGET)
			silent_answer(fd, header.unique, NULL, 0);
	}
}

/* Have the kernel forget the pages of the file, mapped ones as well. */
static inline void silent_invalidate(int fd)
{
	struct {
		struct fuse_out_header header;
		struct fuse_notify_inval_inode_out what;
	} out = { { sizeof out, FUSE_NOTIFY_INVAL_INODE, 0 }, { .ino = FUSE_ROOT_ID } };

	if (write(fd, &out, sizeof out) < 0)
		fail("invalidate");
}

static void silent_start(int fd)
{
	silent = mmap(NULL, sizeof *silent, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (silent == MAP_FAILED)
		fail("mmap");
	if (fork() == 0)
		silent_serve(fd);
}
#endif
