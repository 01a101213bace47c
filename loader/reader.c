/* reader: chooses how to read, and what all engines have in common. */
#include "loader/reader.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "loader/drives.h"
#include "loader/engine.h"

const uint64_t lam_engine_idle_ns[LAM_ENGINE_IDLE_CALLS] = {2 * LAM_NS_PER_MS, 200 * LAM_NS_PER_MS};

static void wake_all(struct lam_reader *reader)
{
    reader->idle_calls = 0;
    for (uint32_t d = 0; d < reader->n_started; d++)
        reader->engine->wake(&reader->drives[d]);
}

/* ---- for the engines ---- */

void lam_engine_take(struct lam_drive *drive, uint32_t n_max, struct lam_engine_work *ret_work)
{
    struct lam_reader *reader = drive->reader;
    struct lam_engine_work *work = ret_work;
    uint64_t now_ns = lam_now_ns();
    struct lam_io *io;

    pthread_mutex_lock(&reader->lock);
    work->n_ios = work->n_issued = work->n_ends = 0;
    work->n_added = reader->n_added;
    work->stopping = reader->stopping;
    while (!reader->stopping && work->n_ios < n_max &&
           (io = lam_jobs_next(&reader->jobs, drive->index, now_ns)) != NULL) {
        lam_meter_begin(&reader->meter, now_ns);
        work->ios[work->n_ios++] = io;
        if (io->last)
            work->issued[work->n_issued++] = reader->jobs.jobs[io->piece.job].load;
    }
    while (!reader->stopping && work->n_ends < sizeof(work->ends) / sizeof(*work->ends) &&
           lam_jobs_reap(&reader->jobs, &work->ends[work->n_ends]))
        work->n_ends++;
    work->idle_ns = UINT64_MAX;
    work->idle_call = reader->idle_calls;
    if (drive->index == 0 && reader->idle_calls < LAM_ENGINE_IDLE_CALLS &&
        lam_jobs_are_idle(&reader->jobs))
        work->idle_ns = lam_engine_idle_ns[reader->idle_calls];
    pthread_mutex_unlock(&reader->lock);
}

void lam_engine_idle(struct lam_drive *drive, const struct lam_engine_work *work)
{
    struct lam_reader *reader = drive->reader;
    bool idle;

    pthread_mutex_lock(&reader->lock);
    idle = lam_jobs_are_idle(&reader->jobs) && reader->idle_calls == work->idle_call;
    reader->idle_calls += idle;
    pthread_mutex_unlock(&reader->lock);
    if (idle && reader->config.on_idle != NULL)
        reader->config.on_idle(reader->config.arg);
}

void lam_engine_away(struct lam_drive *drive)
{
    pthread_mutex_lock(&drive->reader->lock);
    lam_jobs_away(&drive->reader->jobs, drive->index, lam_now_ns());
    pthread_mutex_unlock(&drive->reader->lock);
}

void lam_engine_back(struct lam_drive *drive)
{
    pthread_mutex_lock(&drive->reader->lock);
    lam_jobs_back(&drive->reader->jobs, drive->index, lam_now_ns());
    pthread_mutex_unlock(&drive->reader->lock);
}

/* Is one of the mirrors another file by now? Then it is not read any more, and what was left to it
 * is for other drives. */
static bool lost_a_mirror(struct lam_reader *reader)
{
    bool lost = false;

    for (uint32_t m = 0; m < reader->config.n_mirrors; m++) {
        if (lam_mirror_check(&reader->config.mirrors[m], NULL) == LAM_OK)
            continue;
        pthread_mutex_lock(&reader->lock);
        if ((reader->jobs.lost >> (m + 1) & 1) == 0) {
            lost = true;
            reader->changed |= 1u << (m + 1);
            lam_jobs_lose(&reader->jobs, m + 1);
            wake_all(reader);
        }
        pthread_mutex_unlock(&reader->lock);
    }
    return lost;
}

