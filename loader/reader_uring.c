/*
 * reader_uring: reading by one thread and one io_uring for each drive. The only file that includes
 * <liburing.h>.
 *
 * The ring belongs to its thread from creation on (SINGLE_ISSUER, DEFER_TASKRUN where the kernel
 * has them). Others leave their wishes under the reader's lock and write to an eventfd, which the
 * ring polls, so the thread waits in one place for everything.
 *
 * The files are registered, and each region of the pool as one fixed buffer. Where the kernel
 * refuses that (the limit of locked memory, mostly), plain reads of the same ring take over for the
 * region, and so they do until it is registered: that may take seconds where the kernel has to move
 * pages about, so there is one at a time, when all that may be asked for is, and answers are taken
 * and the drive is asked for more before the next.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/engine.h"

#define TAG_WAKE (UINT64_MAX - 1)
#define TAG_TIMEOUT UINT64_MAX /* of liburing's own, where the kernel waits with an entry */

/* Entries beside the requests: the poll, and liburing's timeout. */
#define EXTRA_ENTRIES 2u

/* For what is under way when the reader is stopped; then the kernel cancels it. */
#define STOP_WAITS 200u
#define STOP_WAIT_NS (10 * LAM_NS_PER_MS)

/* The kernel was short of something: answers free it. */
#define SHORTAGE_NS LAM_NS_PER_MS

/* Registering a GiB takes the kernel 2 to 50 ms of processor time; but where huge pages and small
 * ones are mixed, it compares each huge one with all pages before it, also of regions registered
 * before: half a second for the second GiB, 2 for the fifth (docs/design/003-loader.md). */
#define REGISTER_NS_PER_GIB_MAX (250 * LAM_NS_PER_MS)
#define REGISTER_NS_MIN (20 * LAM_NS_PER_MS) /* too short to be judged */

#define MEASURE_NS (50 * LAM_NS_PER_MS) /* one round of one candidate */

struct uring_state {
    struct io_uring ring;
    bool has_ring;
    bool fixed_files;
    int wake_fd;
    bool wake_armed;
    uint32_t n_tried; /* regions, in the order in which they came */
    bool *fixed;      /* [n_regions of the layout] registered as a buffer */
    struct lam_engine_work work;
    struct lam_engine_answer answers[LAM_JOBS_DEPTH_MAX];
    uint64_t *bytes_per_s; /* to be measured; NULL: not */
    pthread_t thread;

    /* The start: guarded by the reader's lock. */
    pthread_cond_t started_cond;
    bool started;
    enum lam_status start_status;
    struct lam_err start_err;
};

/* ---- registration ---- */

static bool register_region(struct lam_drive *drive, uint32_t r)
{
    struct uring_state *state = drive->state;
    const struct lam_region *region = &drive->reader->config.regions[r];
    struct iovec part = {.iov_base = drive->reader->config.pool_base + region->pool_offset,
        .iov_len = region->bytes};

    state->fixed[r] = io_uring_register_buffers_update_tag(&state->ring, r, &part, NULL, 1) == 1;
    return state->fixed[r];
}

/* Whether the next region would take too long, by what this one cost; says so. */
static bool is_too_slow(const struct lam_region *region, uint64_t cost_ns)
{
    uint64_t limit_ns = region->bytes / LAM_MIB * (REGISTER_NS_PER_GIB_MAX / 1024);
    char size[24];

    if ((cost_ns <= limit_ns || cost_ns <= REGISTER_NS_MIN) && !lam_fault_hit("slow register"))
        return false;
    lam_warn("the kernel took %.2f s to register %s of the pool with io_uring, as it does where "
             "huge and small pages are mixed: the rest is read unregistered, which costs more CPU "
             "time; set huge pages aside (vm.nr_hugepages)",
        (double)cost_ns / (double)LAM_NS_PER_S, lam_size_format(region->bytes, size, sizeof(size)));
    return true;
}

/* The region that came first of those that were not tried. Then answers are there to be taken, if
 * any came meanwhile. */
static void register_next(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;
    uint32_t r = drive->reader->added[state->n_tried++];
    uint64_t begin_ns = lam_thread_ns();
    bool go_on;

    if (!drive->fixed_buffers)
        return;
    lam_engine_away(drive);
    lam_fault_pass("register");
    go_on = register_region(drive, r) &&
            !is_too_slow(&drive->reader->config.regions[r], lam_thread_ns() - begin_ns);
    lam_engine_back(drive);
    if (!go_on) {
        pthread_mutex_lock(&drive->reader->lock);
        drive->fixed_buffers = false;
        pthread_mutex_unlock(&drive->reader->lock);
    }
    lam_ignore(io_uring_submit_and_get_events(&state->ring) >= 0, "they stay for the next round");
}

