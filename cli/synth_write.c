/* synth_write: see synth_write.h. */
#include "cli/synth_write.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/command.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/processors.h"
#include "common/size.h"

#define CHUNK_BYTES (8 * LAM_MIB)
#define ALIGN_BYTES 4096u /* of direct writes */
#define THREADS_MAX 8
#define PERIOD_NS (100 * LAM_NS_PER_MS)

struct writing {
    const struct lam_synth_shards *shards;
    const struct lam_synth_output *output;
    uint32_t index; /* of the shard that is written */
    uint64_t file_bytes;
    uint64_t before_bytes; /* of the shards before it */
    uint64_t total_bytes;
    char path[PATH_MAX];
    char partial[PATH_MAX + sizeof ".partial"];
    int fd;
    bool direct;
    uint64_t n_chunks;
    atomic_uint_fast64_t next_chunk;
    atomic_uint_fast64_t n_done;
    atomic_uint n_running; /* threads */
    atomic_bool stop;
    pthread_mutex_t lock; /* of err */
    struct lam_err err;   /* the first failure of a thread */
};

static void report(struct writing *writing, int native_errno)
{
    pthread_mutex_lock(&writing->lock);
    if (!writing->err.status)
        lam_ignore(
            lam_fail_errno(&writing->err, native_errno, "cannot write '%.300s'", writing->partial),
            "the writing thread's caller returns it");
    pthread_mutex_unlock(&writing->lock);
    atomic_store(&writing->stop, true);
}

static bool write_whole(struct writing *writing, const uint8_t *bytes, uint64_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t done = pwrite(writing->fd, bytes, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            report(writing, done < 0 ? errno : EIO);
            return false;
        }
        bytes += done;
        at += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return true;
}

static void *write_chunks(void *arg)
{
    struct writing *writing = arg;
    uint8_t *chunk = lam_aligned_calloc(ALIGN_BYTES, CHUNK_BYTES);
    uint64_t index = 0;

    if (!chunk)
        report(writing, ENOMEM);
    while (chunk && !atomic_load(&writing->stop) &&
           (index = atomic_fetch_add(&writing->next_chunk, 1)) < writing->n_chunks) {
        uint64_t at = index * CHUNK_BYTES;
        uint64_t n = lam_align_up(writing->file_bytes - at, ALIGN_BYTES);
        n = n < CHUNK_BYTES ? n : CHUNK_BYTES; /* the last one is cut afterwards */
        lam_synth_shards_read(writing->shards, writing->index, at, chunk, n);
        if (!write_whole(writing, chunk, n, at))
            break;
        if (!writing->direct) /* begin now: all at the end would wait for the disk idly */
            sync_file_range(writing->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);
        atomic_fetch_add(&writing->n_done, 1);
    }
    lam_free(chunk);
    atomic_fetch_sub(&writing->n_running, 1);
    return NULL;
}

static enum lam_status check_target(const char *path, bool force, struct lam_err *err)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return LAM_OK; /* what else is wrong, opening says */
    if (!S_ISREG(info.st_mode))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.300s' is no regular file; name another one with -o", path);
    if (!force)
        return lam_fail(err, LAM_ALREADY_EXISTS,
            "'%.300s' exists; --force replaces it, or name another file with -o", path);
    return LAM_OK;
}

static enum lam_status check_space(const struct writing *writing, struct lam_err *err)
{
    struct statvfs info;
    uint64_t wanted = writing->total_bytes - writing->before_bytes;
    uint64_t free_bytes;
    char wanted_text[24];
    char free_text[24];

    if (fstatvfs(writing->fd, &info) != 0)
        return lam_fail_errno(err, errno, "cannot ask for the space at '%.300s'", writing->partial);
    free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    /* A file system that cannot reserve is no reason to stop. */
    if (free_bytes < wanted ||
        (fallocate(writing->fd, 0, 0, (off_t)writing->file_bytes) != 0 && errno == ENOSPC))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "'%.200s' needs %s, but %s are free there; choose a smaller --type, fewer --layers or "
            "another disk",
            writing->output->path, lam_size_format(wanted, wanted_text, sizeof wanted_text),
            lam_size_format(free_bytes, free_text, sizeof free_text));
    return LAM_OK;
}

/* A partial file that nobody holds is what a killed process left. */
static enum lam_status open_partial(struct writing *writing, struct lam_err *err)
{
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC;

    snprintf(writing->partial, sizeof writing->partial, "%s.partial", writing->path);
    writing->fd = open(writing->partial, flags, 0666);
    if (writing->fd < 0)
        return lam_fail_errno(err, errno, "cannot create '%.300s'", writing->partial);
    if (flock(writing->fd, LOCK_EX | LOCK_NB) != 0)
        return lam_fail(
            err, LAM_ALREADY_EXISTS, "another process is writing '%.300s'", writing->partial);
    if (ftruncate(writing->fd, 0) != 0)
        return lam_fail_errno(err, errno, "cannot empty '%.300s'", writing->partial);
    writing->direct = !writing->output->sparse &&
                      fcntl(writing->fd, F_SETFL, fcntl(writing->fd, F_GETFL) | O_DIRECT) == 0;
    return LAM_OK;
}

