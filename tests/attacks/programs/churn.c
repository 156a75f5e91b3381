/* churn DEVICE KIB USERID: opens the device as that user, holds so much memory, and takes and gives back some more all
 * the time: its cgroup is nearly full, and comes under pressure and is clear again, many times a second. */
#include "attack.h"
#include <sys/mman.h>

enum { MORE = 640 << 10 };

static char *take(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	memset(memory, 1, size);
	return memory;
}

int main(int argc, char **argv)
{
	if (argc != 4 || setgid(atoi(argv[3])) || setuid(atoi(argv[3])))
		fail("setuid");
	open_device(argv[1]);
	take((size_t)atoi(argv[2]) << 10);
	ready();
	for (;;) {
		char *more = take(MORE);
		rest(30);
		munmap(more, MORE);
		rest(30);
	}
}
