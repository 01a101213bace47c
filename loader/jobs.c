/* jobs: see the header. */
#include "loader/jobs.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/size.h"

void lam_jobs_init(struct lam_jobs *jobs, const struct lam_jobs_config *config)
{
    assert(config->n_drives > 0 && config->n_drives <= LAM_JOBS_DRIVES_MAX);
    assert(config->n_copies > 0 && config->n_copies <= LAM_JOBS_COPIES_MAX);
    assert(config->n_parts > 0);
    memset(jobs, 0, sizeof(*jobs));
    jobs->config = *config;
    for (uint32_t d = 0; d < config->n_drives; d++) {
        const struct lam_jobs_drive *drive = &config->drives[d];

        assert(drive->depth > 0 && drive->depth <= LAM_JOBS_DEPTH_MAX);
        assert(drive->request_bytes > 0 && drive->request_bytes % config->align == 0);
        for (uint32_t i = 0; i < LAM_JOBS_DEPTH_MAX; i++)
            jobs->ios[d][i] = (struct lam_io){.index = i, .drive = d};
    }
}

/* ---- loads ---- */

static uint32_t unused_job(const struct lam_jobs *jobs)
{
    uint32_t j = 0;

    while (j < LAM_JOBS_MAX && jobs->jobs[j].used)
        j++;
    return j;
}

bool lam_jobs_has_room(const struct lam_jobs *jobs)
{
    return unused_job(jobs) < LAM_JOBS_MAX;
}

void lam_jobs_add(struct lam_jobs *jobs, const struct lam_load *load)
{
    uint32_t j = unused_job(jobs);

    assert(j < LAM_JOBS_MAX && load->window.bytes > load->have_bytes);
    assert(load->window.file_offset % jobs->config.align == 0);
    assert(load->window.file_offset >= jobs->config.spans[0].begin);
    jobs->jobs[j] = (struct lam_job){.used = true,
        .load = *load,
        .order = jobs->n_added++,
        .late_at = load->late_begin,
        .open = load->late_begin == load->late_end};
}

static struct lam_job *find_job(struct lam_jobs *jobs, uint32_t place, uint64_t generation)
{
    for (uint32_t j = 0; j < LAM_JOBS_MAX; j++) {
        struct lam_job *job = &jobs->jobs[j];

        if (job->used && job->load.place == place && job->load.generation == generation)
            return job;
    }
    return NULL;
}

void lam_jobs_open(struct lam_jobs *jobs, uint32_t place, uint64_t generation)
{
    struct lam_job *job = find_job(jobs, place, generation);

    if (job != NULL)
        job->open = true;
}

static void fill_end(const struct lam_job *job, struct lam_load_end *ret_end)
{
    *ret_end = (struct lam_load_end){.open = job->open,
        .place = job->load.place,
        .generation = job->load.generation,
        .window = job->load.window,
        .pool_offset = job->load.pool_offset,
        .issued_ns = job->issued_ns,
        .status = job->status,
        .err = job->err};
}

void lam_jobs_cancel(struct lam_jobs *jobs, uint32_t place, uint64_t generation)
{
    struct lam_job *job = find_job(jobs, place, generation);

    if (job != NULL && job->status == LAM_OK)
        job->status =
            lam_fail(&job->err, LAM_CANCELLED, "the load was given up for a better place");
}

bool lam_jobs_reap(struct lam_jobs *jobs, struct lam_load_end *ret_end)
{
    for (uint32_t j = 0; j < LAM_JOBS_MAX; j++) {
        struct lam_job *job = &jobs->jobs[j];

        if (!job->used || job->status != LAM_CANCELLED || job->outstanding > 0)
            continue;
        fill_end(job, ret_end);
        job->used = false;
        return true;
    }
    return false;
}

/* ---- cutting ---- */

/* The next part of the job that may be read now: [*ret_begin, *ret_end) of its window. False: none
 * (for now, if it is not open). */
