/* GIOChannel, as older programs use it. */
#include "client.h"
#include <glib.h>

static gboolean readable(GIOChannel *channel, GIOCondition condition, gpointer unused)
{
	(void)unused;
	woken(g_io_channel_unix_get_fd(channel), condition);
	return TRUE;
}

int main(int argc, char **argv)
{
	GIOChannel *channel = g_io_channel_unix_new(open_device(argc, argv, O_NONBLOCK));

	g_io_add_watch(channel, G_IO_IN | G_IO_ERR | G_IO_HUP, readable, NULL);
	g_main_loop_run(g_main_loop_new(NULL, FALSE));
}
