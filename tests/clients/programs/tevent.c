#include "client.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/time.h>
#include <talloc.h>
#include <tevent.h>

static int fd;

static void readable(struct tevent_context *context, struct tevent_fd *event, uint16_t flags, void *unused)
{
	(void)context;
	(void)event;
	(void)flags;
	(void)unused;
	woken(fd, 0);
}

int main(int argc, char **argv)
{
	struct tevent_context *context = tevent_context_init(NULL);

	fd = open_device(argc, argv, O_NONBLOCK);
	if (!tevent_add_fd(context, context, fd, TEVENT_FD_READ, readable, NULL))
		return 1;
	return tevent_loop_wait(context);
}
