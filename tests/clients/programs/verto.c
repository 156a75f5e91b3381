#include "client.h"
#include <verto.h>

static void readable(verto_ctx *context, verto_ev *event)
{
	(void)context;
	if (verto_get_fd_state(event) & VERTO_EV_FLAG_IO_ERROR)
		woken(verto_get_fd(event), POLLERR);
	else
		woken(verto_get_fd(event), 0);
}

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	verto_ctx *context = verto_default(NULL, VERTO_EV_TYPE_NONE);

	if (!context || !verto_add_io(context, VERTO_EV_FLAG_PERSIST | VERTO_EV_FLAG_IO_READ, readable, fd))
		return 1;
	verto_run(context);
}