static bool next_part(const struct lam_job *job, uint64_t *ret_begin, uint64_t *ret_end)
{
    const struct lam_load *load = &job->load;
    uint64_t read_bytes = load->window.bytes - load->have_bytes;
    uint64_t late_end = load->late_end < read_bytes ? load->late_end : read_bytes;

    if (job->at < load->late_begin && job->at < read_bytes) {
        *ret_begin = job->at;
        *ret_end = load->late_begin < read_bytes ? load->late_begin : read_bytes;
    } else if (job->at < read_bytes && load->late_end < read_bytes) {
        *ret_begin = job->at < load->late_end ? load->late_end : job->at;
        *ret_end = read_bytes;
    } else {
        *ret_begin = job->late_at;
        *ret_end = job->open ? late_end : job->late_at;
    }
    return *ret_begin < *ret_end;
}

static bool has_part(const struct lam_job *job)
{
    uint64_t begin, end;

    return next_part(job, &begin, &end);
}

/* Nothing is left to be cut off it, now or later. */
static bool is_cut_up(const struct lam_job *job)
{
    return job->open && !has_part(job);
}

static uint32_t region_of(const struct lam_jobs *jobs, uint64_t pool_offset)
{
    uint32_t r = 0;

    while (pool_offset >= jobs->config.regions[r].pool_offset + jobs->config.regions[r].bytes)
        r++;
    assert(r < jobs->config.n_regions);
    return r;
}

static uint32_t part_of(const struct lam_jobs *jobs, uint64_t file_offset)
{
    return lam_shards_find(jobs->config.spans, jobs->config.n_parts, file_offset);
}

/* What may be read at once from there: up to a multiple of `whole` in the part's own file, and up
 * to the next part. */
static uint64_t room_at(const struct lam_jobs *jobs, uint64_t file_offset, uint64_t whole)
{
    uint32_t p = part_of(jobs, file_offset);
    const struct lam_span *span = &jobs->config.spans[p];
    uint64_t room = whole - (file_offset - span->begin + span->file_offset) % whole;

    if (p + 1 < jobs->config.n_parts && span[1].begin - file_offset < room)
        room = span[1].begin - file_offset;
    return room;
}

/* Cuts the next piece off the job. */
static void cut(struct lam_jobs *jobs, uint32_t j, uint64_t whole, struct lam_piece *piece)
{
    struct lam_job *job = &jobs->jobs[j];
    const struct lam_region *region;
    uint64_t begin = 0, end = 0, room;
    bool has = next_part(job, &begin, &end);

    assert(has);
    *piece = (struct lam_piece){.job = j,
        .file_offset = job->load.window.file_offset + begin,
        .pool_offset = job->load.pool_offset + begin};
    region = &jobs->config.regions[region_of(jobs, piece->pool_offset)];
    room = region->pool_offset + region->bytes - piece->pool_offset;
    if (room > room_at(jobs, piece->file_offset, whole))
        room = room_at(jobs, piece->file_offset, whole);
    piece->bytes = end - begin < room ? end - begin : room;
    if (begin >= job->load.late_begin && begin < job->load.late_end)
        job->late_at = begin + piece->bytes;
    else
        job->at = begin + piece->bytes;
    job->outstanding++;
}

/* ---- requests ---- */

bool lam_jobs_are_idle(const struct lam_jobs *jobs)
{
    for (uint32_t d = 0; d < jobs->config.n_drives; d++) {
        if (jobs->under_way[d] > 0)
            return false;
    }
    return true;
}

static uint32_t live_copies(const struct lam_jobs *jobs)
{
    return ((1u << jobs->config.n_copies) - 1) & ~jobs->lost;
}

/* Copies on the drive of what is there. */
static uint32_t copies_at(const struct lam_jobs *jobs, uint32_t drive, uint64_t file_offset)
{
    return jobs->config.drives[drive].copies[part_of(jobs, file_offset)] & live_copies(jobs);
}

/* The oldest job whose next piece the drive has, or LAM_JOBS_MAX. */
static uint32_t oldest_job(const struct lam_jobs *jobs, uint32_t drive)
{
    uint32_t best = LAM_JOBS_MAX;

    for (uint32_t j = 0; j < LAM_JOBS_MAX; j++) {
        const struct lam_job *job = &jobs->jobs[j];
        uint64_t begin, end;

        if (job->used && job->status == LAM_OK &&
            (best == LAM_JOBS_MAX || job->order < jobs->jobs[best].order) &&
            next_part(job, &begin, &end) &&
            copies_at(jobs, drive, job->load.window.file_offset + begin) != 0)
            best = j;
    }
    return best;
}

