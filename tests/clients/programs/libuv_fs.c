/* uv_fs_read(): a thread of the pool, blocked in read(). */
#include "client.h"
#include <uv.h>

static char text[4096];
static uv_buf_t buffer;
static int fd;

static void ask(uv_fs_t *request);

static void done(uv_fs_t *request)
{
	if (request->result <= 0)
		end_with(request->result ? "" : "end of file", (int)-request->result);
	text[request->result] = '\0';
	printf("told %.*s\n", (int)strcspn(text, "\n"), text);
	uv_fs_req_cleanup(request);
	ask(request);
}

static void ask(uv_fs_t *request)
{
	uv_fs_read(uv_default_loop(), request, fd, &buffer, 1, -1, done);
}

int main(int argc, char **argv)
{
	uv_fs_t request;

	fd = open_device(argc, argv, 0);
	buffer = uv_buf_init(text, sizeof(text) - 1);
	ask(&request);
	return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