/* What was not read directly has left copies in the page cache. */
static void drop_cached(const struct lam_reader *reader, const struct lam_window *window)
{
    const struct lam_file *file = reader->config.file;

    for (uint32_t s = 0; s < reader->n_sources; s++) {
        const struct lam_span *span = &file->spans[s / reader->n_copies];
        uint64_t begin = window->file_offset > span->begin ? window->file_offset : span->begin;
        uint64_t end = window->file_offset + window->bytes;

        end = end < span->begin + span->bytes ? end : span->begin + span->bytes;
        if (!reader->direct[s] && begin < end)
            posix_fadvise(reader->fds[s], (off_t)(begin - span->begin + span->file_offset),
                (off_t)(end - begin), POSIX_FADV_DONTNEED);
    }
}

/* Bytes of a file that has changed meanwhile must not be computed on, however well they were
 * read. */
static void report(struct lam_reader *reader, struct lam_load_end *end)
{
    struct lam_load again = {.place = end->place,
        .generation = end->generation,
        .window = end->window,
        .pool_offset = end->pool_offset};

    drop_cached(reader, &end->window);
    if (end->status != LAM_CANCELLED && end->status != LAM_DEADLINE_EXCEEDED &&
        lost_a_mirror(reader) && end->open) {
        lam_reader_load(reader, &again); /* from the copies that are left */
        return;
    }
    if (end->status == LAM_OK)
        end->status = lam_file_check(reader->config.file, &end->err);
    reader->config.on_done(reader->config.arg, end);
}

bool lam_engine_tell(struct lam_drive *drive, struct lam_engine_work *work)
{
    struct lam_reader *reader = drive->reader;

    for (uint32_t i = 0; i < work->n_issued && reader->config.on_issued != NULL; i++)
        reader->config.on_issued(reader->config.arg, &work->issued[i]);
    for (uint32_t i = 0; i < work->n_ends; i++)
        report(reader, &work->ends[i]);
    return work->n_issued > 0 || work->n_ends > 0;
}

/* What lies behind the end of a part comes from no drive: zeros, and not what was there before. */
static void fill_up(struct lam_reader *reader, const struct lam_piece *piece)
{
    uint64_t there = lam_jobs_bytes_there(&reader->jobs, piece);

    if (there < piece->bytes)
        memset(reader->config.pool_base + piece->pool_offset + there, 0, piece->bytes - there);
}

void lam_engine_answer(
    struct lam_drive *drive, const struct lam_engine_answer *answers, uint32_t n_answers)
{
    struct lam_reader *reader = drive->reader;
    uint64_t now_ns = lam_now_ns();
    struct lam_load_end ends[8];
    uint32_t at = 0;

    while (at < n_answers) {
        uint32_t n_ends = 0;

        pthread_mutex_lock(&reader->lock);
        while (at < n_answers && n_ends < sizeof(ends) / sizeof(*ends)) {
            struct lam_io *io = answers[at].io;

            fill_up(reader, &io->piece);
            lam_meter_end(&reader->meter, io->started_ns, now_ns);
            n_ends += lam_jobs_answer(&reader->jobs, io, answers[at++].result, &ends[n_ends]);
        }
        /* What failed here, or goes on in another part, may be for another drive; and the first
         * one watches for idleness. */
        if (reader->n_drives > 1 && (reader->jobs.n_again > 0 || reader->jobs.config.n_parts > 1 ||
                                        lam_jobs_are_idle(&reader->jobs)))
            wake_all(reader);
        reader->idle_calls = 0;
        pthread_mutex_unlock(&reader->lock);
        for (uint32_t i = 0; i < n_ends; i++)
            report(reader, &ends[i]);
    }
}

/* ---- the copies and their drives ---- */

static void add_note(struct lam_reader *reader, const char *text)
{
    size_t used = strlen(reader->note);

    snprintf(reader->note + used, sizeof(reader->note) - used, "%s%s", used > 0 ? "; " : "", text);
}

static struct lam_drive *find_drive(
    struct lam_reader *reader, struct lam_drives *drives, dev_t device)
{
    uint32_t d = lam_drives_find(drives, device);