static uint32_t n_copies_left(const struct lam_jobs *jobs)
{
    return (uint32_t)__builtin_popcount(live_copies(jobs));
}

/* Copies on the drive that the piece may be asked of: those that have not failed for it. When all
 * of them have, it is the turn of another drive that has one which has not, unless that one was
 * lost or its drive hangs: then any will do. */
static uint32_t copies_for(
    const struct lam_jobs *jobs, uint32_t drive, const struct lam_piece *piece)
{
    uint32_t here = copies_at(jobs, drive, piece->file_offset);

    if ((here & ~piece->failed) != 0)
        return here & ~piece->failed;
    for (uint32_t d = 0; d < jobs->config.n_drives; d++) {
        if (!jobs->hangs[d] && (copies_at(jobs, d, piece->file_offset) & ~piece->failed) != 0)
            return 0;
    }
    return here;
}

/* Takes a piece that has to be asked for again, if there is one for this drive. */
static bool take_again(struct lam_jobs *jobs, uint32_t drive, struct lam_piece *ret_piece)
{
    for (uint32_t i = 0; i < jobs->n_again; i++) {
        if (copies_for(jobs, drive, &jobs->again[i]) == 0)
            continue;
        *ret_piece = jobs->again[i];
        jobs->again[i] = jobs->again[--jobs->n_again];
        return true;
    }
    return false;
}

struct lam_io *lam_jobs_next(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns)
{
    const struct lam_jobs_drive *it = &jobs->config.drives[drive];
    struct lam_io *io = jobs->ios[drive];
    uint32_t part;

    if (jobs->under_way[drive] == it->depth)
        return NULL;
    while (io->used)
        io++;
    io->last = false;
    if (!take_again(jobs, drive, &io->piece)) {
        uint32_t j = oldest_job(jobs, drive);

        if (j == LAM_JOBS_MAX)
            return NULL;
        cut(jobs, j, it->request_bytes, &io->piece);
        if (jobs->jobs[j].issued_ns == 0)
            jobs->jobs[j].issued_ns = now_ns;
        io->last = !has_part(&jobs->jobs[j]);
    }
    io->used = true;
    part = part_of(jobs, io->piece.file_offset);
    io->copy = (uint32_t)__builtin_ctz(copies_for(jobs, drive, &io->piece));
    io->source = part * jobs->config.n_copies + io->copy;
    io->file_offset = io->piece.file_offset - jobs->config.spans[part].begin +
                      jobs->config.spans[part].file_offset;
    io->region = region_of(jobs, io->piece.pool_offset);
    io->started_ns = io->due_from_ns = now_ns;
    jobs->under_way[drive]++;
    return io;
}

/* ---- answers ---- */

uint64_t lam_jobs_bytes_there(const struct lam_jobs *jobs, const struct lam_piece *piece)
{
    const struct lam_span *span = &jobs->config.spans[part_of(jobs, piece->file_offset)];
    uint64_t at = piece->file_offset - span->begin;
    uint64_t left = at < span->bytes ? span->bytes - at : 0;

    return left < piece->bytes ? left : piece->bytes;
}

void lam_jobs_lose(struct lam_jobs *jobs, uint32_t copy)
{
    assert(copy < jobs->config.n_copies);
    jobs->lost |= 1u << copy;
    if (live_copies(jobs) != 0)
        return;
    jobs->lost &= ~1u;
    jobs->failures[0] = 0;
}

/* The copy did not bring the piece: the next try is for another. */
static void blame(struct lam_jobs *jobs, struct lam_io *io)
{
    io->piece.failed |= 1u << io->copy;
    if (++jobs->failures[io->copy] >= LAM_JOBS_LOST_AFTER &&
        (live_copies(jobs) & ~(1u << io->copy)) != 0)
        lam_jobs_lose(jobs, io->copy);
    if ((live_copies(jobs) & ~io->piece.failed) == 0)
        io->piece.failed = 0;
}

