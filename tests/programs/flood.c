/* flood UID FILE attributes|text THREADS: so many threads of that user ask for attributes of FILE, or read it, without
 * end. Prints the number of threads once all of them run; ends when its standard input does. */
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *file;

static void *ask_attributes(void *unused)
{
	struct statx attributes;

	for (;;)
		statx(AT_FDCWD, file, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &attributes);
	return unused;
}

static void *read_text(void *unused)
{
	char text[4096];

	for (;;) {
		int fd = open(file, O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			if (read(fd, text, sizeof text) < 0)
				text[0] = 0;
			close(fd);
		}
	}
	return unused;
}

int main(int argc, char **argv)
{
	int count = argc == 5 ? atoi(argv[4]) : 0;
	int started = 0;
	char byte;
	pthread_attr_t small;
	pthread_t thread;
	uid_t uid;

	if (count <= 0)
		return 2;
	uid = (uid_t)atoi(argv[1]);
	file = argv[2];
	if (setgroups(0, NULL) || setgid(uid) || setuid(uid))
		return 2;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	while (started < count &&
	       !pthread_create(&thread, &small, strcmp(argv[3], "text") ? ask_attributes : read_text, NULL))
		started++;
	printf("%d\n", started);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
