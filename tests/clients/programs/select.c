#include <sys/select.h>

#include "client.h"

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);

	for (;;) {
		fd_set readable;

		FD_ZERO(&readable);
		FD_SET(fd, &readable);
		if (select(fd + 1, &readable, NULL, NULL, NULL) > 0)
			woken(fd, 0);
	}
}
