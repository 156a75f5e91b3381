/* Says what the kernel's counters are whenever those of anonymous reclaim or of the OOM killer changed, and every
 * tenth look besides: pgscan_anon pgscan_file pswpout oom_kill nr_free_pages file_pages. Ends on SIGTERM.
 *
 *   watch INTERVAL_MS
 */
#include "common.h"

static uint64_t counter(const char *vmstat, const char *name)
{
	const char *at = strstr(vmstat, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

int main(int argc, char **argv)
{
	static char text[32768];
	char line[256];
	uint64_t last_anon = 0, last_kills = 0, looks = 0;
	int fd = open("/proc/vmstat", O_RDONLY);

	if (argc < 2 || fd < 0)
		return 2;
	mlockall(MCL_CURRENT);
	say("ready", "");
	for (;; looks++) {
		ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

		if (got <= 0)
			fail("/proc/vmstat");
		text[got] = 0;
		uint64_t anon = counter(text, "\npgscan_anon "), kills = counter(text, "\noom_kill ");

		if (anon != last_anon || kills != last_kills || looks % 10 == 0) {
			snprintf(line, sizeof(line), "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
				 anon, counter(text, "\npgscan_file "), counter(text, "\npswpout "), kills,
				 counter(text, "nr_free_pages "),
				 counter(text, "\nnr_inactive_file ") + counter(text, "\nnr_active_file "));
			say("vmstat", line);
		}
		last_anon = anon;
		last_kills = kills;
		sleep_until_ns(now_ns() + strtoll(argv[1], NULL, 10) * 1000000LL);
	}
}
