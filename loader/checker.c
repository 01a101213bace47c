/*
 * checker: see the header. A job is a unit whose bytes have arrived. Threads take runs of chunks of
 * the oldest job; whoever finishes a job's last chunk decides about it. There are no more threads
 * at work than what waits is worth: one keeps up with most drives.
 */
#include "loader/checker.h"

#include <assert.h>
#include <pthread.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/processors.h"
#include "common/trace.h"

#define THREADS_MAX 4u
#define CHUNKS_PER_THREAD 32u /* 128 MiB: a tenth of a second's reads of a drive of 1.3 GB/s */
#define WATCH_NS (250 * LAM_NS_PER_MS)
#define WATCHES_PER_SAVE 8u

/* What is being read into a place. */
struct place {
    struct lam_load load;
    uint32_t unit;
    bool again; /* the second try */
};

struct job {
    bool used;
    struct lam_load_end end; /* as the reader gave it; then also our verdict */
    uint64_t first_chunk, n_chunks;
    uint64_t n_taken, n_done;
};

struct lam_checker {
    struct lam_checker_config config;
    struct lam_reader *reader;
    pthread_t threads[THREADS_MAX];
    uint32_t n_threads;
    pthread_t watcher;
    bool watching;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work;
    pthread_cond_t stop;
    struct place *places; /* of the layout */
    struct job jobs[LAM_JOBS_MAX];
    uint32_t queue[LAM_JOBS_MAX]; /* a ring of jobs that have chunks to be taken */
    uint32_t queue_head, n_queued;
    uint64_t n_waiting; /* chunks that nobody has taken */
    uint32_t n_busy;    /* threads that check */
    bool stopping;
    struct lam_err lost;
};

/* ---- one unit ---- */

/* The first byte of the job's unit in the pool. */
static const unsigned char *bytes_of(const struct lam_checker *checker, const struct place *place)
{
    const struct lam_unit *unit = &checker->config.file->manifest.units[place->unit];

    return checker->config.pool_base + place->load.pool_offset +
           (unit->file_offset - place->load.window.file_offset);
}

/* All chunks of the job are done. Without the lock. */
static void finish(struct lam_checker *checker, struct place *place, const struct lam_load_end *end)
{
    bool again = end->status == LAM_DATA_LOSS && !place->again;
    struct lam_load load = place->load;

    /* Nothing of it may be in use any more, so all of it can be read once more. */
    load.have_bytes = load.late_begin = load.late_end = 0;
    if (again)
        lam_warn("%s; reading them again", end->err.text);
    pthread_mutex_lock(&checker->lock);
    place->again = again;
    pthread_mutex_unlock(&checker->lock);
    if (again)
        lam_reader_load(checker->reader, &load);
    else
        checker->config.on_done(checker->config.arg, end);
}

/* Checks the next chunks of the oldest job. Lock held, and again at the end. */
static void check_some(struct lam_checker *checker)
{
    uint32_t j = checker->queue[checker->queue_head];
    struct job *job = &checker->jobs[j];
    struct place *place = &checker->places[job->end.place];
    const unsigned char *base = bytes_of(checker, place);
    uint64_t unit_offset = checker->config.file->manifest.units[place->unit].file_offset;
    uint64_t chunk = job->first_chunk + job->n_taken;
    uint64_t left = job->n_chunks - job->n_taken;
    uint64_t n = left < LAM_SUMS_MAX ? left : LAM_SUMS_MAX;
    uint32_t unit = place->unit;
    struct lam_record_chunk first, last;
    struct lam_load_end end;
    struct lam_err err = {0};
    enum lam_status status;
    uint64_t begin_ns;

    job->n_taken += n;
    checker->n_waiting -= n;
    if (n == left) {
        checker->queue_head = (checker->queue_head + 1) % LAM_JOBS_MAX;
        checker->n_queued--;
    }
    pthread_mutex_unlock(&checker->lock);
    first = lam_integrity_chunk(checker->config.integrity, chunk);
    last = lam_integrity_chunk(checker->config.integrity, chunk + n - 1);
    begin_ns = lam_trace_begin();
    status = lam_integrity_check_run(
        checker->config.integrity, chunk, n, base + (first.file_offset - unit_offset), &err);
    lam_trace_end(LAM_TRACE_CHECK, "check", begin_ns, unit, job->end.place,
        last.file_offset + last.bytes - first.file_offset);
    pthread_mutex_lock(&checker->lock);
    if (status != LAM_OK && job->end.status == LAM_OK) {
        job->end.status = status;
        job->end.err = err;
    }
    job->n_done += n;
    if (job->n_done < job->n_chunks)
        return;
    end = job->end;
    job->used = false;
    pthread_mutex_unlock(&checker->lock);
    finish(checker, place, &end);
    pthread_mutex_lock(&checker->lock);
}