    if (d == reader->n_drives)
        reader->drives[reader->n_drives++] = (struct lam_drive){.reader = reader, .index = d};
    return &reader->drives[d];
}

/* Direct reads, if one works: some file systems take O_DIRECT at open and fail at a read. */
static bool add_source(struct lam_reader *reader, struct lam_drives *drives, uint32_t p, uint32_t c,
    const struct lam_part *part)
{
    const struct lam_span *spans = reader->config.file->spans;
    struct lam_drive *drive = find_drive(reader, drives, part->identity.st_dev);
    uint32_t s = p * reader->n_copies + c;
    ssize_t n = -1;

    if (drive->copies == NULL)
        drive->copies = lam_calloc(reader->config.file->n_parts, sizeof(*drive->copies));
    if (drive->copies == NULL)
        return false;
    if (drive->copies[drive->part] == 0 || spans[p].bytes > spans[drive->part].bytes) {
        drive->part = p;
        drive->source = s;
    }
    drive->copies[p] |= 1u << c;
    if (part->direct_fd >= 0)
        n = pread(part->direct_fd, reader->config.pool_base, reader->config.file->align,
            (off_t)spans[p].file_offset);
    reader->direct[s] = n >= 0 && part->direct_fd >= 0;
    reader->fds[s] = reader->direct[s] ? part->direct_fd : part->fd;
    return true;
}

/* False: no memory. */
static bool add_sources(struct lam_reader *reader)
{
    const struct lam_file *file = reader->config.file;
    struct lam_drives drives = {0};
    bool direct = true;

    assert(reader->config.n_mirrors < LAM_JOBS_COPIES_MAX);
    reader->n_copies = 1 + reader->config.n_mirrors;
    reader->n_sources = reader->n_copies * file->n_parts;
    reader->fds = lam_calloc(reader->n_sources, sizeof(*reader->fds));
    reader->direct = lam_calloc(reader->n_sources, sizeof(*reader->direct));
    reader->paths = lam_calloc(file->n_parts, sizeof(*reader->paths));
    if (reader->fds == NULL || reader->direct == NULL || reader->paths == NULL)
        return false;
    for (uint32_t p = 0; p < file->n_parts; p++) {
        reader->paths[p] = file->parts[p].path;
        for (uint32_t c = 0; c < reader->n_copies; c++) {
            if (!add_source(reader, &drives, p, c,
                    c == 0 ? &file->parts[p] : &reader->config.mirrors[c - 1].parts[p]))
                return false;
            direct = direct && reader->direct[p * reader->n_copies + c];
        }
    }
    if (!direct)
        add_note(reader, "the file system refuses direct reads: reading through the page cache");
    return true;
}

/* ---- start ---- */

/* The way to read a drive, and whether it has to be measured. */
static bool recall(struct lam_reader *reader, const struct lam_drive *drive,
    char key[LAM_PROBE_KEY_BYTES], struct lam_probe_way *ret_way)
{
    const char *dir = reader->config.io_cache;
    struct lam_err why = {0};
    enum lam_status status;

    *ret_way = lam_probe_candidates[0];
    if (dir == NULL || reader->config.file->spans[drive->part].bytes == 0 ||
        reader->config.request_bytes > 0 || reader->config.depth > 0 ||
        lam_probe_key(reader->fds[drive->source], key, &why) != LAM_OK)
        return false;
    status = lam_probe_load(dir, key, ret_way, &why);
    if (status != LAM_OK && status != LAM_NOT_FOUND)
        add_note(reader, why.text);
    return status != LAM_OK;
}

static enum lam_status start_drive(struct lam_reader *reader, uint32_t d, struct lam_err *err)
{
    struct lam_drive *drive = &reader->drives[d];
    struct lam_jobs_drive *way = &reader->jobs.config.drives[d];
    uint64_t bytes_per_s[LAM_PROBE_CANDIDATES] = {0};
    char key[LAM_PROBE_KEY_BYTES];
    struct lam_err why = {0};
    struct lam_probe_way found;
    bool unknown = recall(reader, drive, key, &found);
    enum lam_status status = reader->engine->start(drive, unknown ? bytes_per_s : NULL, err);

