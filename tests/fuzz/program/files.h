/* Operations on files: open, read, write, map, ioctl, splice, attributes. */
#pragma once

#include "state.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/openat2.h>

static int any_open_flags(void)
{
	static const int flags[] = { O_APPEND, O_CREAT, O_EXCL,	 O_TRUNC, O_NONBLOCK, O_DIRECTORY, O_NOFOLLOW, O_DIRECT,
				     O_NOATIME, O_PATH, O_SYNC, O_DSYNC, O_ASYNC, O_CLOEXEC, O_TMPFILE, O_NOCTTY, 1 << 30 };
	int chosen = below(2) ? O_RDONLY : (int)below(4);

	for (int i = (int)below(5); i > 0; i--)
		chosen |= flags[below(sizeof flags / sizeof *flags)];
	return chosen;
}

static void op_open(void)
{
	struct open_how how = { .resolve = one_in(2) ? 0 : below(64) };

	switch (below(4)) {
	case 0:
		put(open_device(one_in(2) ? O_NONBLOCK : 0), OF_MOUNT);
		break;
	case 1:
		how.flags = (unsigned)any_open_flags();
		put((int)syscall(SYS_openat2, AT_FDCWD, any_path(), &how, sizeof how), OF_MOUNT);
		break;
	case 2:
		put(openat(of_kind(OF_MOUNT), one_in(2) ? "mem_notify" : "..", any_open_flags(), 0600), OF_MOUNT);
		break;
	default:
		put(open(likely_path(), any_open_flags(), 0600), OF_MOUNT);
	}
}

static void op_read(void)
{
	int fd = any_fd();
	struct iovec parts[4];

	for (int i = 0; i < 4; i++)
		parts[i] = (struct iovec){ any_address(), any_size() };
	switch (below(4)) {
	case 0:
		pread(fd, any_address(), any_size(), any_offset());
		break;
	case 1:
		readv(fd, parts, (int)below(5));
		break;
	case 2:
		preadv2(fd, parts, (int)below(5), any_offset(), (int)below(128));
		break;
	default:
		read(fd, any_address(), any_size());
	}
}

/* What is written to `simulate` may tell all users, for a moment; what it cannot understand is a line in the log. */
static void op_write(void)
{
	static const char *const commands[] = { "all 0.01\n", "all 0\n", "", "node0-Normal 0.01" };
	int fd = one_in(4) ? open(paths[4], O_WRONLY | O_NONBLOCK) : any_fd();
	const char *text = one_in(50) ? "junk" : commands[below(4)];
	struct iovec part = { (void *)(uintptr_t)text, strlen(text) };

	switch (below(4)) {
	case 0:
		pwrite(fd, text, strlen(text), any_offset());
		break;
	case 1:
		pwritev2(fd, &part, 1, any_offset(), (int)below(128));
		break;
	case 2:
		write(fd, no_access, any_size());
		break;
	default:
		write(fd, text, strlen(text));
	}
	if (fd >= 0 && one_in(2))
		put(dup(fd), OF_MOUNT);
	for (int i = 0; i < POOL; i++)
		if (pool[i].fd == fd)
			return;
	if (fd > 2)
		close(fd);
}

static void op_seek(void)
{
	lseek(any_fd(), any_offset(), (int)below(6));
}

static void op_map(void)
{
	static const int kinds[] = { MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE | MAP_SYNC, MAP_PRIVATE | MAP_POPULATE,
				     MAP_SHARED | MAP_LOCKED };
	size_t length = 4096 * (1 + below(4));
	unsigned char *map = mmap(NULL, length, (int)below(8), kinds[below(5)], any_fd(), 4096 * (off_t)below(3));

	if (map == MAP_FAILED)
		return;
	madvise(map, length, (int)below(26));
	may_fault = 1;
	if (!sigsetjmp(fault, 1)) {
		buffer[0] = *(volatile unsigned char *)map;
		*(volatile unsigned char *)map = 1;
	}
	may_fault = 0;
	msync(map, length, one_in(2) ? MS_SYNC : MS_ASYNC);
	munmap(map, length);
}

/* Of files of the mount only, since as root it could change the network by a socket; and nothing is frozen. */
static void op_ioctl(void)
{
	static const unsigned long known[] = { FIONREAD,       FIONBIO,	       FIOASYNC,       FIOCLEX,	      FIONCLEX,
					       FIOQSIZE,       FIBMAP,	       FIGETBSZ,       FS_IOC_GETFLAGS, FS_IOC_SETFLAGS,
					       FS_IOC_FIEMAP,  FS_IOC_FSGETXATTR, FS_IOC_GETVERSION, TCGETS,  FIDEDUPERANGE };
	unsigned long number = one_in(2) ? known[below(15)] : next_random() >> 32;
	int fd = of_kind(OF_MOUNT), type;
	socklen_t length = sizeof type;

	if (number == FIFREEZE || number == FITHAW || fd < 3 || !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length))
		return;
	memset(buffer, (int)below(256), 512);
	ioctl(fd, number, one_in(3) ? any_address() : (void *)buffer);
	ioctl(fd, FICLONE, any_fd());
}