/* Takes an answer that brought bytes. True: the piece has all that it asked for. */
static bool take_bytes(struct lam_jobs *jobs, struct lam_io *io, uint64_t n_bytes)
{
    struct lam_piece *piece = &io->piece;
    struct lam_job *job = &jobs->jobs[piece->job];
    uint64_t whole = lam_align_down(n_bytes, jobs->config.align);

    jobs->reads++;
    jobs->bytes_read += n_bytes;
    if (n_bytes >= lam_jobs_bytes_there(jobs, piece)) {
        jobs->failures[io->copy] = 0;
        return true;
    }
    if (whole == 0)
        blame(jobs, io); /* one copy may have been cut */
    if (whole == 0 && ++piece->tries > LAM_JOBS_TRIES * n_copies_left(jobs)) {
        if (job->status == LAM_OK)
            job->status = lam_fail(&job->err, LAM_DATA_LOSS,
                "%s ends at byte %" PRIu64 ", it was longer when it was opened: restore the file",
                jobs->config.paths[part_of(jobs, piece->file_offset)], io->file_offset + n_bytes);
        return true;
    }
    piece->file_offset += whole;
    piece->pool_offset += whole;
    piece->bytes -= whole;
    return false;
}

/* Takes a failure. True: no more tries. */
static bool take_error(struct lam_jobs *jobs, struct lam_io *io, int native_errno)
{
    struct lam_piece *piece = &io->piece;
    struct lam_job *job = &jobs->jobs[piece->job];
    uint32_t n_copies = n_copies_left(jobs);

    if (native_errno == EINTR || native_errno == EAGAIN) {
        if (++piece->refusals <= LAM_JOBS_REFUSALS)
            return false;
    } else if (n_copies > 1 || native_errno == EIO || native_errno == ENOMEM ||
               native_errno == ETIMEDOUT) {
        blame(jobs, io);
        if (++piece->tries <= LAM_JOBS_TRIES * n_copies)
            return false;
    }
    if (job->status == LAM_OK)
        job->status = lam_fail(&job->err, LAM_UNAVAILABLE,
            "cannot read %s at byte %" PRIu64 " (%s): check the drive and its cable or mount",
            jobs->config.paths[part_of(jobs, piece->file_offset)], io->file_offset,
            strerror(native_errno));
    return true;
}

bool lam_jobs_answer(
    struct lam_jobs *jobs, struct lam_io *io, int64_t result, struct lam_load_end *ret_end)
{
    struct lam_job *job = &jobs->jobs[io->piece.job];
    bool done;

    assert(io->used);
    done = result < 0 ? take_error(jobs, io, (int)-result) : take_bytes(jobs, io, (uint64_t)result);
    io->used = false;
    jobs->under_way[io->drive]--;
    jobs->hangs[io->drive] = false;
    if (!done && job->status == LAM_OK) {
        jobs->again[jobs->n_again++] = io->piece;
        return false;
    }
    job->outstanding--;
    if (job->outstanding > 0 || (job->status == LAM_OK && !is_cut_up(job)))
        return false;
    fill_end(job, ret_end);
    job->used = false;
    return true;
}

void lam_jobs_away(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns)
{
    assert(jobs->away_ns[drive] == 0 && now_ns > 0);
    jobs->away_ns[drive] = now_ns;
}

void lam_jobs_back(struct lam_jobs *jobs, uint32_t drive, uint64_t now_ns)
{
    assert(jobs->away_ns[drive] > 0);
    for (uint32_t i = 0; i < LAM_JOBS_DEPTH_MAX; i++)
        jobs->ios[drive][i].due_from_ns += now_ns - jobs->away_ns[drive];
    jobs->away_ns[drive] = 0;
}

bool lam_jobs_expire(
    struct lam_jobs *jobs, uint64_t now_ns, uint64_t deadline_ns, struct lam_load_end *ret_end)
{
    for (uint32_t d = 0; d < jobs->config.n_drives; d++) {
        for (uint32_t i = 0; i < LAM_JOBS_DEPTH_MAX && jobs->away_ns[d] == 0; i++) {
            const struct lam_io *io = &jobs->ios[d][i];
            struct lam_job *job = &jobs->jobs[io->piece.job];

            if (!io->used || now_ns - io->due_from_ns <= deadline_ns || job->expired)
                continue;
            jobs->hangs[d] = true;
            job->expired = true;
            job->status = lam_fail(&job->err, LAM_DEADLINE_EXCEEDED,
                "the drive has not answered a read of %s at byte %" PRIu64
                " in time: check the drive or mount",
                jobs->config.paths[part_of(jobs, io->piece.file_offset)], io->file_offset);
            fill_end(job, ret_end);
            ret_end->expired = true;
            return true;
        }
    }
    return false;
}