static enum lam_status open_ring(struct lam_drive *drive, struct lam_err *err)
{
    struct uring_state *state = drive->state;
    struct lam_reader *reader = drive->reader;
    unsigned n_entries = LAM_JOBS_DEPTH_MAX + EXTRA_ENTRIES;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int result = io_uring_queue_init_params(n_entries, &state->ring, &params);
    bool fixed;

    if (result == -EINVAL) {
        params = (struct io_uring_params){0};
        result = io_uring_queue_init_params(n_entries, &state->ring, &params);
    }
    if (lam_fault_hit("io_uring"))
        result = result == 0 ? (io_uring_queue_exit(&state->ring), -EPERM) : result;
    if (result < 0)
        return lam_fail_errno(err, -result, "io_uring_setup");
    state->has_ring = true;
    state->fixed_files = io_uring_register_files(&state->ring, reader->fds, reader->n_sources) == 0;
    fixed = io_uring_register_buffers_sparse(&state->ring, reader->config.n_regions) == 0;
    fixed = fixed && register_region(drive, 0);
    state->n_tried = 1;
    pthread_mutex_lock(&reader->lock);
    drive->fixed_buffers = fixed;
    pthread_mutex_unlock(&reader->lock);
    return LAM_OK;
}

/* ---- requests ---- */

static void prepare(struct lam_drive *drive, const struct lam_io *io)
{
    struct uring_state *state = drive->state;
    const struct lam_piece *piece = &io->piece;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);
    unsigned char *to = drive->reader->config.pool_base + piece->pool_offset;
    int fd = state->fixed_files ? (int)io->source : drive->reader->fds[io->source];

    assert(sqe != NULL); /* the ring has an entry for each request */
    if (state->fixed[io->region])
        io_uring_prep_read_fixed(
            sqe, fd, to, (unsigned)piece->bytes, io->file_offset, (int)io->region);
    else
        io_uring_prep_read(sqe, fd, to, (unsigned)piece->bytes, io->file_offset);
    if (state->fixed_files)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, io->index);
}

static void arm_wake(struct uring_state *state)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);

    assert(sqe != NULL);
    io_uring_prep_poll_add(sqe, state->wake_fd, POLLIN);
    io_uring_sqe_set_data64(sqe, TAG_WAKE);
    state->wake_armed = true;
}

/* Submits what is prepared and waits for an answer, at most wait_ns. False: time is up. */
static bool submit_and_wait(struct uring_state *state, uint64_t wait_ns)
{
    struct __kernel_timespec limit = {.tv_sec = (long long)(wait_ns / LAM_NS_PER_S),
        .tv_nsec = (long long)(wait_ns % LAM_NS_PER_S)};
    struct io_uring_cqe *cqe;
    int result;

    if (wait_ns == UINT64_MAX)
        result = io_uring_submit_and_wait(&state->ring, 1);
    else
        result = io_uring_submit_and_wait_timeout(&state->ring, &cqe, 1, &limit, NULL);
    if (result < 0 && result != -EINTR && result != -ETIME)
        lam_sleep_ns(SHORTAGE_NS);
    return result != -ETIME;
}

/* Moves the answers that are there to state->answers; ios[index] are the requests. */
static uint32_t collect(struct uring_state *state, struct lam_io *ios)
{
    struct io_uring_cqe *cqe;
    bool refused = false;
    uint32_t n = 0;

    while (n < LAM_JOBS_DEPTH_MAX && io_uring_peek_cqe(&state->ring, &cqe) == 0) {
        uint64_t tag = io_uring_cqe_get_data64(cqe);
        int64_t result = cqe->res;
        uint64_t count;

        io_uring_cqe_seen(&state->ring, cqe);
        if (tag == TAG_WAKE) {
            lam_ignore(read(state->wake_fd, &count, sizeof(count)) < 0, "empty is as good");
            state->wake_armed = false;
            continue;
        }
        if (tag == TAG_TIMEOUT)
            continue;
        if (lam_fault_hit("read"))
            result = -EIO;
        refused = refused || result == -EAGAIN;
        state->answers[n++] = (struct lam_engine_answer){.io = &ios[tag], .result = result};
    }
    if (refused)
        lam_sleep_ns(SHORTAGE_NS);
    return n;
}

/* ---- before serving ---- */

