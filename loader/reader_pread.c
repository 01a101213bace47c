/*
 * reader_pread: reading by threads that block in pread, for each drive as many as hide the latency
 * of one request.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/mem.h"
#include "loader/engine.h"

#define THREADS 8u

struct pread_state {
    pthread_cond_t work; /* with the reader's lock; monotonic */
    uint64_t n_wakes;    /* lock */
    pthread_t threads[THREADS];
    uint32_t n_threads;
};

/* Waits until somebody wakes the drive or idle_ns have passed: false. */
static bool wait_for_work(struct lam_drive *drive, uint64_t seen_wakes, uint64_t idle_ns)
{
    struct pread_state *state = drive->state;
    uint64_t until_ns = lam_now_ns() + (idle_ns == UINT64_MAX ? 0 : idle_ns);
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S), .tv_nsec = (long)(until_ns % LAM_NS_PER_S)};
    int error = 0;

    pthread_mutex_lock(&drive->reader->lock);
    while (state->n_wakes == seen_wakes && error == 0) {
        if (idle_ns == UINT64_MAX)
            pthread_cond_wait(&state->work, &drive->reader->lock);
        else
            error = pthread_cond_timedwait(&state->work, &drive->reader->lock, &until);
    }
    pthread_mutex_unlock(&drive->reader->lock);
    return error == 0;
}

static void read_one(struct lam_drive *drive, struct lam_io *io)
{
    struct lam_reader *reader = drive->reader;
    struct lam_engine_answer answer = {.io = io};
    const struct lam_piece *piece = &io->piece;

    answer.result = lam_fault_hit("read") ? -EIO
                                          : pread(reader->fds[io->source],
                                                reader->config.pool_base + piece->pool_offset,
                                                piece->bytes, (off_t)io->file_offset);
    if (answer.result == -1)
        answer.result = -errno;
    lam_engine_answer(drive, &answer, 1);
}

static uint64_t wakes_of(struct lam_drive *drive)
{
    struct pread_state *state = drive->state;
    uint64_t n_wakes;

    pthread_mutex_lock(&drive->reader->lock);
    n_wakes = state->n_wakes;
    pthread_mutex_unlock(&drive->reader->lock);
    return n_wakes;
}

static void *run(void *arg)
{
    struct lam_drive *drive = arg;
    struct lam_engine_work work;

    for (;;) {
        uint64_t seen_wakes = wakes_of(drive); /* before the look: what comes after it wakes us */

        lam_engine_take(drive, 1, &work);
        if (work.stopping)
            return NULL;
        lam_ignore(lam_engine_tell(drive, &work), "there is always another look before a wait");
        if (work.n_ios > 0)
            read_one(drive, work.ios[0]);
        else if (!wait_for_work(drive, seen_wakes, work.idle_ns))
            lam_engine_idle(drive, &work);
    }
}

static void wake(struct lam_drive *drive)
{
    struct pread_state *state = drive->state;

    state->n_wakes++;
    pthread_cond_broadcast(&state->work);
}

static void stop(struct lam_drive *drive)
{
    struct pread_state *state = drive->state;

    for (uint32_t i = 0; i < state->n_threads; i++)
        pthread_join(state->threads[i], NULL);
    pthread_cond_destroy(&state->work);
    lam_free(state);
    drive->state = NULL;
}

/* The plain reads of the probe were made already, when the descriptors were chosen; and with one
 * request for each thread there is nothing to choose, so nothing is measured. */
static enum lam_status start(struct lam_drive *drive, uint64_t *bytes_per_s, struct lam_err *err)
{
    struct pread_state *state = lam_calloc(1, sizeof(*state));
    pthread_condattr_t monotonic;
    int error = 0;

    (void)bytes_per_s;
    if (state == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    drive->state = state;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&state->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    while (state->n_threads < THREADS && error == 0) {
        error = pthread_create(&state->threads[state->n_threads], NULL, run, drive);
        state->n_threads += error == 0;
    }
    if (state->n_threads > 0)
        return LAM_OK; /* fewer threads read more slowly, and as well */
    stop(drive);
    return lam_fail_errno(err, error, "cannot start a thread to read with");
}

const struct lam_engine lam_engine_pread = {
    .name = "pread", .start = start, .wake = wake, .stop = stop};
