/*
 * reader: asynchronous reads of units into the pool. Two engines, chosen by a real read and not by
 * version numbers: io_uring (one thread, one ring, registered file and buffers) and a group of
 * threads that call pread, for kernels and containers that refuse io_uring. Either reads directly
 * (O_DIRECT) when the file system lets it, else through the page cache, which it empties behind
 * itself.
 *
 * lam_reader_load never blocks. on_done is called once for each load, from a thread of the reader,
 * when no more bytes of it can arrive; it may call lam_reader_load.
 */
#ifndef LAMINAR_LOADER_READER_H
#define LAMINAR_LOADER_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/jobs.h"
#include "loader/meter.h"
#include "loader/policy.h"

#define LAM_READER_REQUEST_BYTES ((uint64_t)1 << 20)
#define LAM_READER_DEPTH 32u

struct lam_reader;

enum lam_reader_choice { LAM_READER_AUTO, LAM_READER_IO_URING, LAM_READER_PREAD };

struct lam_reader_config {
    const struct lam_file *file; /* outlives the reader, as do all pointers here */
    unsigned char *pool_base;
    /* [n_regions]. The first one is populated; its first bytes serve the probe. */
    const struct lam_region *regions;
    uint32_t n_regions;
    enum lam_reader_choice choice;
    uint64_t request_bytes; /* 0: LAM_READER_REQUEST_BYTES */
    uint32_t depth;         /* 0: LAM_READER_DEPTH */
    void (*on_done)(void *arg, const struct lam_load_end *end);
    /* All requests of the load are under way: the reader can take another. Before its on_done; not
     * for loads that fail early. May be NULL. */
    void (*on_issued)(void *arg, const struct lam_load *load);
    void *arg;
};

/* What the probe found; constant after create but for the counters. */
struct lam_reader_info {
    const char *engine; /* "io_uring" or "pread" */
    bool direct;
    bool fixed_buffers; /* all regions so far are registered */
    char note[320];     /* why it is not better, in words; "" */
    uint64_t bytes;     /* read since the start */
    uint64_t reads;
};

/*
 * Probes and starts. Errors: LAM_UNIMPLEMENTED when choice is IO_URING and io_uring is refused,
 * with the reason; LAM_DATA_LOSS when the probe brought other bytes than a plain read of the file.
 */
LAM_MUST_USE enum lam_status lam_reader_create(
    const struct lam_reader_config *config, struct lam_reader **ret_reader, struct lam_err *err);

/* Cancels what has not begun, waits for what has; no on_done after it returns. NULL is allowed. */
void lam_reader_destroy(struct lam_reader *reader);

/* Region `index` is populated: it may be registered. [any thread] */
void lam_reader_add_region(struct lam_reader *reader, uint32_t index);

/* At most LAM_JOBS_MAX loads that have not ended. [any thread] */
void lam_reader_load(struct lam_reader *reader, const struct lam_load *load);

/* [any thread] */
void lam_reader_info(const struct lam_reader *reader, struct lam_reader_info *ret_info);

/* Of its requests; lives as long as the reader. */
struct lam_meter *lam_reader_meter(struct lam_reader *reader);

#endif
