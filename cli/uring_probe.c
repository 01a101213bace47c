/*
 * uring_probe: see uring_probe.h. Raw system calls: the library for them belongs to the loader, and
 * one read needs only the three mappings of linux/io_uring.h.
 */
#include "cli/uring_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 4u
#define READ_BYTES 512u

struct ring {
    int fd;
    struct io_uring_params params;
    unsigned char *queue; /* both queues: one mapping since Linux 5.4 */
    size_t queue_bytes;
    struct io_uring_sqe *entries;
    size_t entries_bytes;
};

static enum lam_status ring_open(struct ring *ring, struct lam_err *err)
{
    struct io_uring_params *params = &ring->params;

    ring->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, params);
    if (ring->fd < 0)
        return lam_fail_errno(err, errno, "the kernel or a seccomp filter refuses io_uring");
    if (!(params->features & IORING_FEAT_SINGLE_MMAP))
        return lam_fail(err, LAM_UNIMPLEMENTED, "this io_uring is older than Linux 5.4");
    ring->queue_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    if (ring->queue_bytes < params->sq_off.array + params->sq_entries * sizeof(uint32_t))
        ring->queue_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    ring->queue = mmap(NULL, ring->queue_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
        ring->fd, IORING_OFF_SQ_RING);
    ring->entries_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
    ring->entries = mmap(NULL, ring->entries_bytes, PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
    if (ring->queue == MAP_FAILED || ring->entries == MAP_FAILED)
        return lam_fail_errno(err, errno, "the ring cannot be mapped");
    return LAM_OK;
}

static void ring_close(struct ring *ring)
{
    if (ring->queue && ring->queue != MAP_FAILED)
        munmap(ring->queue, ring->queue_bytes);
    if (ring->entries && ring->entries != MAP_FAILED)
        munmap(ring->entries, ring->entries_bytes);
    if (ring->fd >= 0)
        close(ring->fd);
}

static uint32_t *field(const struct ring *ring, uint32_t offset)
{
    return (uint32_t *)(void *)(ring->queue + offset);
}

/* Submits one read and waits for it. Returns its result: bytes, or minus errno. */
static int ring_read(struct ring *ring, int fd, void *buf, uint32_t n_bytes)
{
    uint32_t *tail = field(ring, ring->params.sq_off.tail);
    uint32_t *head = field(ring, ring->params.cq_off.head);
    const struct io_uring_cqe *done = (const void *)(ring->queue + ring->params.cq_off.cqes);

    ring->entries[0] = (struct io_uring_sqe){
        .opcode = IORING_OP_READ, .fd = fd, .addr = (uint64_t)(uintptr_t)buf, .len = n_bytes};
    *field(ring, ring->params.sq_off.array) = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
        return -errno;
    if (__atomic_load_n(field(ring, ring->params.cq_off.tail), __ATOMIC_ACQUIRE) == *head)
        return -EIO;
    return done[*head & *field(ring, ring->params.cq_off.ring_mask)].res;
}

enum lam_status lam_uring_probe(const char *path, struct lam_err *err)
{
    struct ring ring = {.fd = -1};
    unsigned char by_ring[READ_BYTES] = {0};
    unsigned char by_read[READ_BYTES] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, by_read, sizeof by_read, 0);
    enum lam_status status;

    if (n <= 0) {
        status = lam_fail_errno(err, errno, "cannot read '%s'", path);
    } else {
        status = ring_open(&ring, err);
        if (!status) {
            int got = ring_read(&ring, fd, by_ring, sizeof by_ring);
            if (got < 0)
                status = lam_fail_errno(err, -got, "a read through a ring failed");
            else if (got != n || memcmp(by_ring, by_read, (size_t)n) != 0)
                status = lam_fail(err, LAM_DATA_LOSS, "a read through a ring brought other bytes");
        }
        ring_close(&ring);
    }
    if (fd >= 0)
        close(fd);
    return status;
}
