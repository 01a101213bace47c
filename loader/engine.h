/*
 * engine: between reader.c and the two ways of reading. Private to loader/reader*.c.
 *
 * The lock guards what other threads leave for the engine: loads, regions, stop. Each engine calls
 * lam_engine_report from its own threads, without the lock.
 */
#ifndef LAMINAR_LOADER_ENGINE_H
#define LAMINAR_LOADER_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "loader/meter.h"
#include "loader/reader.h"

struct lam_reader;

struct lam_engine {
    const char *name;
    /* Starts the threads and proves by a read of the file's first bytes into the pool that this
     * works. */
    enum lam_status (*start)(struct lam_reader *reader, struct lam_err *err);
    /* A load or a region was left, or `stopping` was set. Called with the lock held. */
    void (*wake)(struct lam_reader *reader);
    /* `stopping` is set: waits for the threads and frees. */
    void (*stop)(struct lam_reader *reader);
};

extern const struct lam_engine lam_engine_uring;
extern const struct lam_engine lam_engine_pread;

struct lam_reader {
    struct lam_reader_config config;
    struct lam_jobs_config jobs_config;
    const struct lam_engine *engine;
    void *state; /* the engine's own */
    int fd;      /* to read from: direct or buffered */
    bool direct;
    char note[320];

    pthread_mutex_t lock;
    struct lam_load inbox[LAM_JOBS_MAX];
    uint32_t n_inbox;
    uint32_t n_regions; /* populated, [0, n_regions) */
    bool stopping;

    uint64_t issued_ns[LAM_JOBS_DEPTH_MAX]; /* by lam_io.index, of those under way */
    struct lam_meter meter;
    atomic_bool fixed_buffers;
    atomic_uint_fast64_t bytes, reads;
};

/* Checks the file once more, frees the page cache behind a buffered read, and calls on_done. */
void lam_engine_report(struct lam_reader *reader, struct lam_load_end *end);

/* After issuing `io`, which lam_jobs_next gave: starts its time, and tells whom it concerns if it
 * was its job's last. The job lives until `io` is answered. */
void lam_engine_issued(
    struct lam_reader *reader, const struct lam_jobs *jobs, const struct lam_io *io);

/* Before lam_jobs_answer: the request has ended, one way or another. */
void lam_engine_answered(struct lam_reader *reader, const struct lam_io *io);

/* Publishes the counters of the jobs. */
void lam_engine_count(struct lam_reader *reader, const struct lam_jobs *jobs);

#endif
