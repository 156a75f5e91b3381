#include "client.h"
#include <apr_general.h>
#include <apr_poll.h>
#include <apr_portable.h>

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	apr_pool_t *pool;
	apr_pollset_t *set;
	apr_pollfd_t wanted = { .desc_type = APR_POLL_FILE, .reqevents = APR_POLLIN };

	apr_initialize();
	apr_pool_create(&pool, NULL);
	apr_os_file_put(&wanted.desc.f, &fd, 0, pool);
	if (apr_pollset_create(&set, 1, pool, 0) || apr_pollset_add(set, &wanted))
		return 1;
	for (;;) {
		apr_int32_t count = 0;
		const apr_pollfd_t *found;

		if (apr_pollset_poll(set, -1, &count, &found) == APR_SUCCESS && count)
			woken(fd, (found->rtnevents & APR_POLLIN ? POLLIN : 0) | (found->rtnevents & APR_POLLHUP ? POLLHUP : 0) |
				(found->rtnevents & APR_POLLERR ? POLLERR : 0));
	}
}
