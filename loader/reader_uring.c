/*
 * reader_uring: reading by one thread and one io_uring. The only file that includes <liburing.h>.
 *
 * The ring belongs to its thread from creation on (SINGLE_ISSUER, DEFER_TASKRUN where the kernel
 * has them). Others leave loads and regions in the reader's inbox and write to an eventfd, of which
 * one read is always under way in the ring, so the thread waits in one place for everything.
 *
 * The file is registered, and each region of the pool as one fixed buffer. Where the kernel refuses
 * that (the limit of locked memory, mostly), plain reads of the same ring take over for the region.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/mem.h"
#include "loader/engine.h"

#define TAG_WAKE UINT64_MAX

struct uring_state {
    struct io_uring ring;
    bool has_ring;
    bool fixed_file;
    int wake_fd;
    uint64_t wake_value; /* target of the eventfd's read */
    bool wake_armed;
    uint32_t n_regions; /* seen by this thread */
    bool *fixed;        /* [n_regions of the layout] registered as a buffer */
    bool all_fixed;
    struct lam_jobs jobs;
    pthread_t thread;

    /* The start: guarded by the reader's lock. */
    pthread_cond_t started_cond;
    bool started;
    enum lam_status start_status;
    struct lam_err start_err;
};

/* ---- registration ---- */

static void register_region(struct lam_reader *reader, uint32_t r)
{
    struct uring_state *state = reader->state;
    const struct lam_region *region = &reader->config.regions[r];
    struct iovec part = {
        .iov_base = reader->config.pool_base + region->pool_offset, .iov_len = region->bytes};

    state->fixed[r] = io_uring_register_buffers_update_tag(&state->ring, r, &part, NULL, 1) == 1;
    state->all_fixed = state->all_fixed && state->fixed[r];
    atomic_store(&reader->fixed_buffers, state->all_fixed);
}

static enum lam_status open_ring(struct lam_reader *reader, struct lam_err *err)
{
    struct uring_state *state = reader->state;
    unsigned n_entries = reader->jobs_config.depth + 1; /* and the eventfd's read */
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int result = io_uring_queue_init_params(n_entries, &state->ring, &params);

    if (result == -EINVAL) {
        params = (struct io_uring_params){0};
        result = io_uring_queue_init_params(n_entries, &state->ring, &params);
    }
    if (lam_fault_hit("io_uring"))
        result = result == 0 ? (io_uring_queue_exit(&state->ring), -EPERM) : result;
    if (result < 0)
        return lam_fail_errno(err, -result, "io_uring_setup");
    state->has_ring = true;
    state->fixed_file = io_uring_register_files(&state->ring, &reader->fd, 1) == 0;
    state->all_fixed =
        io_uring_register_buffers_sparse(&state->ring, reader->config.n_regions) == 0;
    if (state->all_fixed)
        register_region(reader, 0);
    state->n_regions = 1;
    return LAM_OK;
}

/* ---- requests ---- */

static void prepare(struct lam_reader *reader, const struct lam_io *io)
{
    struct uring_state *state = reader->state;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);
    unsigned char *to = reader->config.pool_base + io->pool_offset;
    int fd = state->fixed_file ? 0 : reader->fd;

    assert(sqe != NULL); /* the ring has an entry for each request of the table */
    if (state->fixed[io->region])
        io_uring_prep_read_fixed(
            sqe, fd, to, (unsigned)io->bytes, io->file_offset, (int)io->region);
    else
        io_uring_prep_read(sqe, fd, to, (unsigned)io->bytes, io->file_offset);
    if (state->fixed_file)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, io->index);
}

/* One read through the ring, compared with a plain one. */
static enum lam_status probe(struct lam_reader *reader, struct lam_err *err)
{
    struct uring_state *state = reader->state;
    uint64_t align = reader->jobs_config.align;
    struct lam_io io = {.bytes = align};
    struct io_uring_cqe *cqe = NULL;
    unsigned char *want = lam_calloc(1, align);
    uint64_t n_bytes = reader->config.file->bytes < align ? reader->config.file->bytes : align;
    enum lam_status status;
    int result;

    if (want == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the probe");
    status = lam_file_read(reader->config.file, 0, want, n_bytes, err);
    if (status != LAM_OK)
        goto done;
    memset(reader->config.pool_base, 0xa5, align);
    prepare(reader, &io);
    do
        result = io_uring_submit_and_wait(&state->ring, 1);
    while (result == -EINTR);
    if (result >= 0)
        result = io_uring_peek_cqe(&state->ring, &cqe);
    if (result < 0) {
        status = lam_fail_errno(err, -result, "io_uring_enter");
        goto done;
    }
    result = cqe->res;
    io_uring_cqe_seen(&state->ring, cqe);
    if (result < 0)
        status = lam_fail_errno(err, -result, "a first read by io_uring");
    else if ((uint64_t)result < n_bytes || memcmp(want, reader->config.pool_base, n_bytes) != 0)
        status = lam_fail(err, LAM_DATA_LOSS, "a first read by io_uring brought wrong bytes");

done:
    lam_free(want);
    return status;
}

static void arm_wake(struct uring_state *state)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);

    assert(sqe != NULL);
    io_uring_prep_read(sqe, state->wake_fd, &state->wake_value, sizeof(state->wake_value), 0);
    io_uring_sqe_set_data64(sqe, TAG_WAKE);
    state->wake_armed = true;
}

