/* Waits for the device in io_uring (POLL_ADD), again and again: a line `told EVENTS` for each completion.
 *
 * uring DEVICE; by plain system calls, so that it needs no library. Exit code 77: io_uring is not to be had here.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned *at(char *ring, unsigned offset) { return (unsigned *)(ring + offset); }

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    int fd = open(argv[1], O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return 2;
    struct io_uring_params given;
    memset(&given, 0, sizeof given);
    int ring = syscall(SYS_io_uring_setup, 4, &given);
    if (ring < 0)
        return 77;
    size_t sq_bytes = given.sq_off.array + given.sq_entries * sizeof(unsigned);
    size_t cq_bytes = given.cq_off.cqes + given.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, given.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED,
                                        ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || entries == MAP_FAILED)
        return 77;
    struct io_uring_cqe *results = (struct io_uring_cqe *)(cq + given.cq_off.cqes);
    for (;;) {
        unsigned tail = *at(sq, given.sq_off.tail), index = tail & *at(sq, given.sq_off.ring_mask);
        memset(&entries[index], 0, sizeof entries[index]);
        entries[index].opcode = IORING_OP_POLL_ADD;
        entries[index].fd = fd;
        entries[index].poll32_events = POLLIN;
        at(sq, given.sq_off.array)[index] = index;
        atomic_store((_Atomic unsigned *)at(sq, given.sq_off.tail), tail + 1);
        if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
            return 1;
        unsigned head = *at(cq, given.cq_off.head);
        printf("told %d\n", results[head & *at(cq, given.cq_off.ring_mask)].res);
        fflush(stdout);
        atomic_store((_Atomic unsigned *)at(cq, given.cq_off.head), head + 1);
    }
}
