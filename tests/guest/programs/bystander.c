/* Asks the device with poll(), without waiting, every INTERVAL_MS, and says how long each answer took, in
 * microseconds. A program that has nothing to do with the shortage: its poll() is the server's responsiveness.
 *
 *   bystander PATH INTERVAL_MS
 */
#include "common.h"

int main(int argc, char **argv)
{
	struct pollfd device = { .events = POLLIN };
	char text[32];

	if (argc < 3)
		return 2;
	device.fd = open(argv[1], O_RDONLY | O_NONBLOCK);
	if (device.fd < 0)
		fail(argv[1]);
	mlockall(MCL_CURRENT);
	say("ready", "");
	for (;;) {
		int64_t begin_ns = now_ns();

		if (poll(&device, 1, 0) < 0 || device.revents & POLLERR)
			fail("poll");
		snprintf(text, sizeof(text), "%" PRId64, (now_ns() - begin_ns) / 1000);
		say("answer", text);
		sleep_until_ns(begin_ns + strtoll(argv[2], NULL, 10) * 1000000LL);
	}
}
