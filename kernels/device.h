/*
 * device: memory and transfers of a backend whose memory is not the host's. Its table of operations
 * (ops.h) queues: calls return at once and complete in order on the compute queue.
 *
 * Pointers in the arguments of an operation are device pointers, also inside of arrays. Two arrays
 * are themselves host memory and are read before the call returns, because launches depend on what
 * they hold: `seqs` of kv_write and attention, `rows` of dequant. (The page numbers that a sequence
 * points to are device memory.) Operations need the workspace; nothing else is kept between calls.
 *
 * Two queues: `compute` runs operations and small transfers, `copy` runs the large copies of
 * weights. Marks order them against each other and against the host:
 *
 *     copy_in(slot 0)  mark_copy(A)         compute_wait(A)  matmul(slot 0)  mark_compute(B)
 *     copy_wait(B)  copy_in(slot 0 again)   host_wait(A): the host memory may be reused
 *
 * One thread calls everything but pin and unpin, which have a thread of their own. After a failure
 * of the device every later host_wait fails; the process is then to be ended: a device fault is
 * final for its process, and harmless to others.
 */
#ifndef LAMINAR_KERNELS_DEVICE_H
#define LAMINAR_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kernels/ops.h"

#define LAM_DEVICE_MARKS 256u

struct lam_device_facts {
    char name[96]; /* "NVIDIA H100 80GB HBM3" */
    uint64_t total_bytes;
    uint64_t free_bytes; /* now, of the whole device */
    /* What this process holds without the arena: context, code, libraries. All of it is there after
     * create. Where only the use of the whole device can be read, that: then it is too large. */
    uint64_t own_bytes;
    bool own_is_exact;
    uint32_t n_multiprocessors;
    uint32_t architecture; /* 90 for compute capability 9.0 */
};

struct lam_device_ops {
    enum lam_status (*facts)(
        struct lam_kernels *kernels, struct lam_device_facts *ret_facts, struct lam_err *err);

    /* Everything that this process holds on the device now, arena included, as the driver counts
     * it: read anew by each call, which takes about a millisecond. Exact or not as in facts; not
     * exact, it is what the whole device has come to hold since create. Errors: LAM_UNAVAILABLE:
     * nothing can be read. */
    enum lam_status (*held)(
        struct lam_kernels *kernels, uint64_t *ret_bytes, bool *ret_exact, struct lam_err *err);

    /* The one allocation of the process on the device, 256-byte aligned. Once. Errors:
     * LAM_RESOURCE_EXHAUSTED with what was asked for and what is free. */
    enum lam_status (*arena)(
        struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err);

    /* Names lam_device_workspace_bytes(config) bytes of the arena, 256-byte aligned, as scratch of
     * the operations. Before the first operation; again to move it when nothing is queued. */
    void (*workspace)(struct lam_kernels *kernels, void *base);

    /* Pinned host memory for small transfers; freed by destroy. */
    enum lam_status (*host_memory)(
        struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err);

    /* Pins a read-only mapping for fast copies: at most 1 GiB a call; a copy may not cross two
     * pinned ranges. Copies from memory that is not pinned work, slowly. [own thread] */
    enum lam_status (*pin)(
        struct lam_kernels *kernels, const void *base, uint64_t bytes, struct lam_err *err);
    void (*unpin)(struct lam_kernels *kernels, const void *base);

    /* Copy queue: host to device. The host memory must stay until a mark behind it is reached. */
    void (*copy_in)(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes);

    /* Compute queue, small transfers. `from` may be reused when upload returns. The bytes of a
     * download into host_memory are there when a mark behind it is reached; a download to other
     * memory blocks until they are there. */
    void (*upload)(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes);
    void (*download)(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes);

    /* Compute queue: reads a 16-byte aligned range once, to measure the memory's own speed between
     * two marks. The range is to hold random data (one word of it is overwritten with odds of
     * 2^-32). */
    void (*probe)(struct lam_kernels *kernels, void *from, uint64_t bytes);

    /* Marks: an index below LAM_DEVICE_MARKS; marking again moves it. Waiting for a mark that was
     * never set returns at once. */
    void (*mark_copy)(struct lam_kernels *kernels, uint32_t mark);
    void (*mark_compute)(struct lam_kernels *kernels, uint32_t mark);
    void (*copy_wait)(struct lam_kernels *kernels, uint32_t mark);
    void (*compute_wait)(struct lam_kernels *kernels, uint32_t mark);
    bool (*reached)(struct lam_kernels *kernels, uint32_t mark); /* true after a failure */
    /* Blocks. Errors: LAM_INTERNAL, with the device's words, for anything that went wrong on it
     * since the start: the first error is kept. */
    enum lam_status (*host_wait)(struct lam_kernels *kernels, uint32_t mark, struct lam_err *err);
    /* Nanoseconds of device time between two reached marks. */
    uint64_t (*elapsed_ns)(struct lam_kernels *kernels, uint32_t from, uint32_t to);
};

/*
 * The workspace of a context with this config: for calls of many rows the rows and a tile of the
 * weights in 16 bits, for attention of few rows the sums of parts of a long context. A pure
 * function: a plan can be made without a device.
 */
#define LAM_DEVICE_TILE_BYTES ((uint64_t)64 << 20)
#define LAM_DEVICE_SPLIT_ROWS 16u /* rows of one call whose context is cut into parts */
#define LAM_DEVICE_SPLITS_MAX 64u /* sums of parts, or of parts that one block has merged */

static inline uint64_t lam_device_workspace_rows_bytes(const struct lam_kernel_config *config)
{
    uint64_t cols = ((uint64_t)config->max_cols + 63) / 64 * 64;

    return (((uint64_t)config->max_rows + 127) / 128 * 128) * cols * 2;
}

/* At least one tile of 128 weight rows. */
static inline uint64_t lam_device_workspace_tile_bytes(const struct lam_kernel_config *config)
{
    uint64_t least = ((uint64_t)config->max_cols + 63) / 64 * 64 * 2 * 128;

    return least > LAM_DEVICE_TILE_BYTES ? least : LAM_DEVICE_TILE_BYTES;
}

static inline uint64_t lam_device_workspace_split_bytes(const struct lam_kernel_config *config)
{
    uint64_t per_head = ((uint64_t)config->head_dim + 2) * sizeof(float) * LAM_DEVICE_SPLITS_MAX;

    return (LAM_DEVICE_SPLIT_ROWS * config->n_heads * per_head + 255) / 256 * 256;
}

/* How many of these sums are there. */
static inline uint64_t lam_device_workspace_arrived_bytes(const struct lam_kernel_config *config)
{
    return (LAM_DEVICE_SPLIT_ROWS * config->n_heads * 2 * sizeof(uint32_t) + 255) / 256 * 256;
}

static inline uint64_t lam_device_workspace_bytes(const struct lam_kernel_config *config)
{
    return lam_device_workspace_rows_bytes(config) + lam_device_workspace_tile_bytes(config) +
           lam_device_workspace_split_bytes(config) + lam_device_workspace_arrived_bytes(config);
}

#endif
