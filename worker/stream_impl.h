/* stream_impl: what stream.c (passes, start and end) and stream_copy.c (copies) share. Private to
 * the two; all of it belongs to the engine's thread. */
#ifndef LAMINAR_WORKER_STREAM_IMPL_H
#define LAMINAR_WORKER_STREAM_IMPL_H

#include <stdbool.h>

#include "worker/pin.h"
#include "worker/ring.h"
#include "worker/stream.h"

#define MARKED 50u /* pieces whose marks are kept: more than can be under way */
#define COPIES_MAX 3u

enum piece_mark { COPY_BEGIN, COPY_END, WAIT_BEGIN, WAIT_END, USED, PIECE_MARKS };

#define MARK_PASS_BEGIN (MARKED * PIECE_MARKS)
#define MARK_PASS_END (MARK_PASS_BEGIN + 1)
#define MARK_HEAD (MARK_PASS_BEGIN + 2) /* the head is next, if the pass has one */

_Static_assert(MARK_HEAD < LAM_DEVICE_MARKS, "the device has a mark for everything");
_Static_assert(LAM_RING_PLACES < MARKED, "the piece that a copy waits for has its marks");

/* Pieces in the order in which they are copied: once around, or again and again. */
struct walk {
    uint32_t *order; /* [n] pieces of the plan, ascending */
    uint32_t n;
    uint32_t *cycle; /* [n_units] */
    uint32_t n_units;
};

struct stream {
    struct lam_weights weights;
    struct lam_stream_config config;
    const struct lam_plan_arena *arena;
    struct walk walk;
    uint32_t head;        /* the first piece that is not a layer's */
    struct lam_ring ring; /* of streamed pieces, to the next one to be issued at most */
    struct lam_pin pin;
    bool pinning;
    /* Running numbers; pieces from n_copied to n_issued are under way. */
    uint64_t n_issued;
    uint64_t n_copied;           /* ... on the device, and their units given back */
    uint64_t n_computed;         /* whose kernels are queued */
    uint64_t n_counted;          /* whose marks are read */
    uint32_t n_held;             /* units that the loader cannot have back yet */
    const unsigned char *unit;   /* the one acquired last */
    uint64_t blocked_ns[MARKED]; /* for a piece's unit */
    uint64_t resident_bytes;
    /* Of the pass under way. */
    struct lam_pass_profile profile;
    uint64_t stall_ns; /* of the units, at its beginning */
    uint64_t queue_stall_ns;
    uint64_t begin_ns;   /* on the host: when the device was idle and the pass began */
    uint64_t kernels_ns; /* end of the last wait that a span was made of */
};

static inline uint32_t lam_stream_mark(uint64_t e, enum piece_mark mark)
{
    return (uint32_t)(e % MARKED) * PIECE_MARKS + mark;
}

static inline const struct lam_plan_piece *lam_stream_piece(const struct stream *self, uint64_t e)
{
    return &self->config.plan->pieces[self->walk.order[e % self->walk.n]];
}

/* Where the piece lies on the device, or will: of streamed ones, up to the next to be issued. */
unsigned char *lam_stream_address(struct stream *self, uint64_t e);

/* Takes the one moment that is known on both clocks: the compute queue is empty, so the device
 * reaches the mark at once. Spans are told by it. */
void lam_stream_mark_begin(struct stream *self);

/* Traces the kernels behind the last wait of the pass. end_ns: its end, on the host's clock. */
void lam_stream_trace_end(const struct stream *self, uint64_t end_ns);

/* Queues the copy of piece n_issued; blocks for its unit. Errors, here and below: the device's, and
 * those of lam_units_acquire. */
LAM_MUST_USE enum lam_status lam_stream_issue(struct stream *self, struct lam_err *err);

/* Queues what can be queued without blocking for a unit. patient: it may block for copies that
 * kernels in the queue wait for. Errors are met again when the piece is needed. */
void lam_stream_issue_ahead(struct stream *self, bool patient);

/* Waits until the oldest copy is on the device; its unit goes back with its last piece. */
LAM_MUST_USE enum lam_status lam_stream_finish_copy(struct stream *self, struct lam_err *err);

/* Adds what the marks of the oldest computed piece say to the profile: they are free then. */
LAM_MUST_USE enum lam_status lam_stream_count(struct stream *self, struct lam_err *err);

#endif