static void *run(void *arg)
{
    struct lam_checker *checker = arg;

    pthread_mutex_lock(&checker->lock);
    while (!checker->stopping) {
        if (checker->n_waiting > checker->n_busy * CHUNKS_PER_THREAD) {
            checker->n_busy++;
            check_some(checker);
            checker->n_busy--;
        } else
            pthread_cond_wait(&checker->work, &checker->lock);
    }
    pthread_mutex_unlock(&checker->lock);
    return NULL;
}

/* ---- from and to the reader ---- */

void lam_checker_load(struct lam_checker *checker, uint32_t unit, const struct lam_load *load)
{
    pthread_mutex_lock(&checker->lock);
    checker->places[load->place] = (struct place){.load = *load, .unit = unit};
    pthread_mutex_unlock(&checker->lock);
    lam_reader_load(checker->reader, load);
}

void lam_checker_open(struct lam_checker *checker, uint32_t place, uint64_t generation)
{
    lam_reader_open(checker->reader, place, generation);
}

void lam_checker_cancel(struct lam_checker *checker, uint32_t place, uint64_t generation)
{
    lam_reader_cancel(checker->reader, place, generation);
}

void lam_checker_on_idle(void *arg)
{
    struct lam_checker *checker = arg;

    checker->config.on_idle(checker->config.arg);
}

void lam_checker_on_issued(void *arg, const struct lam_load *load)
{
    struct lam_checker *checker = arg;
    bool again;

    pthread_mutex_lock(&checker->lock);
    again = checker->places[load->place].again;
    pthread_mutex_unlock(&checker->lock);
    if (!again) /* said before */
        checker->config.on_issued(checker->config.arg, load);
}

static void queue_job(struct lam_checker *checker, const struct lam_load_end *end)
{
    uint32_t j = 0;
    struct job *job;

    while (j < LAM_JOBS_MAX && checker->jobs[j].used)
        j++;
    assert(j < LAM_JOBS_MAX);
    job = &checker->jobs[j];
    *job = (struct job){.used = true, .end = *end};
    lam_integrity_chunks_of(checker->config.integrity, checker->places[end->place].unit,
        &job->first_chunk, &job->n_chunks);
    checker->n_waiting += job->n_chunks;
    checker->queue[(checker->queue_head + checker->n_queued++) % LAM_JOBS_MAX] = j;
    pthread_cond_broadcast(&checker->work);
}

/* The drive's part of a load, as it ended, well or not. */
static void trace_read(struct lam_checker *checker, const struct lam_load_end *end)
{
    struct place place;

    if (!lam_trace_on())
        return;
    pthread_mutex_lock(&checker->lock);
    place = checker->places[end->place];
    pthread_mutex_unlock(&checker->lock);
    lam_trace_end(LAM_TRACE_DISK, place.again ? "read again" : "read", end->issued_ns, place.unit,
        end->place, place.load.window.bytes - place.load.have_bytes);
}

void lam_checker_on_load_end(void *arg, const struct lam_load_end *end)
{
    struct lam_checker *checker = arg;

    trace_read(checker, end);
    if (end->status != LAM_OK || checker->config.integrity == NULL) {
        checker->config.on_done(checker->config.arg, end);
        return;
    }
    if (checker->config.on_read != NULL)
        checker->config.on_read(checker->config.arg, end);
    pthread_mutex_lock(&checker->lock);
    queue_job(checker, end);
    pthread_mutex_unlock(&checker->lock);
}

/* ---- the file and the record ---- */

static void look_at_file(struct lam_checker *checker)
{
    struct lam_err err = {0};

    if (lam_checker_lost(checker, NULL) != LAM_OK ||
        lam_file_check(checker->config.file, &err) != LAM_DATA_LOSS)
        return;
    pthread_mutex_lock(&checker->lock);
    checker->lost = err;
    pthread_mutex_unlock(&checker->lock);
    checker->config.on_lost(checker->config.arg, &err);
}

