/* worker work SECONDS: an ordinary program that works as much as it can; prints "done N", its rounds in that time.
 * worker spin COUNT: as many ordinary programs that never sleep; prints "ready". */
#include "attack.h"

enum { ROUND = 20000 };

static double now_s(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void work(void)
{
	for (volatile int i = 0; i < ROUND; i++)
		;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "spin")) {
		for (int i = 1; i < atoi(argv[2]); i++)
			if (fork() == 0)
				for (;;)
					work();
		ready();
		for (;;)
			work();
	}
	double end = now_s() + atof(argv[2]);
	long rounds = 0;
	for (; now_s() < end; rounds++)
		work();
	printf("done %ld\n", rounds);
	return 0;
}
