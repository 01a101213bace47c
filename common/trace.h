/*
 * trace: what this process did when, as spans of CLOCK_MONOTONIC, so that several processes of one
 * machine fit on one time axis. docs/design/005-profile.md has the reasons.
 *
 *     uint64_t begin_ns = lam_trace_begin();
 *     ...work...
 *     lam_trace_end(LAM_TRACE_CHECK, "check", begin_ns, unit, LAM_TRACE_NONE, n_bytes);
 *
 * Off, each of the two costs one relaxed load. On, a span is eight stores into a ring of fixed
 * size: the newest spans win, nobody waits, nothing is allocated. Any thread may write, read, start
 * and stop at any time. A span is recorded when it ends, and whole or not at all: one that had
 * begun before the recording, or has not ended yet, is left out.
 */
#ifndef LAMINAR_COMMON_TRACE_H
#define LAMINAR_COMMON_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/status.h"

/* Spans that are kept: a minute of a busy process. A power of two. */
#define LAM_TRACE_SPANS 65536u

#define LAM_TRACE_NONE UINT32_MAX

/* The rows on which a viewer shows spans, in its order. Spans of one row may overlap. */
enum lam_trace_track {
    LAM_TRACE_REQUEST, /* gateway: a request, from its arrival to its end */
    LAM_TRACE_STEP,    /* gateway: a step, from its sending to its answer */
    LAM_TRACE_PASS,    /* worker: a pass */
    LAM_TRACE_WAIT,    /* worker: blocked for a unit */
    LAM_TRACE_COPY,    /* a copy to the device, on the device */
    LAM_TRACE_COMPUTE, /* a piece of a pass, on the device that computes it */
    LAM_TRACE_SAMPLE,  /* worker: choosing tokens */
    LAM_TRACE_DISK,    /* loader: a unit, from its first request to the drive to its last answer */
    LAM_TRACE_CHECK,   /* loader: comparing a chunk with its checksum */
    LAM_TRACE_LEASE,   /* loader: a unit, from its grant to its release */
    LAM_TRACE_TRACKS,
};

struct lam_trace_span {
    enum lam_trace_track track;
    const char *name;  /* a literal of letters, digits and blanks; it is not copied */
    uint64_t begin_ns; /* lam_now_ns, for work of a device as well */
    uint64_t end_ns;   /* at least begin_ns */
    uint32_t unit;     /* or LAM_TRACE_NONE */
    uint32_t slot;     /* loader: of the pool; copies: which streamed piece of a pass; or NONE */
    uint64_t bytes;    /* 0: none to tell */
};

/* How many recordings are under way; for lam_trace_on only. */
extern atomic_uint lam_trace_recordings;

static inline bool lam_trace_on(void)
{
    return atomic_load_explicit(&lam_trace_recordings, memory_order_relaxed) != 0;
}

/* The time, or 0 when nothing is recorded: lam_trace_end then does nothing. */
static inline uint64_t lam_trace_begin(void)
{
    return lam_trace_on() ? lam_now_ns() : 0;
}

/* Records a span that ends now; nothing when begin_ns is 0. */
void lam_trace_end(enum lam_trace_track track, const char *name, uint64_t begin_ns, uint32_t unit,
    uint32_t slot, uint64_t n_bytes);

/* Records a span whose times are known: of a device, or of somebody who keeps times anyway.
 * Nothing when nothing is recorded. */
void lam_trace_add(const struct lam_trace_span *span);

/* ---- for readers ---- */

/* Where a recording begins. */
struct lam_trace_mark {
    uint64_t since_ns; /* spans that begin earlier are not of it */
    uint64_t number;
};

/* Recordings may overlap: spans are kept while there is at least one. */
struct lam_trace_mark lam_trace_start(void);
void lam_trace_stop(void); /* once for each start */

/*
 * Copies at most n_max spans since the mark, in the order in which they ended, as far as the ring
 * still holds them; each is whole, whatever is written meanwhile. Returns how many.
 * ret_lost: how many more there were, which are overwritten or being written.
 */
size_t lam_trace_read(const struct lam_trace_mark *mark, struct lam_trace_span *spans, size_t n_max,
    uint64_t *ret_lost);

/* What a page says about itself. */
struct lam_trace_source {
    const char *process; /* "laminar-loader", as name */
    int pid;
    uint64_t lost;
};

/*
 * Appends the spans as one JSON object that Perfetto and chrome://tracing open. Sorts them; spans
 * of one track that overlap get lanes, so that those of one thread of the page never do. Beyond
 * 1,000 lanes they are left out, and count as lost. False: no memory.
 */
LAM_MUST_USE bool lam_trace_write(const struct lam_trace_source *source,
    struct lam_trace_span *spans, size_t n, struct lam_buf *out);

#endif