/* One read through the ring, compared with a plain one. */
static enum lam_status probe(struct lam_drive *drive, struct lam_err *err)
{
    struct uring_state *state = drive->state;
    const struct lam_reader_config *config = &drive->reader->config;
    uint64_t align = config->file->align;
    const struct lam_span *span = &config->file->spans[drive->part];
    struct lam_io io = {
        .source = drive->source, .file_offset = span->file_offset, .piece = {.bytes = align}};
    unsigned char *want = lam_calloc(1, align);
    uint64_t n_bytes = span->bytes < align ? span->bytes : align;
    enum lam_status status;
    uint32_t n = 0;
    int64_t result;

    if (want == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the probe");
    status = lam_file_read(config->file, span->begin, want, n_bytes, err);
    if (status != LAM_OK)
        goto done;
    memset(config->pool_base, 0xa5, align);
    prepare(drive, &io);
    while (n == 0) {
        int submitted = io_uring_submit_and_wait(&state->ring, 1);

        if (submitted < 0 && submitted != -EINTR) {
            status = lam_fail_errno(err, -submitted, "io_uring_enter");
            goto done;
        }
        n = collect(state, &io);
    }
    result = state->answers[0].result;
    if (result < 0)
        status = lam_fail_errno(err, (int)-result, "a first read by io_uring");
    else if ((uint64_t)result < n_bytes || memcmp(want, config->pool_base, n_bytes) != 0)
        status = lam_fail(err, LAM_DATA_LOSS, "a first read by io_uring brought wrong bytes");

done:
    lam_free(want);
    return status;
}

/* The next stretch of a part, as a unit would be read, into the first region. *at: in the part. */
static void add_stretch(const struct lam_drive *drive, struct lam_jobs *trial, uint64_t *at)
{
    const struct lam_file *file = drive->reader->config.file;
    const struct lam_span *span = &file->spans[drive->part];
    struct lam_load load = {.window = {.file_offset = span->begin + *at,
                                .bytes = drive->reader->config.regions[0].bytes}};
    uint64_t left = span->bytes - *at;

    if (load.window.bytes > left)
        load.window.bytes = (left + file->align - 1) / file->align * file->align;
    lam_jobs_add(trial, &load);
    *at = load.window.bytes >= left ? 0 : *at + load.window.bytes;
}

/* Reads for MEASURE_NS in that way and returns the speed, 0 when a read fails for good: the first
 * load that meets it will say so. *at: where in the file, moved on. */
static uint64_t measure(
    struct lam_drive *drive, struct lam_jobs *trial, const struct lam_probe_way *way, uint64_t *at)
{
    struct uring_state *state = drive->state;
    struct lam_jobs_config config = drive->reader->jobs.config;
    uint64_t start_ns = lam_now_ns(), end_ns = start_ns, bytes = 0;
    struct lam_load_end end;
    struct lam_io *io;
    bool cut_up = true, failed = false;

