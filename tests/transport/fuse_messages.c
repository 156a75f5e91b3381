/* Writes the messages of test_wire.py as this machine's <linux/fuse.h> lays them out, each as a line of hex. */
#include <linux/fuse.h>
#include <linux/ioctl.h>
#include <stdio.h>
#include <string.h>

static void show(const char *name, const void *data, size_t size)
{
	const unsigned char *byte = data;

	printf("%s ", name);
	while (size--)
		printf("%02x", *byte++);
	putchar('\n');
}

#define SHOW(name, ...) \
	do { \
		__typeof__(__VA_ARGS__) value = __VA_ARGS__; \
		show(name, &value, sizeof value); \
	} while (0)

#define ATTR \
	{ .ino = 2, .atime = 5, .mtime = 5, .ctime = 5, .atimensec = 6, .mtimensec = 6, .ctimensec = 6, \
	  .mode = 0100444, .nlink = 1, .uid = 7, .gid = 8, .blksize = 4096 }

int main(void)
{
	SHOW("header", (struct fuse_in_header){.len = 40, .opcode = FUSE_POLL, .unique = 0x1112131415161718,
					       .nodeid = 0x2122232425262728, .uid = 0x31323334,
					       .gid = 0x41424344, .pid = 0x51525354});
	SHOW("open_in", (struct fuse_open_in){.flags = 0x8800});
	SHOW("read_in", (struct fuse_read_in){.fh = 0x0102030405060708, .offset = 9, .size = 4096, .read_flags = 2,
					      .lock_owner = 3, .flags = 0x800});
	SHOW("release_in", (struct fuse_release_in){.fh = 0x0102030405060708, .flags = 1, .release_flags = 2,
						    .lock_owner = 3});
	SHOW("poll_in", (struct fuse_poll_in){.fh = 5, .kh = 0x0102030405060708,
					      .flags = FUSE_POLL_SCHEDULE_NOTIFY, .events = 0x41});
	SHOW("interrupt_in", (struct fuse_interrupt_in){.unique = 0x0102030405060708});
	SHOW("ioctl_in", (struct fuse_ioctl_in){.fh = 0x0102030405060708, .flags = 1, .cmd = _IOR('m', 0x4d, char[8]),
						.arg = 2, .in_size = 3, .out_size = 8});
	SHOW("error", (struct fuse_out_header){.len = 16, .error = -11, .unique = 9});
	SHOW("open_out", (struct fuse_out_header){.len = 32, .unique = 9});
	SHOW("open_out+", (struct fuse_open_out){.fh = 7, .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE |
							     FOPEN_STREAM | FOPEN_NOFLUSH});
	SHOW("ioctl_out", (struct fuse_out_header){.len = 40, .unique = 9});
	SHOW("ioctl_out+", (struct fuse_ioctl_out){.result = 0});
	SHOW("entry_out", (struct fuse_out_header){.len = 144, .unique = 9});
	SHOW("entry_out+", (struct fuse_entry_out){.nodeid = 2, .entry_valid = 60, .attr_valid = 60, .attr = ATTR});
	SHOW("attr_out", (struct fuse_out_header){.len = 120, .unique = 9});
	SHOW("attr_out+", (struct fuse_attr_out){.attr_valid = 60, .attr = ATTR});
	SHOW("poll_out", (struct fuse_out_header){.len = 24, .unique = 9});
	SHOW("poll_out+", (struct fuse_poll_out){.revents = 0x41});
	SHOW("notify", (struct fuse_out_header){.len = 24, .error = FUSE_NOTIFY_POLL});
	SHOW("notify+", (struct fuse_notify_poll_wakeup_out){.kh = 0x0102030405060708});
	printf("opcodes FORGET=%d OPEN=%d READ=%d WRITE=%d RELEASE=%d FLUSH=%d INTERRUPT=%d IOCTL=%d POLL=%d ", FUSE_FORGET,
	       FUSE_OPEN, FUSE_READ, FUSE_WRITE, FUSE_RELEASE, FUSE_FLUSH, FUSE_INTERRUPT, FUSE_IOCTL, FUSE_POLL);
	printf("LOOKUP=%d GETATTR=%d INIT=%d RELEASEDIR=%d ACCESS=%d DESTROY=%d ", FUSE_LOOKUP, FUSE_GETATTR, FUSE_INIT,
	       FUSE_RELEASEDIR, FUSE_ACCESS, FUSE_DESTROY);
#if FUSE_KERNEL_MINOR_VERSION >= 39
	printf("STATX=%d ", FUSE_STATX);
#else
	printf("STATX=52 ");
#endif
	printf("BATCH_FORGET=%d CUSE_INIT=%d\n", FUSE_BATCH_FORGET, CUSE_INIT);
	return 0;
}
