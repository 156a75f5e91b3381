#include "client.h"
#include <uv.h>

static int fd;

static void readable(uv_poll_t *handle, int status, int events)
{
	(void)handle;
	if (status < 0)
		end_with("uv_poll status", -status);
	woken(fd, (events & UV_READABLE ? POLLIN : 0) | (events & UV_DISCONNECT ? POLLHUP : 0));
}

int main(int argc, char **argv)
{
	uv_poll_t handle;

	fd = open_device(argc, argv, O_NONBLOCK);
	if (uv_poll_init(uv_default_loop(), &handle, fd))
		return 1;
	uv_poll_start(&handle, UV_READABLE, readable);
	return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