/* Takes what others left. False: stop. */
static bool take_inbox(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;
    uint32_t n_regions;
    bool stopping;

    pthread_mutex_lock(&reader->lock);
    for (uint32_t i = 0; i < reader->n_inbox; i++)
        lam_jobs_add(&state->jobs, &reader->inbox[i]);
    reader->n_inbox = 0;
    n_regions = reader->n_regions;
    stopping = reader->stopping;
    pthread_mutex_unlock(&reader->lock);

    for (; state->n_regions < n_regions; state->n_regions++) {
        if (state->all_fixed)
            register_region(reader, state->n_regions);
    }
    return !stopping;
}

static void take_answers(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&state->ring, &cqe) == 0) {
        uint64_t tag = io_uring_cqe_get_data64(cqe);
        int64_t result = cqe->res;
        struct lam_load_end end;
        bool ended;

        io_uring_cqe_seen(&state->ring, cqe);
        if (tag == TAG_WAKE) {
            state->wake_armed = false;
            continue;
        }
        if (lam_fault_hit("read"))
            result = -EIO;
        lam_engine_answered(reader, &state->jobs.ios[tag]);
        ended = lam_jobs_answer(&state->jobs, &state->jobs.ios[tag], result, &end);
        lam_engine_count(reader, &state->jobs);
        if (ended)
            lam_engine_report(reader, &end);
    }
}

static void serve(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;
    bool running = true;

    while (running || state->jobs.n_under_way > state->jobs.n_again) {
        struct lam_io *io;
        int result;

        if (!state->wake_armed)
            arm_wake(state);
        running = take_inbox(reader) && running;
        while (running && (io = lam_jobs_next(&state->jobs)) != NULL) {
            prepare(reader, io);
            lam_engine_issued(reader, &state->jobs, io);
        }
        if (!running && state->jobs.n_under_way == state->jobs.n_again)
            return;
        result = io_uring_submit_and_wait(&state->ring, 1);
        if (result < 0 && result != -EINTR)
            lam_sleep_ns(LAM_NS_PER_MS); /* the kernel is short of something: answers free it */
        take_answers(reader);
    }
}

/* ---- the thread ---- */

static void *run(void *arg)
{
    struct lam_reader *reader = arg;
    struct uring_state *state = reader->state;
    struct lam_err err = {0};
    enum lam_status status = open_ring(reader, &err);

    if (status == LAM_OK)
        status = probe(reader, &err);
    pthread_mutex_lock(&reader->lock);
    state->start_status = status;
    state->start_err = err;
    state->started = true;
    pthread_cond_signal(&state->started_cond);
    pthread_mutex_unlock(&reader->lock);
    if (status == LAM_OK)
        serve(reader);
    if (state->has_ring)
        io_uring_queue_exit(&state->ring);
    return NULL;
}

static void wake(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;
    uint64_t one = 1;

    lam_ignore(write(state->wake_fd, &one, sizeof(one)) < 0, "full means awake already");
}

static void free_state(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;

    if (state->wake_fd >= 0)
        close(state->wake_fd);
    pthread_cond_destroy(&state->started_cond);
    lam_free(state->fixed);
    lam_free(state);
    reader->state = NULL;
}

static void stop(struct lam_reader *reader)
{
    struct uring_state *state = reader->state;

    pthread_join(state->thread, NULL);
    free_state(reader);
}

static enum lam_status start(struct lam_reader *reader, struct lam_err *err)
{
    struct uring_state *state = lam_calloc(1, sizeof(*state));
    enum lam_status status;
    int error;

    if (state == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    reader->state = state;
    pthread_cond_init(&state->started_cond, NULL);
    lam_jobs_init(&state->jobs, &reader->jobs_config);
    state->fixed = lam_calloc(reader->config.n_regions, sizeof(*state->fixed));
    state->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (state->fixed == NULL || state->wake_fd < 0) {
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory or descriptor for the reader");
        goto fail;
    }
    error = pthread_create(&state->thread, NULL, run, reader);
    if (error != 0) {
        status = lam_fail_errno(err, error, "cannot start a thread to read with");
        goto fail;
    }
    pthread_mutex_lock(&reader->lock);
    while (!state->started)
        pthread_cond_wait(&state->started_cond, &reader->lock);
    pthread_mutex_unlock(&reader->lock);
    if (state->start_status == LAM_OK)
        return LAM_OK;
    pthread_join(state->thread, NULL);
    status = state->start_status;
    if (err != NULL)
        *err = state->start_err;

fail:
    free_state(reader);
    return status;
}

const struct lam_engine lam_engine_uring = {
    .name = "io_uring", .start = start, .wake = wake, .stop = stop};