    config.n_drives = 1;
    config.drives[0] = (struct lam_jobs_drive){
        .request_bytes = way->request_bytes, .depth = way->depth, .copies = drive->copies};
    lam_jobs_init(trial, &config);
    while ((!failed && end_ns - start_ns < MEASURE_NS) || !lam_jobs_are_idle(trial)) {
        bool more = !failed && end_ns - start_ns < MEASURE_NS;
        uint32_t n;

        while (more) {
            /* Stretches of a small model are so short that more may be under way than jobs take. */
            if (cut_up && lam_jobs_has_room(trial)) {
                add_stretch(drive, trial, at);
                cut_up = false;
            }
            io = lam_jobs_next(trial, 0, end_ns);
            if (io == NULL)
                break;
            prepare(drive, io);
            cut_up = cut_up || io->last;
        }
        lam_ignore(submit_and_wait(state, UINT64_MAX), "it waits as long as it takes");
        n = collect(state, trial->ios[0]);
        end_ns = lam_now_ns();
        for (uint32_t i = 0; i < n; i++)
            failed =
                (lam_jobs_answer(trial, state->answers[i].io, state->answers[i].result, &end) &&
                    end.status != LAM_OK) ||
                failed;
        if (more)
            bytes = trial->bytes_read;
        if (more && end_ns - start_ns >= MEASURE_NS)
            bytes = bytes * MEASURE_NS / (end_ns - start_ns);
    }
    return failed ? 0 : bytes * (LAM_NS_PER_S / MEASURE_NS);
}

/* The ways of `which`, and all of them again and again, since a drive's speed drifts. */
static void measure_ways(struct lam_drive *drive, struct lam_jobs *trial, const uint32_t *which,
    uint32_t n, uint64_t *at, uint64_t *ret_bytes_per_s)
{
    uint64_t rounds[LAM_PROBE_CANDIDATES][LAM_PROBE_ROUNDS];

    for (uint32_t round = 0; round < LAM_PROBE_ROUNDS; round++) {
        for (uint32_t i = 0; i < n; i++)
            rounds[i][round] = measure(drive, trial, &lam_probe_candidates[which[i]], at);
    }
    for (uint32_t i = 0; i < n; i++)
        ret_bytes_per_s[which[i]] = lam_probe_median(rounds[i]);
}

/* All candidates, then the best beside the first alone. */
static void measure_all(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;
    struct lam_jobs *trial = lam_calloc(1, sizeof(*trial));
    uint32_t all[LAM_PROBE_CANDIDATES], two[2] = {0};
    uint64_t at = 0;

    if (trial == NULL)
        return;
    for (uint32_t i = 0; i < LAM_PROBE_CANDIDATES; i++)
        all[i] = i;
    measure_ways(drive, trial, all, LAM_PROBE_CANDIDATES, &at, state->bytes_per_s);
    two[1] = lam_probe_choose(state->bytes_per_s);
    if (two[1] != 0) {
        memset(state->bytes_per_s, 0, LAM_PROBE_CANDIDATES * sizeof(*state->bytes_per_s));
        measure_ways(drive, trial, two, 2, &at, state->bytes_per_s);
    }
    lam_free(trial);
}

/* ---- the thread ---- */

static void serve(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;
    struct lam_engine_work *work = &state->work;
    uint32_t n_under_way = 0, n_stop_waits = 0;

    for (;;) {
        bool more = true, in_time;
        uint32_t n;

        if (!state->wake_armed)
            arm_wake(state);
        while (more) {
            lam_engine_take(drive, LAM_JOBS_DEPTH_MAX, work);
            for (uint32_t i = 0; i < work->n_ios; i++)
                prepare(drive, work->ios[i]);
            n_under_way += work->n_ios;
            if (work->n_ios > 0)
                lam_ignore(io_uring_submit(&state->ring) >= 0, "what stays goes with the next");
            more = lam_engine_tell(drive, work);
        }
        if (work->stopping && (n_under_way == 0 || ++n_stop_waits > STOP_WAITS))
            return;
        if (state->n_tried < work->n_added && !work->stopping) {
            register_next(drive);
            in_time = true;
        } else {
            in_time = submit_and_wait(state, work->stopping ? STOP_WAIT_NS : work->idle_ns);
        }
        n = collect(state, drive->reader->jobs.ios[drive->index]);
        n_under_way -= n;
        if (n > 0)
            lam_engine_answer(drive, state->answers, n);
        else if (!in_time && !work->stopping)
            lam_engine_idle(drive, work);
    }
}

static void *run(void *arg)
{
    struct lam_drive *drive = arg;
    struct lam_reader *reader = drive->reader;
    struct uring_state *state = drive->state;
    struct lam_err err = {0};
    enum lam_status status = open_ring(drive, &err);

    if (status == LAM_OK)
        status = probe(drive, &err);
    if (status == LAM_OK && state->bytes_per_s != NULL)
        measure_all(drive);
    pthread_mutex_lock(&reader->lock);
    state->start_status = status;
    state->start_err = err;
    state->started = true;
    pthread_cond_signal(&state->started_cond);
    pthread_mutex_unlock(&reader->lock);
    if (status == LAM_OK)
        serve(drive);
    if (state->has_ring)
        io_uring_queue_exit(&state->ring);
    return NULL;
}

static void wake(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;
    uint64_t one = 1;

    lam_ignore(write(state->wake_fd, &one, sizeof(one)) < 0, "full means awake already");
}

static void free_state(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;

    if (state->wake_fd >= 0)
        close(state->wake_fd);
    pthread_cond_destroy(&state->started_cond);
    lam_free(state->fixed);
    lam_free(state);
    drive->state = NULL;
}

static void stop(struct lam_drive *drive)
{
    struct uring_state *state = drive->state;

    pthread_join(state->thread, NULL);
    free_state(drive);
}

static enum lam_status start(struct lam_drive *drive, uint64_t *bytes_per_s, struct lam_err *err)
{
    struct uring_state *state = lam_calloc(1, sizeof(*state));
    struct lam_reader *reader = drive->reader;
    enum lam_status status;
    int error;

    if (state == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    drive->state = state;
    state->bytes_per_s = bytes_per_s;
    pthread_cond_init(&state->started_cond, NULL);
    state->fixed = lam_calloc(reader->config.n_regions, sizeof(*state->fixed));
    state->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (state->fixed == NULL || state->wake_fd < 0) {
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory or descriptor for the reader");
        goto fail;
    }
    error = pthread_create(&state->thread, NULL, run, drive);
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
    free_state(drive);
    return status;
}

const struct lam_engine lam_engine_uring = {
    .name = "io_uring", .start = start, .wake = wake, .stop = stop};