static void save(struct lam_checker *checker)
{
    struct lam_err err = {0};

    if (checker->config.integrity != NULL &&
        lam_integrity_save(checker->config.integrity, &err) != LAM_OK)
        lam_warn("%s", err.text);
}

static bool sleep_until_stop(struct lam_checker *checker)
{
    uint64_t until_ns = lam_now_ns() + WATCH_NS;
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S), .tv_nsec = (long)(until_ns % LAM_NS_PER_S)};
    bool stopping;

    pthread_mutex_lock(&checker->lock);
    if (!checker->stopping)
        pthread_cond_timedwait(&checker->stop, &checker->lock, &until);
    stopping = checker->stopping;
    pthread_mutex_unlock(&checker->lock);
    return stopping;
}

static void *watch(void *arg)
{
    struct lam_checker *checker = arg;

    for (uint32_t n = 1; !sleep_until_stop(checker); n++) {
        look_at_file(checker);
        if (n % WATCHES_PER_SAVE == 0)
            save(checker);
    }
    return NULL;
}

enum lam_status lam_checker_lost(struct lam_checker *checker, struct lam_err *err)
{
    enum lam_status status;

    pthread_mutex_lock(&checker->lock);
    status = checker->lost.status;
    if (status != LAM_OK && err != NULL)
        *err = checker->lost;
    pthread_mutex_unlock(&checker->lock);
    return status;
}

/* ---- life ---- */

/* Half of the processors, and no more than the fastest drives need at some 10 GB/s a thread. */
static uint32_t threads_wanted(void)
{
    uint32_t n = lam_processors() / 2;

    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

static enum lam_status start_threads(struct lam_checker *checker, struct lam_err *err)
{
    uint32_t n = checker->config.integrity != NULL ? threads_wanted() : 0;
    int error = 0;

    while (checker->n_threads < n && error == 0) {
        error = pthread_create(&checker->threads[checker->n_threads], NULL, run, checker);
        checker->n_threads += error == 0;
    }
    if (error == 0) {
        error = pthread_create(&checker->watcher, NULL, watch, checker);
        checker->watching = error == 0;
    }
    if (error == 0)
        return LAM_OK;
    return lam_fail_errno(err, error, "cannot start a thread to check what is read");
}

enum lam_status lam_checker_create(
    const struct lam_checker_config *config, struct lam_checker **ret_checker, struct lam_err *err)
{
    struct lam_checker *checker = lam_calloc(1, sizeof(*checker));
    uint32_t n_places = config->layout->n_places;
    pthread_condattr_t monotonic;
    enum lam_status status;

    if (checker == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to check what is read");
    checker->config = *config;
    pthread_mutex_init(&checker->lock, NULL);
    pthread_cond_init(&checker->work, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&checker->stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    checker->places = lam_calloc(n_places, sizeof(*checker->places));
    status = checker->places != NULL
                 ? start_threads(checker, err)
                 : lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to check what is read");
    if (status != LAM_OK) {
        lam_checker_stop(checker);
        lam_checker_destroy(checker);
        return status;
    }
    *ret_checker = checker;
    return LAM_OK;
}

void lam_checker_connect(struct lam_checker *checker, struct lam_reader *reader)
{
    checker->reader = reader;
}

void lam_checker_stop(struct lam_checker *checker)
{
    if (checker == NULL)
        return;
    pthread_mutex_lock(&checker->lock);
    checker->stopping = true;
    pthread_cond_broadcast(&checker->work);
    pthread_cond_broadcast(&checker->stop);
    pthread_mutex_unlock(&checker->lock);
    for (uint32_t i = 0; i < checker->n_threads; i++)
        pthread_join(checker->threads[i], NULL);
    if (checker->watching)
        pthread_join(checker->watcher, NULL);
    checker->n_threads = 0;
    checker->watching = false;
    save(checker);
}

void lam_checker_destroy(struct lam_checker *checker)
{
    if (checker == NULL)
        return;
    pthread_cond_destroy(&checker->work);
    pthread_cond_destroy(&checker->stop);
    pthread_mutex_destroy(&checker->lock);
    lam_free(checker->places);
    lam_free(checker);
}
