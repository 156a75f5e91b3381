/* The peer of the poll() round trip: the smallest libfuse server whose one file, "file", answers poll with "nothing".
 *
 *   poll_peer MOUNTPOINT      serves in the foreground until it is unmounted or gets SIGTERM
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void fill(fuse_ino_t inode, struct stat *attributes)
{
	memset(attributes, 0, sizeof(*attributes));
	attributes->st_ino = inode;
	attributes->st_mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0444;
	attributes->st_nlink = 1;
}

static void peer_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = { .ino = 2, .attr_timeout = 60, .entry_timeout = 60 };

	if (parent != FUSE_ROOT_ID || strcmp(name, "file")) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	fill(entry.ino, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static void peer_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	struct stat attributes;

	(void)info;
	fill(inode, &attributes);
	fuse_reply_attr(request, &attributes, 60);
}

static void peer_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
	(void)inode;
	info->direct_io = info->nonseekable = 1;
	fuse_reply_open(request, info);
}

static void peer_poll(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info, struct fuse_pollhandle *handle)
{
	(void)inode;
	(void)info;
	if (handle)
		fuse_pollhandle_destroy(handle);
	fuse_reply_poll(request, 0);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = peer_lookup,
	.getattr = peer_getattr,
	.open = peer_open,
	.poll = peer_poll,
};

int main(int argc, char **argv)
{
	char *words[] = { "poll_peer", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, words);
	struct fuse_session *session;
	int result;

	if (argc != 2) {
		fprintf(stderr, "usage: poll_peer MOUNTPOINT\n");
		return 2;
	}
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[1]))
		return 2;
	puts("ready");
	fflush(stdout);
	result = fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return result < 0;
}
