/*
 * jobs: the arithmetic of reading units: cuts each load into requests, hands them to the drives
 * that ask for work, and decides after each answer what comes next. No I/O of its own, so both
 * engines share it and a test can answer in its place.
 *
 * A job is the aligned window of a unit. Its requests are aligned, end at multiples of the drive's
 * request_bytes in the file, and never cross the edge of a region of the pool (a region is one
 * fixed buffer). The model may lie in several parts (model/shards.h), and each part in several
 * copies; a drive holds any of them. Whoever has room takes the next request of the oldest job that
 * it has a copy of, so faster drives read more, and all end together. No request crosses the edge
 * of a part. Answers:
 *
 *     all bytes, or up to the end of the part   done with this piece
 *     fewer                                     the rest is asked for, from its last aligned byte
 *     EINTR, EAGAIN                             asked again, a bounded number of times
 *     EIO and its kind, nothing                 asked again, of another copy if there is one; three
 *                                               times for each copy
 *     anything else                             the job fails
 *
 * A job ends when its last request under way has been answered, never before: until then bytes may
 * land. One that is answered too late fails before (expires), and ends all the same. A copy that
 * fails again and again is lost: nothing more is asked of it while there is another.
 *
 * Not thread-safe: one thread, or the engine's lock.
 */
#ifndef LAMINAR_LOADER_JOBS_H
#define LAMINAR_LOADER_JOBS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/policy.h"
#include "loader/slots.h"
#include "model/shards.h"

#define LAM_JOBS_MAX LAM_SLOTS_LOADS_MAX
#define LAM_JOBS_DEPTH_MAX 128u
#define LAM_JOBS_DRIVES_MAX 8u
#define LAM_JOBS_COPIES_MAX 8u
#define LAM_JOBS_TRIES 3u       /* after the first, of each copy */
#define LAM_JOBS_REFUSALS 64u   /* EINTR and EAGAIN of one request */
#define LAM_JOBS_LOST_AFTER 16u /* failures of a copy in a row */

/* What to read where. The caller knows it by (place, generation). */
struct lam_load {
    uint32_t place;
    uint64_t generation;
    struct lam_window window;
    uint64_t pool_offset;
    uint64_t have_bytes;           /* at the window's end, that are in the pool already */
    uint64_t late_begin, late_end; /* of the window, not to be read before lam_jobs_open */
};

/* A part of a job, from its cut until its bytes are there. */
struct lam_piece {
    uint32_t job;
    uint32_t tries;       /* failures so far */
    uint32_t refusals;    /* EINTR, EAGAIN */
    uint32_t failed;      /* bitmap of copies that failed for it, in this round over the copies */
    uint64_t file_offset; /* of the model's bytes */
    uint64_t bytes;
    uint64_t pool_offset;
};

/* One request under way. Owned by lam_jobs; the engine may use `index` to find it again. */
struct lam_io {
    bool used;
    uint32_t index; /* among those of its drive */
    uint32_t drive;
    uint32_t copy;
    uint32_t source;      /* what to read: part * n_copies + copy */
    uint64_t file_offset; /* in that file */
    uint32_t region;
    uint64_t started_ns;
    uint64_t due_from_ns; /* what its deadline counts from: later, if its drive was away since */
    bool last;            /* of its job, of what may be read: nothing more to ask for after it */
    struct lam_piece piece;
};

struct lam_job {
    bool used;
    struct lam_load load;
    uint64_t order;       /* smaller is older */
    uint64_t at, late_at; /* how far it is cut up, outside and inside of the late part */
    bool open;            /* the late part may be read */
    bool expired;         /* its failure was told already */
    uint64_t issued_ns;   /* its first request; 0: none yet */
    uint32_t outstanding; /* pieces that are cut and not there */
    enum lam_status status;
    struct lam_err err;
};

struct lam_jobs_drive {
    uint64_t request_bytes; /* a multiple of align */
    uint32_t depth;         /* requests under way, at most LAM_JOBS_DEPTH_MAX */
    const uint32_t *copies; /* [n_parts] bitmap of those of the part that lie on it */
};