    if (status != LAM_OK)
        return status;
    pthread_mutex_lock(&reader->lock);
    reader->n_started++;
    pthread_mutex_unlock(&reader->lock);
    if (unknown && bytes_per_s[0] > 0) {
        uint32_t best = lam_probe_choose(bytes_per_s);

        found = lam_probe_candidates[best];
        if (lam_probe_save(reader->config.io_cache, key, &found, bytes_per_s[best], &why) != LAM_OK)
            add_note(reader, why.text);
    }
    /* No load has been given to us yet. */
    pthread_mutex_lock(&reader->lock);
    way->request_bytes =
        reader->config.request_bytes > 0 ? reader->config.request_bytes : found.request_bytes;
    way->depth = reader->config.depth > 0 ? reader->config.depth : found.depth;
    pthread_mutex_unlock(&reader->lock);
    return LAM_OK;
}

static void stop_drives(struct lam_reader *reader)
{
    uint32_t n_started = reader->n_started;

    pthread_mutex_lock(&reader->lock);
    reader->stopping = true;
    wake_all(reader);
    reader->n_started = 0;
    pthread_mutex_unlock(&reader->lock);
    for (uint32_t d = 0; d < n_started; d++)
        reader->engine->stop(&reader->drives[d]);
    reader->stopping = false;
}

static enum lam_status start_engine(
    struct lam_reader *reader, const struct lam_engine *engine, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    reader->engine = engine;
    for (uint32_t d = 0; d < reader->n_drives && status == LAM_OK; d++)
        status = start_drive(reader, d, err);
    if (status != LAM_OK)
        stop_drives(reader);
    return status;
}

static enum lam_status choose_engine(struct lam_reader *reader, struct lam_err *err)
{
    struct lam_err why = {0};
    char text[200];

    if (reader->config.choice != LAM_READER_PREAD) {
        if (start_engine(reader, &lam_engine_uring, &why) == LAM_OK)
            return LAM_OK;
        if (reader->config.choice == LAM_READER_IO_URING)
            return lam_fail(err, LAM_UNIMPLEMENTED,
                "io_uring cannot be used here (%s): allow it in the seccomp profile and in "
                "kernel.io_uring_disabled, or use --engine auto without --require-io-uring",
                why.text);
        snprintf(text, sizeof(text), "io_uring cannot be used (%.160s)", why.text);
        add_note(reader, text);
    }
    return start_engine(reader, &lam_engine_pread, err);
}

static void free_reader(struct lam_reader *reader)
{
    for (uint32_t d = 0; d < reader->n_drives; d++)
        lam_free(reader->drives[d].copies);
    lam_free(reader->fds);
    lam_free(reader->direct);
    lam_free(reader->paths);
    lam_free(reader->added);
    lam_meter_done(&reader->meter);
    pthread_mutex_destroy(&reader->lock);
    lam_free(reader);
}

