/*
 * engine: between reader.c and the two ways of reading. Private to loader/reader*.c.
 *
 * The reader's lock guards the jobs and what other threads leave for the drives. Engines hold it
 * for arithmetic only; the callbacks of reader.h are called without it.
 */
#ifndef LAMINAR_LOADER_ENGINE_H
#define LAMINAR_LOADER_ENGINE_H

#include <pthread.h>

#include "loader/probe.h"
#include "loader/reader.h"

/* How long nothing must be under way before on_idle is called, and called again. */
#define LAM_ENGINE_IDLE_CALLS 2u
extern const uint64_t lam_engine_idle_ns[LAM_ENGINE_IDLE_CALLS];

struct lam_drive {
    struct lam_reader *reader;
    uint32_t index;
    uint32_t *copies;   /* [n_parts] bitmap of those that lie on it */
    uint32_t part;      /* the largest one that does, */
    uint32_t source;    /* and which source that is */
    bool fixed_buffers; /* lock */
    void *state;        /* the engine's own */
};

struct lam_engine {
    const char *name;
    /* Starts the threads, proves by a read of the file's first bytes into the pool that this works,
     * and measures all candidates if the drive wants it: bytes_per_s[LAM_PROBE_CANDIDATES], or
     * NULL. */
    enum lam_status (*start)(struct lam_drive *drive, uint64_t *bytes_per_s, struct lam_err *err);
    /* There may be something to do, or `stopping` was set. Called with the lock held. */
    void (*wake)(struct lam_drive *drive);
    /* `stopping` is set: waits for the threads and frees. */
    void (*stop)(struct lam_drive *drive);
};

extern const struct lam_engine lam_engine_uring;
extern const struct lam_engine lam_engine_pread;

struct lam_reader {
    struct lam_reader_config config;
    const struct lam_engine *engine;
    uint32_t n_copies;
    uint32_t n_sources; /* n_copies of each part */
    int *fds;           /* [n_sources] to read from: direct or buffered */
    bool *direct;       /* [n_sources] */
    const char **paths; /* [n_parts] */
    uint32_t n_drives;
    struct lam_drive drives[LAM_JOBS_DRIVES_MAX];
    uint32_t n_started;
    char note[320];
    struct lam_meter meter;

    pthread_mutex_t lock; /* guards all below */
    struct lam_jobs jobs;
    uint32_t changed; /* bitmap of copies that are other files by now */
    uint32_t *added;  /* [n_added] regions that are populated, in the order in which they came; */
    uint32_t n_added; /* an entry stays as it is, so an engine reads it without the lock */
    uint32_t idle_calls; /* of on_idle, since something happened */
    bool stopping;
};

/* What an engine's thread does next; filled under the lock. */
struct lam_engine_work {
    uint32_t n_ios;
    struct lam_io *ios[LAM_JOBS_DEPTH_MAX]; /* to be issued; the drive's until answered */
    uint32_t n_issued;
    struct lam_load issued[LAM_JOBS_MAX]; /* to be told when they are */
    uint32_t n_ends;
    struct lam_load_end ends[4]; /* of cancelled loads, to be told */
    uint32_t n_added;
    uint64_t idle_ns;   /* to wait before lam_engine_idle; UINT64_MAX: no need */
    uint32_t idle_call; /* which one that would be */
    bool stopping;
};

/* Up to n_max requests for the drive, none when the reader is stopping. Takes the lock. */
void lam_engine_take(struct lam_drive *drive, uint32_t n_max, struct lam_engine_work *ret_work);

/* After issuing what was taken: tells what there is to tell. True: more work may have come of it,
 * take again before waiting. */
bool lam_engine_tell(struct lam_drive *drive, struct lam_engine_work *work);

/* Takes n answers to requests of the drive and reports what has ended. */
struct lam_engine_answer {
    struct lam_io *io;
    int64_t result;
};
void lam_engine_answer(
    struct lam_drive *drive, const struct lam_engine_answer *answers, uint32_t n_answers);

/* The drive's only thread does something that takes long and is not reading: until it is back,
 * answers lie unread, and no deadline comes nearer. */
void lam_engine_away(struct lam_drive *drive);
void lam_engine_back(struct lam_drive *drive);

/* The drive has waited for work.idle_ns: if still nothing is under way anywhere, on_idle. */
void lam_engine_idle(struct lam_drive *drive, const struct lam_engine_work *work);

#endif
