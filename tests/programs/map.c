/* map FILE shared|private: maps a page of FILE and looks into it; prints the error, or what the page held. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	int fd;
	char *page;

	if (argc != 3 || (fd = open(argv[1], O_RDONLY)) < 0)
		return 2;
	page = mmap(NULL, 4096, PROT_READ, strcmp(argv[2], "shared") ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		puts(strerrorname_np(errno));
		return 0;
	}
	printf("%d\n", *(volatile char *)page);
	return 0;
}