enum lam_status lam_reader_create(
    const struct lam_reader_config *config, struct lam_reader **ret_reader, struct lam_err *err)
{
    struct lam_reader *reader = lam_calloc(1, sizeof(*reader));
    struct lam_jobs_config jobs = {.spans = config->file->spans,
        .n_parts = config->file->n_parts,
        .align = config->file->align,
        .regions = config->regions,
        .n_regions = config->n_regions};
    enum lam_status status;

    if (reader == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    reader->config = *config;
    if (config->deadline_ns == 0)
        reader->config.deadline_ns = LAM_READER_DEADLINE_NS;
    pthread_mutex_init(&reader->lock, NULL);
    lam_meter_init(&reader->meter);
    reader->added = lam_calloc(config->n_regions, sizeof(*reader->added));
    reader->n_added = 1; /* the first */
    if (reader->added == NULL || !add_sources(reader)) {
        free_reader(reader);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    }
    jobs.paths = reader->paths;
    jobs.n_copies = reader->n_copies;
    jobs.n_drives = reader->n_drives;
    for (uint32_t d = 0; d < reader->n_drives; d++)
        jobs.drives[d] =
            (struct lam_jobs_drive){.request_bytes = lam_probe_candidates[0].request_bytes,
                .depth = lam_probe_candidates[0].depth,
                .copies = reader->drives[d].copies};
    lam_jobs_init(&reader->jobs, &jobs);
    status = choose_engine(reader, err);
    if (status != LAM_OK) {
        free_reader(reader);
        return status;
    }
    *ret_reader = reader;
    return LAM_OK;
}

void lam_reader_destroy(struct lam_reader *reader)
{
    if (reader == NULL)
        return;
    stop_drives(reader);
    free_reader(reader);
}

/* ---- from other threads ---- */

void lam_reader_add_region(struct lam_reader *reader, uint32_t index)
{
    pthread_mutex_lock(&reader->lock);
    assert(index < reader->config.n_regions && reader->n_added < reader->config.n_regions);
    reader->added[reader->n_added++] = index;
    wake_all(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_load(struct lam_reader *reader, const struct lam_load *load)
{
    pthread_mutex_lock(&reader->lock);
    lam_jobs_add(&reader->jobs, load);
    wake_all(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_open(struct lam_reader *reader, uint32_t place, uint64_t generation)
{
    pthread_mutex_lock(&reader->lock);
    lam_jobs_open(&reader->jobs, place, generation);
    wake_all(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_cancel(struct lam_reader *reader, uint32_t place, uint64_t generation)
{
    pthread_mutex_lock(&reader->lock);
    lam_jobs_cancel(&reader->jobs, place, generation);
    wake_all(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_tick(struct lam_reader *reader)
{
    struct lam_load_end end;
    bool expired;

    do {
        pthread_mutex_lock(&reader->lock);
        expired = lam_jobs_expire(&reader->jobs, lam_now_ns(), reader->config.deadline_ns, &end);
        if (expired)
            wake_all(reader); /* what was left to a drive that hangs is for others */
        pthread_mutex_unlock(&reader->lock);
        if (expired)
            reader->config.on_done(reader->config.arg, &end);
    } while (expired);
}

uint64_t lam_reader_bytes_in(struct lam_reader *reader, uint64_t ns)
{
    struct lam_meter_counts counts;
    uint64_t bytes;

    lam_meter_count(&reader->meter, lam_now_ns(), &counts);
    pthread_mutex_lock(&reader->lock);
    bytes = reader->jobs.bytes_read;
    pthread_mutex_unlock(&reader->lock);
    return counts.busy_ns == 0 ? 0
                               : (uint64_t)((double)bytes / (double)counts.busy_ns * (double)ns);
}

struct lam_meter *lam_reader_meter(struct lam_reader *reader)
{
    return &reader->meter;
}

void lam_reader_info(struct lam_reader *reader, struct lam_reader_info *ret_info)
{
    struct lam_reader_info info = {.engine = reader->engine->name,
        .direct = true,
        .fixed_buffers = true,
        .n_drives = reader->n_drives,
        .n_copies = reader->n_copies};

    for (uint32_t i = 0; i < reader->n_sources; i++)
        info.direct = info.direct && reader->direct[i];
    memcpy(info.note, reader->note, sizeof(info.note));
    pthread_mutex_lock(&reader->lock);
    for (uint32_t d = 0; d < reader->n_drives; d++) {
        info.fixed_buffers = info.fixed_buffers && reader->drives[d].fixed_buffers;
        info.depth += reader->jobs.config.drives[d].depth;
    }
    info.request_bytes = reader->jobs.config.drives[0].request_bytes;
    info.lost = reader->jobs.lost;
    info.changed = reader->changed;
    info.bytes = reader->jobs.bytes_read;
    info.reads = reader->jobs.reads;
    pthread_mutex_unlock(&reader->lock);
    *ret_info = info;
}
