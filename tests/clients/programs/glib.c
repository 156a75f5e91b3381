#include "client.h"
#include <glib-unix.h>

static gboolean readable(gint fd, GIOCondition condition, gpointer unused)
{
	(void)unused;
	woken(fd, condition);
	return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
	g_unix_fd_add(open_device(argc, argv, O_NONBLOCK), G_IO_IN, readable, NULL);
	g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
