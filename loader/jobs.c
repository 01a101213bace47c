/* jobs: see the header. */
#include "loader/jobs.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/size.h"

void lam_jobs_init(struct lam_jobs *jobs, const struct lam_jobs_config *config)
{
    assert(config->depth > 0 && config->depth <= LAM_JOBS_DEPTH_MAX);
    assert(config->request_bytes > 0 && config->request_bytes % config->align == 0);
    memset(jobs, 0, sizeof(*jobs));
    jobs->config = *config;
    for (uint32_t i = 0; i < LAM_JOBS_DEPTH_MAX; i++)
        jobs->ios[i].index = i;
}

void lam_jobs_add(struct lam_jobs *jobs, const struct lam_load *load)
{
    uint32_t j = 0;

    while (j < LAM_JOBS_MAX && jobs->job_used[j])
        j++;
    assert(j < LAM_JOBS_MAX && load->window.bytes > 0);
    assert(load->window.file_offset % jobs->config.align == 0);
    assert(load->window.file_offset < jobs->config.file_bytes);
    jobs->job_used[j] = true;
    jobs->jobs[j] = (struct lam_job){.load = *load};
    jobs->queue[(jobs->queue_head + jobs->n_queued++) % LAM_JOBS_MAX] = j;
}

static uint32_t region_of(const struct lam_jobs *jobs, uint64_t pool_offset)
{
    uint32_t r = 0;

    while (pool_offset >= jobs->config.regions[r].pool_offset + jobs->config.regions[r].bytes)
        r++;
    assert(r < jobs->config.n_regions);
    return r;
}

/* Cuts the next request off the oldest job. */
static void cut(struct lam_jobs *jobs, struct lam_io *io)
{
    uint32_t j = jobs->queue[jobs->queue_head];
    struct lam_job *job = &jobs->jobs[j];
    const struct lam_region *region;
    uint64_t whole = jobs->config.request_bytes;
    uint64_t bytes = job->load.window.bytes - job->cut_bytes;
    uint64_t room;

    io->job = j;
    io->tries = 0;
    io->file_offset = job->load.window.file_offset + job->cut_bytes;
    io->pool_offset = job->load.pool_offset + job->cut_bytes;
    io->region = region_of(jobs, io->pool_offset);
    region = &jobs->config.regions[io->region];
    room = region->pool_offset + region->bytes - io->pool_offset;
    if (room > whole - io->file_offset % whole)
        room = whole - io->file_offset % whole;
    io->bytes = bytes < room ? bytes : room;
    job->cut_bytes += io->bytes;
    io->last = job->cut_bytes == job->load.window.bytes;
    job->outstanding++;
}

/* The oldest job that still has something to ask for, or none: jobs that are cut up leave the
 * queue. */
static bool has_work(struct lam_jobs *jobs)
{
    while (jobs->n_queued > 0) {
        struct lam_job *job = &jobs->jobs[jobs->queue[jobs->queue_head]];

        if (job->status == LAM_OK && job->cut_bytes < job->load.window.bytes)
            return true;
        jobs->queue_head = (jobs->queue_head + 1) % LAM_JOBS_MAX;
        jobs->n_queued--;
    }
    return false;
}

struct lam_io *lam_jobs_next(struct lam_jobs *jobs)
{
    struct lam_io *unused = NULL;

    for (uint32_t i = 0; i < jobs->config.depth && (jobs->n_again > 0 || unused == NULL); i++) {
        struct lam_io *io = &jobs->ios[i];

        if (io->queued_again) {
            io->queued_again = false;
            io->last = false; /* said before */
            jobs->n_again--;
            return io;
        }
        if (!io->used && unused == NULL)
            unused = io;
    }
    if (unused == NULL || !has_work(jobs))
        return NULL;
    unused->used = true;
    jobs->n_under_way++;
    cut(jobs, unused);
    return unused;
}

static void ask_again(struct lam_jobs *jobs, struct lam_io *io)
{
    io->queued_again = true;
    jobs->n_again++;
}

/* Bytes of the request that lie within the file: the window's end is rounded up beyond it. */
static uint64_t bytes_in_file(const struct lam_jobs *jobs, const struct lam_io *io)
{
    uint64_t left = jobs->config.file_bytes - io->file_offset;

    return left < io->bytes ? left : io->bytes;
}

/* Takes an answer that brought bytes. True: the request has all that it asked for. */
static bool take_bytes(struct lam_jobs *jobs, struct lam_io *io, uint64_t n_bytes)
{
    struct lam_job *job = &jobs->jobs[io->job];
    uint64_t whole;

    jobs->reads++;
    jobs->bytes_read += n_bytes;
    if (n_bytes >= bytes_in_file(jobs, io))
        return true;
    whole = lam_align_down(n_bytes, jobs->config.align);
    if (whole == 0 && ++io->tries > LAM_JOBS_TRIES) {
        job->status = lam_fail(&job->err, LAM_DATA_LOSS,
            "%s ends at byte %" PRIu64 ", it was longer when it was opened: restore the file",
            jobs->config.path, io->file_offset + n_bytes);
        return true;
    }
    io->file_offset += whole;
    io->pool_offset += whole;
    io->bytes -= whole;
    return false;
}

/* Takes a failure. True: no more tries. */
static bool take_error(struct lam_jobs *jobs, struct lam_io *io, int native_errno)
{
    struct lam_job *job = &jobs->jobs[io->job];

    if (native_errno == EINTR || native_errno == EAGAIN)
        return false;
    if (native_errno == EIO || native_errno == ENOMEM || native_errno == ETIMEDOUT) {
        if (++io->tries <= LAM_JOBS_TRIES)
            return false;
    }
    if (job->status == LAM_OK)
        job->status = lam_fail(&job->err, LAM_UNAVAILABLE,
            "cannot read %s at byte %" PRIu64 " (%s): check the drive and its cable or mount",
            jobs->config.path, io->file_offset, strerror(native_errno));
    return true;
}

bool lam_jobs_answer(
    struct lam_jobs *jobs, struct lam_io *io, int64_t result, struct lam_load_end *ret_end)
{
    struct lam_job *job = &jobs->jobs[io->job];
    bool done;

    assert(io->used && !io->queued_again);
    done = result < 0 ? take_error(jobs, io, (int)-result) : take_bytes(jobs, io, (uint64_t)result);
    if (!done && job->status == LAM_OK) {
        ask_again(jobs, io);
        return false;
    }
    io->used = false;
    jobs->n_under_way--;
    job->outstanding--;
    if (job->outstanding > 0 || (job->status == LAM_OK && job->cut_bytes < job->load.window.bytes))
        return false;
    lam_ignore(has_work(jobs), "takes a failed job off the queue before its place is used again");
    ret_end->place = job->load.place;
    ret_end->generation = job->load.generation;
    ret_end->window = job->load.window;
    ret_end->status = job->status;
    ret_end->err = job->err;
    jobs->job_used[io->job] = false;
    return true;
}
