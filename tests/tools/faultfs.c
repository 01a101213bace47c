/*
 * faultfs: a FUSE file system with one file that fails on request.
 *
 *     faultfs BACKING DIR [fuse options]
 *
 * DIR/model reads from BACKING, DIR/control takes commands.
 *
 * Faults inside an io_uring cannot be injected by strace or seccomp; a file system below it can.
 * Each line written to DIR/control replaces the fault in force:
 *
 *     clear              reads are honest
 *     flip OFFSET BIT    bit 0..7 of the byte at OFFSET is inverted in every read that covers it
 *     glitch OFFSET BIT  the same in the next such read only
 *     short              reads return at most 4 KiB less than asked, but never nothing
 *     stall MS           every read takes MS milliseconds, or less when another command comes
 *     eio COUNT          the next COUNT reads fail with EIO
 *
 * Reading DIR/control gives the number of reads served, and of those that stall now. FUSE's own
 * threads serve, as a single one would hide races; the fault is one atomic snapshot per read.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/flag.h"

enum fault_kind { FAULT_NONE, FAULT_FLIP, FAULT_GLITCH, FAULT_SHORT, FAULT_STALL, FAULT_EIO };

struct fault {
    enum fault_kind kind;
    int64_t a;
    int64_t b;
    uint64_t nth; /* of the commands */
};

static const char model_path[] = "/model";
static const char control_path[] = "/control";

static int backing_fd = -1;
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t fault_changed = PTHREAD_COND_INITIALIZER;
static struct fault fault_now; /* [lock] */
static unsigned n_stalled;     /* [lock] */
static atomic_ullong n_reads;

static int faultfs_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    (void)info;
    memset(st, 0, sizeof *st);
    if (strcmp(path, "/") == 0) {
        st->st_mode = S_IFDIR | 0700;
        st->st_nlink = 2;
        return 0;
    }
    if (strcmp(path, control_path) == 0) {
        st->st_mode = S_IFREG | 0600;
        st->st_nlink = 1;
        return 0;
    }
    if (strcmp(path, model_path) != 0)
        return -ENOENT;
    if (fstat(backing_fd, st) != 0)
        return -errno;
    st->st_mode = S_IFREG | 0400;
    return 0;
}

static int faultfs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
    struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    (void)offset;
    (void)info;
    (void)flags;
    if (strcmp(path, "/") != 0)
        return -ENOENT;
    fill(buf, model_path + 1, NULL, 0, 0);
    fill(buf, control_path + 1, NULL, 0, 0);
    return 0;
}

/* direct_io: every read of the client reaches us with the size it had, cached by nobody. */
static int faultfs_open(const char *path, struct fuse_file_info *info)
{
    if (strcmp(path, model_path) != 0 && strcmp(path, control_path) != 0)
        return -ENOENT;
    info->direct_io = 1;
    return 0;
}

static int faultfs_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    (void)size;
    (void)info;
    return strcmp(path, control_path) == 0 ? 0 : -EROFS;
}

/* The fault for a read of [offset, offset + size); those that are spent end. */
static struct fault take_fault(off_t offset, size_t size)
{
    struct fault fault;

    pthread_mutex_lock(&fault_lock);
    fault = fault_now;
    if (fault.kind == FAULT_EIO && --fault_now.a == 0)
        fault_now.kind = FAULT_NONE;
    if (fault.kind == FAULT_GLITCH && fault.a >= offset && fault.a < offset + (off_t)size)
        fault_now.kind = FAULT_NONE;
    pthread_mutex_unlock(&fault_lock);
    return fault;
}

static void stall(const struct fault *fault)
{
    const uint64_t until_ns = lam_now_ns() + (uint64_t)fault->a * LAM_NS_PER_MS;
    const struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S),
        .tv_nsec = (long)(until_ns % LAM_NS_PER_S),
    };
    int code = 0;

    pthread_mutex_lock(&fault_lock);
    n_stalled++;
    while (fault_now.nth == fault->nth && code == 0)
        code = pthread_cond_clockwait(&fault_changed, &fault_lock, CLOCK_MONOTONIC, &until);
    n_stalled--;
    pthread_mutex_unlock(&fault_lock);
}

