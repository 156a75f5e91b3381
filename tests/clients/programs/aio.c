/* Linux AIO, IOCB_CMD_POLL. */
#include <linux/aio_abi.h>
#include <sys/syscall.h>

#include "client.h"

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	struct iocb wanted = { .aio_lio_opcode = IOCB_CMD_POLL, .aio_fildes = (unsigned)fd, .aio_buf = POLLIN };
	struct iocb *list = &wanted;
	aio_context_t context = 0;
	struct io_event event;

	if (syscall(SYS_io_setup, 4, &context) < 0)
		end_with("io_setup", errno);
	for (;;) {
		if (syscall(SYS_io_submit, context, 1, &list) != 1)
			end_with("io_submit", errno);
		if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1)
			woken(fd, (unsigned)event.res);
	}
}
