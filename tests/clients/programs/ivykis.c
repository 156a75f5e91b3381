#include "client.h"
#include <iv.h>

static void readable(void *fd)
{
	woken(*(int *)fd, 0);
}

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	struct iv_fd watched;

	iv_init();
	IV_FD_INIT(&watched);
	watched.fd = fd;
	watched.cookie = &fd;
	watched.handler_in = readable;
	iv_fd_register(&watched);
	iv_main();
}
