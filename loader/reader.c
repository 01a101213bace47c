/* reader: chooses how to read, and what all engines have in common. */
#include "loader/reader.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "loader/engine.h"

void lam_engine_report(struct lam_reader *reader, struct lam_load_end *end)
{
    const struct lam_file *file = reader->config.file;

    if (!reader->direct)
        posix_fadvise(reader->fd, (off_t)end->window.file_offset, (off_t)end->window.bytes,
            POSIX_FADV_DONTNEED);
    /* Bytes of a file that has changed meanwhile must not be computed on, however well they were
     * read. */
    if (end->status == LAM_OK)
        end->status = lam_file_check(file, &end->err);
    reader->config.on_done(reader->config.arg, end);
}

void lam_engine_issued(
    struct lam_reader *reader, const struct lam_jobs *jobs, const struct lam_io *io)
{
    uint64_t now_ns = lam_now_ns();

    reader->issued_ns[io->index] = now_ns;
    lam_meter_begin(&reader->meter, now_ns);
    if (io->last && reader->config.on_issued != NULL)
        reader->config.on_issued(reader->config.arg, &jobs->jobs[io->job].load);
}

void lam_engine_answered(struct lam_reader *reader, const struct lam_io *io)
{
    lam_meter_end(&reader->meter, reader->issued_ns[io->index], lam_now_ns());
}

void lam_engine_count(struct lam_reader *reader, const struct lam_jobs *jobs)
{
    atomic_store_explicit(&reader->bytes, jobs->bytes_read, memory_order_relaxed);
    atomic_store_explicit(&reader->reads, jobs->reads, memory_order_relaxed);
}

static void add_note(struct lam_reader *reader, const char *text)
{
    size_t used = strlen(reader->note);

    snprintf(reader->note + used, sizeof(reader->note) - used, "%s%s", used > 0 ? "; " : "", text);
}

/* Direct reads, if one works: some file systems take O_DIRECT at open and fail at a read. */
static void choose_descriptor(struct lam_reader *reader)
{
    const struct lam_file *file = reader->config.file;
    ssize_t n = -1;

    if (file->direct_fd >= 0)
        n = pread(file->direct_fd, reader->config.pool_base, file->align, 0);
    reader->direct = n > 0;
    reader->fd = reader->direct ? file->direct_fd : file->fd;
    if (!reader->direct)
        add_note(reader, "the file system refuses direct reads: reading through the page cache");
}

static enum lam_status choose_engine(struct lam_reader *reader, struct lam_err *err)
{
    struct lam_err why = {0};
    char text[200];
    enum lam_status status;

    if (reader->config.choice != LAM_READER_PREAD) {
        reader->engine = &lam_engine_uring;
        status = reader->engine->start(reader, &why);
        if (status == LAM_OK)
            return LAM_OK;
        if (reader->config.choice == LAM_READER_IO_URING)
            return lam_fail(err, LAM_UNIMPLEMENTED,
                "io_uring cannot be used here (%s): allow it in the seccomp profile and in "
                "kernel.io_uring_disabled, or use --engine auto",
                why.text);
        snprintf(text, sizeof(text), "io_uring cannot be used (%.160s)", why.text);
        add_note(reader, text);
    }
    reader->engine = &lam_engine_pread;
    return reader->engine->start(reader, err);
}

enum lam_status lam_reader_create(
    const struct lam_reader_config *config, struct lam_reader **ret_reader, struct lam_err *err)
{
    struct lam_reader *reader = lam_calloc(1, sizeof(*reader));
    enum lam_status status;

    if (reader == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the reader");
    reader->config = *config;
    reader->n_regions = 1;
    reader->jobs_config = (struct lam_jobs_config){.path = config->file->path,
        .file_bytes = config->file->bytes,
        .align = config->file->align,
        .request_bytes =
            config->request_bytes > 0 ? config->request_bytes : LAM_READER_REQUEST_BYTES,
        .depth = config->depth > 0 ? config->depth : LAM_READER_DEPTH,
        .regions = config->regions,
        .n_regions = config->n_regions};
    pthread_mutex_init(&reader->lock, NULL);
    lam_meter_init(&reader->meter);
    choose_descriptor(reader);
    status = choose_engine(reader, err);
    if (status != LAM_OK) {
        lam_meter_done(&reader->meter);
        pthread_mutex_destroy(&reader->lock);
        lam_free(reader);
        return status;
    }
    *ret_reader = reader;
    return LAM_OK;
}

void lam_reader_destroy(struct lam_reader *reader)
{
    if (reader == NULL)
        return;
    pthread_mutex_lock(&reader->lock);
    reader->stopping = true;
    reader->engine->wake(reader);
    pthread_mutex_unlock(&reader->lock);
    reader->engine->stop(reader);
    lam_meter_done(&reader->meter);
    pthread_mutex_destroy(&reader->lock);
    lam_free(reader);
}

void lam_reader_add_region(struct lam_reader *reader, uint32_t index)
{
    pthread_mutex_lock(&reader->lock);
    assert(index == reader->n_regions && index < reader->config.n_regions);
    reader->n_regions++;
    reader->engine->wake(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_load(struct lam_reader *reader, const struct lam_load *load)
{
    pthread_mutex_lock(&reader->lock);
    assert(reader->n_inbox < LAM_JOBS_MAX);
    reader->inbox[reader->n_inbox++] = *load;
    reader->engine->wake(reader);
    pthread_mutex_unlock(&reader->lock);
}

void lam_reader_info(const struct lam_reader *reader, struct lam_reader_info *ret_info)
{
    *ret_info = (struct lam_reader_info){.engine = reader->engine->name,
        .direct = reader->direct,
        .fixed_buffers = atomic_load(&reader->fixed_buffers),
        .bytes = atomic_load_explicit(&reader->bytes, memory_order_relaxed),
        .reads = atomic_load_explicit(&reader->reads, memory_order_relaxed)};
    memcpy(ret_info->note, reader->note, sizeof(reader->note));
}

struct lam_meter *lam_reader_meter(struct lam_reader *reader)
{
    return &reader->meter;
}
