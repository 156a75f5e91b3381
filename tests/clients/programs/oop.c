#include "client.h"
#include <oop.h>

static void *readable(oop_source *source, int fd, oop_event event, void *unused)
{
	(void)source;
	(void)event;
	(void)unused;
	woken(fd, 0);
	return OOP_CONTINUE;
}

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	oop_source_sys *system = oop_sys_new();
	oop_source *source = oop_sys_source(system);

	source->on_fd(source, fd, OOP_READ, readable, NULL);
	oop_sys_run(system);
	return 1;
}