static int read_control(char *buf, size_t size, off_t offset)
{
    char text[48];
    int length;

    pthread_mutex_lock(&fault_lock);
    length = snprintf(text, sizeof text, "%llu %u\n", atomic_load(&n_reads), n_stalled);
    pthread_mutex_unlock(&fault_lock);
    if (offset >= length)
        return 0;
    length -= (int)offset;
    if ((size_t)length > size)
        length = (int)size;
    memcpy(buf, text + offset, (size_t)length);
    return length;
}

static int faultfs_read(
    const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *info)
{
    struct fault fault;
    ssize_t got;

    (void)info;
    if (strcmp(path, control_path) == 0)
        return read_control(buf, size, offset);
    atomic_fetch_add(&n_reads, 1);
    fault = take_fault(offset, size);
    if (fault.kind == FAULT_EIO)
        return -EIO;
    if (fault.kind == FAULT_STALL)
        stall(&fault);
    if (fault.kind == FAULT_SHORT && size > 8192)
        size -= 4096;
    got = pread(backing_fd, buf, size, offset);
    if (got < 0)
        return -errno;
    if ((fault.kind == FAULT_FLIP || fault.kind == FAULT_GLITCH) && fault.a >= offset &&
        fault.a < offset + got)
        buf[fault.a - offset] = (char)(buf[fault.a - offset] ^ (1 << fault.b));
    return (int)got;
}

/* Splits "name a b" at single spaces; missing numbers are 0. */
static int parse_fault(char *line, struct fault *ret_fault)
{
    static const char *const names[] = {"clear", "flip", "glitch", "short", "stall", "eio"};
    char *rest = strchr(line, ' ');
    char *second = NULL;
    struct fault fault = {0};

    if (rest)
        *rest++ = '\0';
    if (rest && (second = strchr(rest, ' ')))
        *second++ = '\0';
    if (rest && !lam_int_parse(rest, 0, INT64_MAX, &fault.a))
        return -EINVAL;
    if (second && !lam_int_parse(second, 0, 7, &fault.b))
        return -EINVAL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(line, names[i]) == 0) {
            fault.kind = (enum fault_kind)i;
            *ret_fault = fault;
            return fault.kind == FAULT_EIO && fault.a == 0 ? -EINVAL : 0;
        }
    return -EINVAL;
}

static int faultfs_write(
    const char *path, const char *buf, size_t size, off_t offset, struct fuse_file_info *info)
{
    struct fault fault;
    char line[96];
    int result;

    (void)offset;
    (void)info;
    if (strcmp(path, control_path) != 0)
        return -EROFS;
    if (size == 0 || size >= sizeof line)
        return -EINVAL;
    memcpy(line, buf, size);
    line[size] = '\0';
    line[strcspn(line, "\n")] = '\0';
    result = parse_fault(line, &fault);
    if (result != 0)
        return result;
    pthread_mutex_lock(&fault_lock);
    fault.nth = fault_now.nth + 1;
    fault_now = fault;
    pthread_cond_broadcast(&fault_changed);
    pthread_mutex_unlock(&fault_lock);
    return (int)size;
}

/* Inodes are those of the backing file, and nothing is cached: a second mount of the same file is
 * the same file, as it is after a reboot. */
static void *faultfs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->attr_timeout = 0;
    config->entry_timeout = 0;
    return NULL;
}

int main(int argc, char **argv)
{
    static const struct fuse_operations operations = {
        .init = faultfs_init,
        .getattr = faultfs_getattr,
        .readdir = faultfs_readdir,
        .open = faultfs_open,
        .truncate = faultfs_truncate,
        .read = faultfs_read,
        .write = faultfs_write,
    };

    if (argc < 3) {
        fprintf(stderr, "usage: faultfs BACKING DIR [fuse options]\n");
        return 2;
    }
    backing_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (backing_fd < 0) {
        perror(argv[1]);
        return 1;
    }
    argv[1] = argv[0];
    return fuse_main(argc - 1, argv + 1, &operations, NULL);
}