static void op_splice(void)
{
	int ends[2], fd = any_fd();
	off_t offset = any_offset(), other = any_offset();
	struct iovec part = { buffer, 100 };

	if (pipe2(ends, O_NONBLOCK | O_CLOEXEC))
		return;
	splice(fd, one_in(2) ? &offset : NULL, ends[1], NULL, any_size() & 0xfffff, below(16));
	vmsplice(ends[1], &part, 1, below(16));
	sendfile(ends[1], fd, one_in(2) ? &offset : NULL, any_size() & 0xfffff);
	tee(ends[0], of_kind(PIPE), 100, SPLICE_F_NONBLOCK);
	splice(ends[0], NULL, of_kind(OF_MOUNT), one_in(2) ? &other : NULL, 100, below(16));
	copy_file_range(fd, &offset, any_fd(), &other, any_size() & 0xfffff, 0);
	copy_file_range(fd, NULL, of_kind(PIPE), NULL, 1, 0);
	put(ends[0], PIPE);
	put(ends[1], PIPE);
}

static void op_attributes(void)
{
	const char *path = any_path(), *other = any_path();
	struct statx extended;
	struct stat status;
	struct statfs system;
	struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, { .tv_sec = (time_t)next_random() } };
	char text[256];

	switch (below(18)) {
	case 0:
		statx(AT_FDCWD, path, (int)(below(4) << 13) | AT_SYMLINK_NOFOLLOW, (unsigned)next_random(), &extended);
		break;
	case 1:
		statx(any_fd(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &extended);
		break;
	case 2:
		fstat(any_fd(), &status);
		lstat(path, &status);
		break;
	case 3:
		utimensat(AT_FDCWD, path, one_in(2) ? times : NULL, 0);
		futimens(any_fd(), times);
		break;
	case 4:
		chmod(path, below(010000));
		fchmod(any_fd(), below(010000));
		break;
	case 5:
		chown(path, below(70000), below(70000));
		fchown(any_fd(), (uid_t)-1, (gid_t)-1);
		break;
	case 6:
		link(path, other);
		symlink(path, other);
		break;
	case 7:
		rename(path, other);
		syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, other, below(8));
		break;
	case 8:
		unlink(path);
		rmdir(path);
		break;
	case 9:
		mkdir(path, 0700);
		mknod(path, S_IFIFO | 0600, 0);
		mknod(path, S_IFSOCK | 0600, 0);
		break;
	case 10:
		getxattr(path, "user.x", text, sizeof text);
		setxattr(path, "user.x", "y", 1, (int)below(3));
		break;
	case 11:
		listxattr(path, text, one_in(2) ? sizeof text : 0);
		removexattr(path, "user.x");
		fgetxattr(any_fd(), "security.capability", text, sizeof text);
		break;
	case 12:
		access(path, (int)below(8));
		faccessat(AT_FDCWD, path, (int)below(8), AT_EACCESS);
		break;
	case 13:
		statfs(path, &system);
		fstatfs(any_fd(), &system);
		break;
	case 14:
		readlink(path, text, sizeof text);
		break;
	case 15:
		syscall(SYS_getdents64, any_fd(), buffer, one_in(2) ? 4096 : 30);
		break;
	case 16:
		truncate(path, any_offset());
		ftruncate(any_fd(), any_offset());
		break;
	default:
		if (!fchdir(of_kind(OF_MOUNT)))
			access("mem_notify", R_OK);
		if (chdir("/"))
			_exit(2);
	}
}

static void op_handle(void)
{
	union {
		struct file_handle handle;
		char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} named = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int mount_id;

	if (name_to_handle_at(AT_FDCWD, any_path(), &named.handle, &mount_id, (int)(below(2) * AT_SYMLINK_FOLLOW)) == 0) {
		if (one_in(4))
			named.handle.f_handle[below(8)] ^= 1;
		put(open_by_handle_at(of_kind(OF_MOUNT), &named.handle, any_open_flags() & ~O_CREAT), OF_MOUNT);
	}
}

static void op_sync(void)
{
	int fd = any_fd();

	switch (below(7)) {
	case 0:
		flock(fd, (int)below(16));
		break;
	case 1:
		fsync(fd);
		break;
	case 2:
		fdatasync(fd);
		break;
	case 3:
		fallocate(fd, (int)below(128), any_offset(), any_offset());
		break;
	case 4:
		posix_fadvise(fd, any_offset(), any_offset(), (int)below(8));
		readahead(fd, 0, 4096);
		break;
	case 5:
		sync_file_range(fd, any_offset(), any_offset(), below(8));
		break;
	default:
		/* Of the mount only: others have much to write. */
		syncfs(of_kind(OF_MOUNT));
	}
}