/* Runs the threads to their end; draws and watches for signals meanwhile. */
static enum lam_status write_all(struct writing *writing,
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
    const sigset_t *signals, int *ret_signal, struct lam_err *err)
{
    const struct timespec period = {.tv_nsec = (long)PERIOD_NS};
    const uint64_t total = writing->total_bytes;
    pthread_t threads[THREADS_MAX];
    uint32_t n_processors = lam_processors();
    int n_wanted = n_processors < THREADS_MAX ? (int)n_processors : THREADS_MAX;
    int n_threads = 0;

    for (; n_threads < n_wanted; n_threads++) {
        atomic_fetch_add(&writing->n_running, 1);
        if (pthread_create(&threads[n_threads], NULL, write_chunks, writing)) {
            atomic_fetch_sub(&writing->n_running, 1);
            break;
        }
    }
    if (n_threads == 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread");
    while (atomic_load(&writing->n_running) > 0) {
        uint64_t done = atomic_load(&writing->n_done) * CHUNK_BYTES;
        done = writing->before_bytes + (done < writing->file_bytes ? done : writing->file_bytes);
        int number = sigtimedwait(signals, NULL, &period);
        if (number > 0) {
            *ret_signal = number;
            atomic_store(&writing->stop, true);
        }
        if (on_progress)
            on_progress(arg, done, total);
    }
    for (int i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    if (*ret_signal)
        return lam_fail(err, LAM_CANCELLED, "interrupted by signal %d", *ret_signal);
    *err = writing->err;
    return err->status;
}

static enum lam_status write_sparse(struct writing *writing, struct lam_err *err)
{
    const struct lam_buf *header = &writing->shards->items[writing->index].header;

    if (write_whole(writing, (const uint8_t *)header->data, header->size, 0))
        return LAM_OK;
    *err = writing->err;
    return err->status;
}

/* Whole, on the disk, and then under its name. */
static enum lam_status publish(struct writing *writing, struct lam_err *err)
{
    const char *path = writing->path;
    unsigned flags = writing->output->force ? 0 : RENAME_NOREPLACE;

    if (ftruncate(writing->fd, (off_t)writing->file_bytes) != 0 || fdatasync(writing->fd) != 0)
        return lam_fail_errno(err, errno, "cannot finish '%.300s'", writing->partial);
    if (renameat2(AT_FDCWD, writing->partial, AT_FDCWD, path, flags) == 0 ||
        (errno == EINVAL && rename(writing->partial, path) == 0))
        return LAM_OK;
    return lam_fail_errno(err, errno, "cannot give '%.300s' its name", path);
}

/* One shard, from nothing to its name. */
static enum lam_status write_file(struct writing *writing,
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
    const sigset_t *signals, int *ret_signal, struct lam_err *err)
{
    enum lam_status status;
    bool ours;

    writing->fd = -1;
    writing->file_bytes = writing->shards->items[writing->index].file_bytes;
    writing->n_chunks = (writing->file_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    atomic_store(&writing->next_chunk, 0);
    atomic_store(&writing->n_done, 0);
    status = open_partial(writing, err);
    ours = writing->fd >= 0 && status != LAM_ALREADY_EXISTS;
    if (!status && writing->output->sparse)
        status = write_sparse(writing, err);
    else if (!status) {
        status = check_space(writing, err);
        if (!status)
            status = write_all(writing, on_progress, arg, signals, ret_signal, err);
    }
    if (!status)
        status = publish(writing, err);
    if (status && ours)
        unlink(writing->partial);
    if (writing->fd >= 0)
        close(writing->fd);
    writing->before_bytes += writing->file_bytes;
    return status;
}

static enum lam_status name_file(struct writing *writing, uint32_t index, struct lam_err *err)
{
    writing->index = index;
    if (lam_synth_shards_path(
            writing->shards, writing->output->path, index, writing->path, sizeof writing->path))
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT, "the path of the file is too long");
}

/* Of all, before the first is written. */
static enum lam_status check_targets(struct writing *writing, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (uint32_t i = 0; i < writing->shards->n && !status; i++) {
        writing->total_bytes += writing->shards->items[i].file_bytes;
        status = name_file(writing, i, err);
        if (!status)
            status = check_target(writing->path, writing->output->force, err);
    }
    return status;
}

enum lam_status lam_synth_write(const struct lam_synth_shards *shards,
    const struct lam_synth_output *output,
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
    int *ret_signal, struct lam_err *err)
{
    struct writing writing = {
        .shards = shards, .output = output, .lock = PTHREAD_MUTEX_INITIALIZER};
    uint32_t n_written = 0;
    sigset_t signals;
    sigset_t before;
    enum lam_status status = check_targets(&writing, err);

    if (status)
        return status;
    lam_command_end_signals(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    *ret_signal = 0;
    while (!status && n_written < shards->n) {
        status = name_file(&writing, n_written, err);
        if (!status)
            status = write_file(&writing, on_progress, arg, &signals, ret_signal, err);
        n_written += !status;
    }
    for (uint32_t i = 0; status && i < n_written; i++) /* a part of a model is none */
        if (name_file(&writing, i, NULL) == LAM_OK)
            unlink(writing.path);
    pthread_mutex_destroy(&writing.lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}
