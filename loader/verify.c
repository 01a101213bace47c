/*
 * verify: see the header. A few threads read ahead of each other; a step is one large chunk, or as
 * many small neighbours as make up the bytes of one.
 */
#include "loader/verify.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"

#define PROGRESS_NS (100 * LAM_NS_PER_MS)

struct walk {
    struct lam_verify_config config;
    uint64_t n_chunks;
    uint64_t n_unit_chunks; /* the first ones; then the embedding's and the norms' */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t ended; /* a thread has ended */
    uint32_t n_running;
    uint64_t next_chunk;
    uint64_t done_bytes;
    struct lam_err err; /* of the first failure */
    struct lam_verify_result *result;
};

struct step {
    uint64_t first_chunk, n_chunks;
    uint64_t file_offset, bytes;
    uint64_t counted_bytes;
};

static bool in_embedding(const struct lam_manifest *manifest, uint64_t file_offset)
{
    return manifest->embedding.file_offset <= file_offset &&
           file_offset - manifest->embedding.file_offset < manifest->embedding.bytes;
}

/* What a chunk adds to the bytes of the file: a tied head is read twice, as units of the head and
 * as the embedding, because each has sums of its own, but it is one stretch of the file. */
static uint64_t counted_bytes(
    const struct walk *walk, uint64_t chunk, const struct lam_record_chunk *place)
{
    bool again = chunk < walk->n_unit_chunks &&
                 in_embedding(&walk->config.file->manifest, place->file_offset);

    return again ? 0 : place->bytes;
}

/* False: none is left, or something failed. */
static bool take_step(struct walk *walk, struct step *ret_step)
{
    struct step step = {0};
    bool more;

    pthread_mutex_lock(&walk->lock);
    more = walk->err.status == LAM_OK && walk->next_chunk < walk->n_chunks;
    step.first_chunk = walk->next_chunk;
    while (more && walk->next_chunk < walk->n_chunks) {
        struct lam_record_chunk chunk =
            lam_integrity_chunk(walk->config.integrity, walk->next_chunk);

        if (step.n_chunks > 0 && (chunk.file_offset != step.file_offset + step.bytes ||
                                     step.bytes + chunk.bytes > LAM_RECORD_CHUNK_BYTES))
            break;
        if (step.n_chunks++ == 0)
            step.file_offset = chunk.file_offset;
        step.bytes += chunk.bytes;
        step.counted_bytes += counted_bytes(walk, walk->next_chunk++, &chunk);
    }
    pthread_mutex_unlock(&walk->lock);
    *ret_step = step;
    return more;
}

/* Around the step, past the page cache; *ret_at is where the step's first byte is in buffer. */
static enum lam_status read_step(const struct lam_file *file, const struct step *step,
    unsigned char *buffer, const unsigned char **ret_at, struct lam_err *err)
{
    uint64_t begin = lam_align_down(step->file_offset, file->align);

    *ret_at = buffer + (step->file_offset - begin);
    return lam_file_read_uncached(
        file, begin, buffer, step->file_offset + step->bytes - begin, err);
}

static void note_difference(struct walk *walk, uint64_t chunk)
{
    struct lam_record_chunk place = lam_integrity_chunk(walk->config.integrity, chunk);
    struct lam_verify_result *result = walk->result;
    bool listed;

    pthread_mutex_lock(&walk->lock);
    result->n_different++;
    listed = result->n_places < LAM_VERIFY_PLACES_MAX;
    if (listed)
        result->places[result->n_places++] = place;
    pthread_mutex_unlock(&walk->lock);
    if (listed && walk->config.on_difference != NULL)
        walk->config.on_difference(walk->config.arg, &place);
}

/* Is the chunk right when it is read once more? */
static enum lam_status try_again(
    struct walk *walk, uint64_t chunk, unsigned char *buffer, struct lam_err *err)
{
    struct lam_record_chunk where = lam_integrity_chunk(walk->config.integrity, chunk);
    struct step step = {.file_offset = where.file_offset, .bytes = where.bytes};
    const unsigned char *at;
    enum lam_status status = read_step(walk->config.file, &step, buffer, &at, err);

    if (status == LAM_OK)
        status = lam_file_check(walk->config.file, err);
    if (status == LAM_OK && lam_integrity_check(walk->config.integrity, chunk, at, NULL) != LAM_OK)
        note_difference(walk, chunk);
    return status;
}

static enum lam_status check_step(struct walk *walk, const struct step *step, unsigned char *buffer,
    unsigned char *second, struct lam_err *err)
{
    const unsigned char *at;
    enum lam_status status = read_step(walk->config.file, step, buffer, &at, err);

    /* Before a sum is recorded: are these still the file's bytes? */
    if (status == LAM_OK)
        status = lam_file_check(walk->config.file, err);
    for (uint64_t c = 0; c < step->n_chunks && status == LAM_OK; c++) {
        uint64_t chunk = step->first_chunk + c;

        if (lam_integrity_check(walk->config.integrity, chunk, at, NULL) != LAM_OK)
            status = try_again(walk, chunk, second, err);
        at += lam_integrity_chunk(walk->config.integrity, chunk).bytes;
    }
    return status;
}

static enum lam_status end_step(struct walk *walk, uint64_t began_ns, struct lam_err *err)
{
    if (walk->config.on_step == NULL ||
        walk->config.on_step(walk->config.arg, lam_now_ns() - began_ns))
        return LAM_OK;
    return lam_fail(err, LAM_CANCELLED, "verifying was given up");
}

