/* A blocked read(). */
#include "client.h"

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, 0);

	for (;;)
		woken(fd, 0);
}