struct lam_jobs_config {
    const struct lam_span *spans; /* [n_parts] */
    const char *const *paths;     /* [n_parts] for texts */
    uint32_t n_parts;
    uint64_t align;
    const struct lam_region *regions;
    uint32_t n_regions;
    uint32_t n_copies;
    uint32_t n_drives;
    struct lam_jobs_drive drives[LAM_JOBS_DRIVES_MAX];
};

struct lam_jobs {
    struct lam_jobs_config config;
    struct lam_job jobs[LAM_JOBS_MAX];
    uint64_t n_added;
    struct lam_io ios[LAM_JOBS_DRIVES_MAX][LAM_JOBS_DEPTH_MAX];
    uint32_t under_way[LAM_JOBS_DRIVES_MAX];
    uint64_t away_ns[LAM_JOBS_DRIVES_MAX]; /* since when; 0: it is not */
    bool hangs[LAM_JOBS_DRIVES_MAX];       /* a read has expired, and nothing was answered since */
    struct lam_piece again[LAM_JOBS_DRIVES_MAX * LAM_JOBS_DEPTH_MAX]; /* to be asked for again */
    uint32_t n_again;
    uint32_t failures[LAM_JOBS_COPIES_MAX]; /* in a row */
    uint32_t lost;                          /* bitmap of copies */
    uint64_t bytes_read;                    /* since the start, as answered */
    uint64_t reads;
};

/* How a load ended. */
struct lam_load_end {
    uint32_t place;
    uint64_t generation;
    struct lam_window window;
    uint64_t pool_offset;
    uint64_t issued_ns; /* of its first request; 0: there was none */
    bool expired;       /* bytes may still land: another end of the same load follows */
    bool open;          /* all of its window might be read */
    enum lam_status status;
    struct lam_err err;
};

void lam_jobs_init(struct lam_jobs *jobs, const struct lam_jobs_config *config);

/* May another load be added? */
bool lam_jobs_has_room(const struct lam_jobs *jobs);

/* At most LAM_JOBS_MAX loads at a time (asserted; lam_slots keeps to it). */
void lam_jobs_add(struct lam_jobs *jobs, const struct lam_load *load);

/* The late part of that load may be read. Nothing happens when the load has ended. */
void lam_jobs_open(struct lam_jobs *jobs, uint32_t place, uint64_t generation);

/* Nothing more is cut off that load. It ends with LAM_CANCELLED: with its last answer, or by
 * lam_jobs_reap. Nothing happens when it has ended or failed. */
void lam_jobs_cancel(struct lam_jobs *jobs, uint32_t place, uint64_t generation);

/* A cancelled job with nothing under way, which ends here. False: none. */
bool lam_jobs_reap(struct lam_jobs *jobs, struct lam_load_end *ret_end);

/* The next request for that drive to issue, or NULL: none for now, or `depth` are under way. */
struct lam_io *lam_jobs_next(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns);

/* result: bytes read, or a negative errno. True: this was the job's last, see *ret_end. */
bool lam_jobs_answer(
    struct lam_jobs *jobs, struct lam_io *io, int64_t result, struct lam_load_end *ret_end);

/* The copy is not to be read any more. When no other is left, copy 0, which is the model's own
 * files, is read again, whatever it did before: its failures end the loads that meet them. */
void lam_jobs_lose(struct lam_jobs *jobs, uint32_t copy);

/* Nobody takes the drive's answers until lam_jobs_back: that time is not the drive's. now_ns > 0 */
void lam_jobs_away(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns);
void lam_jobs_back(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns);

/* A job that has waited for an answer for longer than that: it has failed. False: none. */
bool lam_jobs_expire(
    struct lam_jobs *jobs, uint64_t now_ns, uint64_t deadline_ns, struct lam_load_end *ret_end);

/* Of the piece, up to the end of its part: what is behind that comes from no drive. */
uint64_t lam_jobs_bytes_there(const struct lam_jobs *jobs, const struct lam_piece *piece);

/* Is nothing under way on any drive? */
bool lam_jobs_are_idle(const struct lam_jobs *jobs);

#endif
