/*
 * reader: asynchronous reads of units into the pool, from all drives that have a copy of the file,
 * each with a ring and a thread of its own. Two engines, chosen by a real read and not by version
 * numbers: io_uring (registered files and buffers), and groups of threads that call pread, for
 * kernels and containers that refuse io_uring. Either reads directly (O_DIRECT) when the file
 * system lets it, else through the page cache, which it empties behind itself.
 *
 * Nothing here blocks but create and destroy. on_done is called once for each load, from a thread
 * of the reader, when no more bytes of it can arrive; it may call lam_reader_load. A load that a
 * drive does not answer in time is told twice: `expired` when it has failed, and then, whenever
 * that is, when its memory is safe again.
 */
#ifndef LAMINAR_LOADER_READER_H
#define LAMINAR_LOADER_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/status.h"
#include "loader/file.h"
#include "loader/jobs.h"
#include "loader/meter.h"
#include "loader/mirror.h"
#include "loader/policy.h"

#define LAM_READER_DEADLINE_NS (30 * LAM_NS_PER_S)

struct lam_reader;

enum lam_reader_choice { LAM_READER_AUTO, LAM_READER_IO_URING, LAM_READER_PREAD };

struct lam_reader_config {
    const struct lam_file *file;      /* outlives the reader, as do all pointers here */
    const struct lam_mirror *mirrors; /* [n_mirrors] */
    uint32_t n_mirrors;               /* at most LAM_JOBS_COPIES_MAX - 1 */
    unsigned char *pool_base;
    /* [n_regions]. The first one is populated; it serves the probes. */
    const struct lam_region *regions;
    uint32_t n_regions;
    enum lam_reader_choice choice;
    const char *io_cache;   /* directory of what is known about drives; NULL: nobody is asked */
    uint64_t request_bytes; /* of all drives; 0: as remembered or probed */
    uint32_t depth;         /* the same */
    uint64_t deadline_ns;   /* for one read; 0: LAM_READER_DEADLINE_NS */
    void (*on_done)(void *arg, const struct lam_load_end *end);
    /* All bytes of the load that may be read are under way: the reader can take another. Before its
     * on_done; not for loads that fail early. May be NULL. */
    void (*on_issued)(void *arg, const struct lam_load *load);
    /* Nothing has been under way for 2 ms, and again: for 200 ms. May be NULL. */
    void (*on_idle)(void *arg);
    void *arg;
};

/* What was found at the start, and counters. */
struct lam_reader_info {
    const char *engine; /* "io_uring" or "pread" */
    bool direct;        /* all copies */
    bool fixed_buffers; /* all regions so far are registered */
    uint32_t n_drives;
    uint32_t n_copies;
    uint64_t request_bytes; /* of the first drive */
    uint32_t depth;         /* of all drives together */
    uint32_t lost; /* bitmap of copies that are not read any more: 0 the file, 1 the first mirror */
    uint32_t changed; /* those of them that are not the same file any more */
    char note[320];   /* why it is not better, in words; "" */
    uint64_t bytes;   /* read since the start */
    uint64_t reads;
};

/*
 * Probes and starts. Errors: LAM_UNIMPLEMENTED when choice is IO_URING and io_uring is refused,
 * with the reason; LAM_DATA_LOSS when the probe brought other bytes than a plain read of the file.
 */
LAM_MUST_USE enum lam_status lam_reader_create(
    const struct lam_reader_config *config, struct lam_reader **ret_reader, struct lam_err *err);

/* Cancels what has not begun, waits for what has (a ring: for a while); no on_done after it
 * returns. NULL is allowed. */
void lam_reader_destroy(struct lam_reader *reader);

/* Region `index` is populated: it may be read into, and is registered between two rounds of reads.
 * In any order, once for each. [any thread] */
void lam_reader_add_region(struct lam_reader *reader, uint32_t index);

/* At most LAM_JOBS_MAX loads that have not ended. [any thread] */
void lam_reader_load(struct lam_reader *reader, const struct lam_load *load);

/* The late part of that load may be read. [any thread] */
void lam_reader_open(struct lam_reader *reader, uint32_t place, uint64_t generation);

/* The load ends soon, with LAM_CANCELLED if it has not ended otherwise. [any thread] */
void lam_reader_cancel(struct lam_reader *reader, uint32_t place, uint64_t generation);

/* Now and then: looks for reads that are over their deadline. [one thread, any] */
void lam_reader_tick(struct lam_reader *reader);

/* How much the drives read in that time, by what they did while they were busy; 0: nothing yet.
 * [any thread] */
uint64_t lam_reader_bytes_in(struct lam_reader *reader, uint64_t ns);

/* Of all drives together. Its tick is the caller's. Lives as long as the reader. */
struct lam_meter *lam_reader_meter(struct lam_reader *reader);

/* [any thread] */
void lam_reader_info(struct lam_reader *reader, struct lam_reader_info *ret_info);

#endif
