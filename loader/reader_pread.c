/*
 * reader_pread: reading by threads that block in pread, as many as hide the latency of one request.
 * The reader's lock guards the jobs; it is held for arithmetic only.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/mem.h"
#include "loader/engine.h"

#define THREADS 8u

struct pread_state {
    pthread_cond_t work;
    struct lam_jobs jobs;
    pthread_t threads[THREADS];
    uint32_t n_threads;
};

/* Waits for a request. NULL: stopping. Lock held. */
static struct lam_io *wait_for_io(struct lam_reader *reader)
{
    struct pread_state *state = reader->state;

    while (!reader->stopping) {
        struct lam_io *io;

        for (uint32_t i = 0; i < reader->n_inbox; i++)
            lam_jobs_add(&state->jobs, &reader->inbox[i]);
        reader->n_inbox = 0;
        io = lam_jobs_next(&state->jobs);
        if (io != NULL)
            return io;
        pthread_cond_wait(&state->work, &reader->lock);
    }
    return NULL;
}

static void *run(void *arg)
{
    struct lam_reader *reader = arg;
    struct pread_state *state = reader->state;
    struct lam_io *io;

    pthread_mutex_lock(&reader->lock);
    while ((io = wait_for_io(reader)) != NULL) {
        struct lam_load_end end;
        int64_t n;
        bool ended;

        pthread_mutex_unlock(&reader->lock);
        lam_engine_issued(reader, &state->jobs, io);
        n = lam_fault_hit("read") ? -EIO
                                  : pread(reader->fd, reader->config.pool_base + io->pool_offset,
                                        io->bytes, (off_t)io->file_offset);
        if (n == -1)
            n = -errno;
        lam_engine_answered(reader, io);
        pthread_mutex_lock(&reader->lock);
        ended = lam_jobs_answer(&state->jobs, io, n, &end);
        lam_engine_count(reader, &state->jobs);
        if (ended) {
            pthread_mutex_unlock(&reader->lock);
            lam_engine_report(reader, &end);
            pthread_mutex_lock(&reader->lock);
        }
        /* The answer may have made room for, or asked for, more than this thread takes. */
        pthread_cond_signal(&state->work);
    }
    pthread_mutex_unlock(&reader->lock);
    return NULL;
}

static void wake(struct lam_reader *reader)
{
    struct pread_state *state = reader->state;

    pthread_cond_broadcast(&state->work);
}

static void stop(struct lam_reader *reader)
{
    struct pread_state *state = reader->state;

    for (uint32_t i = 0; i < state->n_threads; i++)
        pthread_join(state->threads[i], NULL);
    pthread_cond_destroy(&state->work);
    lam_free(state);
}

/* The plain reads of the probe were made already, when the descriptor was chosen. */
static enum lam_status start(struct lam_reader *reader, struct lam_err *err)
{
    struct pread_state *state = lam_calloc(1, sizeof(*state));
    int error = 0;

    if (state == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    reader->state = state;
    lam_jobs_init(&state->jobs, &reader->jobs_config);
    pthread_cond_init(&state->work, NULL);
    while (state->n_threads < THREADS && error == 0) {
        error = pthread_create(&state->threads[state->n_threads], NULL, run, reader);
        state->n_threads += error == 0;
    }
    if (state->n_threads > 0)
        return LAM_OK; /* fewer threads read more slowly, and as well */
    stop(reader);
    return lam_fail_errno(err, error, "cannot start a thread to read with");
}

const struct lam_engine lam_engine_pread = {
    .name = "pread", .start = start, .wake = wake, .stop = stop};
