/* io_uring by its system calls. The third argument says what is asked for: poll, multishot or read. */
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "client.h"

static int ring;
static unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

static void *map(size_t size, off_t what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);

	if (at == MAP_FAILED)
		end_with("mmap", errno);
	return at;
}

static void set_up(void)
{
	struct io_uring_params p = { 0 };
	char *sq, *cq;

	ring = (int)syscall(SYS_io_uring_setup, 4, &p);
	if (ring < 0)
		end_with("io_uring_setup", errno);
	sq = map(p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	cq = map(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	sqes = map(p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	sq_tail = (unsigned *)(sq + p.sq_off.tail);
	sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
	sq_array = (unsigned *)(sq + p.sq_off.array);
	cq_head = (unsigned *)(cq + p.cq_off.head);
	cq_tail = (unsigned *)(cq + p.cq_off.tail);
	cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
	cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static void submit(struct io_uring_sqe wanted)
{
	unsigned tail = *sq_tail, index = tail & *sq_mask;

	sqes[index] = wanted;
	sq_array[index] = index;
	__atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
	syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
}

/* One completion: its result, and whether more are to come of the same request. */
static int complete(unsigned *flags)
{
	int result;

	while (__atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) == *cq_head)
		syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	result = cqes[*cq_head & *cq_mask].res;
	*flags = cqes[*cq_head & *cq_mask].flags;
	__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
	return result;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 3 ? argv[3] : "poll";
	int reading = !strcmp(kind, "read"), fd = open_device(argc, argv, reading ? 0 : O_NONBLOCK);
	static char text[4096];
	struct io_uring_sqe wanted = { .opcode = IORING_OP_POLL_ADD, .fd = fd, .poll32_events = POLLIN };
	unsigned flags = 0;

	if (!strcmp(kind, "multishot"))
		wanted.len = IORING_POLL_ADD_MULTI;
	if (reading)
		wanted = (struct io_uring_sqe){ .opcode = IORING_OP_READ, .fd = fd, .off = -1ULL,
			.addr = (unsigned long)text, .len = sizeof(text) - 1 };
	set_up();
	for (;;) {
		int result;

		if (!(flags & IORING_CQE_F_MORE))
			submit(wanted);
		result = complete(&flags);
		if (result <= 0)
			end_with(result ? "" : "end of file", -result);
		if (reading)
			printf("told %.*s\n", (int)strcspn(text, "\n"), text);
		else
			woken(fd, (unsigned)result);
	}
}