static void *run(void *arg)
{
    struct walk *walk = arg;
    uint64_t align = walk->config.file->align;
    uint64_t buffer_bytes = LAM_RECORD_CHUNK_BYTES + 2 * align;
    unsigned char *buffer = lam_aligned_calloc(align, buffer_bytes);
    unsigned char *second = lam_aligned_calloc(align, buffer_bytes);
    enum lam_status status = LAM_OK;
    struct lam_err err = {0};
    struct step step;

    if (buffer == NULL || second == NULL)
        status = lam_fail(
            &err, LAM_RESOURCE_EXHAUSTED, "no memory to read %.200s with", walk->config.file->path);
    while (status == LAM_OK && take_step(walk, &step)) {
        uint64_t began_ns = lam_now_ns();

        status = check_step(walk, &step, buffer, second, &err);
        if (status == LAM_OK)
            status = end_step(walk, began_ns, &err);
        pthread_mutex_lock(&walk->lock);
        walk->done_bytes += step.counted_bytes;
        pthread_mutex_unlock(&walk->lock);
    }
    pthread_mutex_lock(&walk->lock);
    if (status != LAM_OK && walk->err.status == LAM_OK)
        walk->err = err;
    walk->n_running--;
    pthread_cond_signal(&walk->ended);
    pthread_mutex_unlock(&walk->lock);
    lam_free(buffer);
    lam_free(second);
    return NULL;
}

/* Until all threads have ended. Lock held. */
static void wait_for_end(struct walk *walk)
{
    while (walk->n_running > 0) {
        uint64_t until_ns = lam_now_ns() + PROGRESS_NS;
        struct timespec until = {.tv_sec = (time_t)(until_ns / LAM_NS_PER_S),
            .tv_nsec = (long)(until_ns % LAM_NS_PER_S)};
        uint64_t done_bytes = walk->done_bytes;

        if (pthread_cond_timedwait(&walk->ended, &walk->lock, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&walk->lock);
        walk->config.on_progress(walk->config.arg, done_bytes, walk->result->total_bytes);
        pthread_mutex_lock(&walk->lock);
    }
}

static enum lam_status walk_all(struct walk *walk, struct lam_err *err)
{
    pthread_t threads[LAM_VERIFY_THREADS_MAX];
    uint32_t n_threads = 0;
    int error = 0;

    while (n_threads < walk->config.n_threads && error == 0) {
        pthread_mutex_lock(&walk->lock);
        error = pthread_create(&threads[n_threads], NULL, run, walk);
        n_threads += error == 0;
        walk->n_running += error == 0;
        pthread_mutex_unlock(&walk->lock);
    }
    if (n_threads == 0)
        return lam_fail_errno(err, error, "cannot start a thread to read with");
    pthread_mutex_lock(&walk->lock);
    wait_for_end(walk);
    pthread_mutex_unlock(&walk->lock);
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    if (walk->err.status != LAM_OK && err != NULL)
        *err = walk->err;
    return walk->err.status;
}

enum lam_status lam_verify(const struct lam_verify_config *config,
    struct lam_verify_result *ret_result, struct lam_err *err)
{
    struct lam_verify_result *result = lam_calloc(1, sizeof(*result));
    struct walk walk = {.config = *config, .result = result};
    struct lam_integrity_counts counts;
    pthread_condattr_t monotonic;
    enum lam_status status;

    assert(config->n_threads > 0 && config->n_threads <= LAM_VERIFY_THREADS_MAX);
    if (result == NULL)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory to verify %.200s", config->file->path);
    lam_integrity_count(config->integrity, &counts);
    walk.n_chunks = result->n_chunks = counts.chunks;
    result->n_compared = counts.known;
    for (uint32_t u = 0; u < config->file->manifest.n_units; u++)
        walk.n_unit_chunks += (config->file->manifest.units[u].bytes + LAM_RECORD_CHUNK_BYTES - 1) /
                              LAM_RECORD_CHUNK_BYTES;
    for (uint64_t c = 0; c < counts.chunks; c++) {
        struct lam_record_chunk place = lam_integrity_chunk(config->integrity, c);
        result->total_bytes += counted_bytes(&walk, c, &place);
    }
    pthread_mutex_init(&walk.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&walk.ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    status = walk_all(&walk, err);
    pthread_cond_destroy(&walk.ended);
    pthread_mutex_destroy(&walk.lock);
    if (status == LAM_OK) {
        config->on_progress(config->arg, result->total_bytes, result->total_bytes);
        *ret_result = *result;
    }
    lam_free(result);
    return status;
}

const char *lam_verify_name_part(const struct lam_manifest *manifest,
    const struct lam_record_chunk *place, char text[LAM_VERIFY_PART_BYTES])
{
    for (uint32_t u = 0; u < manifest->n_units; u++) {
        const struct lam_unit *unit = &manifest->units[u];

        if (place->file_offset < unit->file_offset ||
            !lam_size_range_ok(place->file_offset - unit->file_offset, place->bytes, unit->bytes))
            continue;
        snprintf(text, LAM_VERIFY_PART_BYTES, "%s %" PRIu32,
            unit->kind == LAM_UNIT_LAYER ? "layer" : "head", unit->layer);
        return text;
    }
    snprintf(text, LAM_VERIFY_PART_BYTES, "%s",
        in_embedding(manifest, place->file_offset) ? "embedding" : "norms");
    return text;
}
