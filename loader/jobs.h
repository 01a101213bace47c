/*
 * jobs: the arithmetic of reading units: cuts each load into requests, and decides after each
 * answer what comes next. No I/O of its own, so both engines share it and a test can answer in its
 * place.
 *
 * A job is the aligned window of a unit. Its requests are aligned, at most request_bytes long, and
 * never cross the edge of a region of the pool (a region is one fixed buffer). Answers:
 *
 *     all bytes, or up to the end of the file   done with this part
 *     fewer                                     the rest is asked for, from its last aligned byte
 *     EINTR, EAGAIN                             asked again
 *     EIO and its kind                          asked again, three times
 *     anything else, or the file ended early    the job fails
 *
 * A job ends when its last request under way has been answered, never before: until then bytes may
 * land.
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

#define LAM_JOBS_MAX LAM_SLOTS_LOADS_MAX
#define LAM_JOBS_DEPTH_MAX 128u
#define LAM_JOBS_TRIES 3u

/* What to read where. The caller knows it by (place, generation). */
struct lam_load {
    uint32_t place;
    uint64_t generation;
    struct lam_window window;
    uint64_t pool_offset;
};

/* One request. Owned by lam_jobs; the engine may use `index` to find it again. */
struct lam_io {
    uint32_t index;
    uint32_t job;
    uint32_t region;
    uint32_t tries; /* failures so far */
    uint64_t file_offset;
    uint64_t bytes;
    uint64_t pool_offset;
    bool last;         /* of its job, to be cut: nothing more to ask for after it */
    bool queued_again; /* to be issued before anything new */
    bool used;
};

struct lam_job {
    struct lam_load load;
    uint64_t cut_bytes;   /* of the window, so far */
    uint32_t outstanding; /* requests not answered for good */
    enum lam_status status;
    struct lam_err err;
};

struct lam_jobs_config {
    const char *path; /* for texts */
    uint64_t file_bytes;
    uint64_t align;
    uint64_t request_bytes; /* a multiple of align */
    uint32_t depth;         /* requests under way, at most LAM_JOBS_DEPTH_MAX */
    const struct lam_region *regions;
    uint32_t n_regions;
};

struct lam_jobs {
    struct lam_jobs_config config;
    struct lam_job jobs[LAM_JOBS_MAX]; /* a ring: oldest first, freed in any order */
    bool job_used[LAM_JOBS_MAX];
    uint32_t queue[LAM_JOBS_MAX]; /* jobs that are not cut up yet, in order */
    uint32_t queue_head, n_queued;
    struct lam_io ios[LAM_JOBS_DEPTH_MAX];
    uint32_t n_under_way;
    uint32_t n_again;
    uint64_t bytes_read; /* since the start, as answered */
    uint64_t reads;
};

/* How a load ended. */
struct lam_load_end {
    uint32_t place;
    uint64_t generation;
    struct lam_window window;
    enum lam_status status;
    struct lam_err err;
};

void lam_jobs_init(struct lam_jobs *jobs, const struct lam_jobs_config *config);

/* At most LAM_JOBS_MAX loads at a time (asserted; lam_slots keeps to it). */
void lam_jobs_add(struct lam_jobs *jobs, const struct lam_load *load);

/* The next request to issue, or NULL: none, or `depth` are under way. */
struct lam_io *lam_jobs_next(struct lam_jobs *jobs);

/* result: bytes read, or a negative errno. True: this was the job's last, see *ret_end. */
bool lam_jobs_answer(
    struct lam_jobs *jobs, struct lam_io *io, int64_t result, struct lam_load_end *ret_end);

#endif
