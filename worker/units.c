/*
 * units: see units.h. Here the parts meet: the pool (pool_map), the questions (loader_client), the
 * leases (lease) and the embedding rows (in kept units, or row_cache).
 */
#include "worker/units.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"
#include "common/trace.h"
#include "worker/batch.h"
#include "worker/lease.h"
#include "worker/loader_client.h"
#include "worker/pool_map.h"
#include "worker/row_cache.h"

#define UNITS_ROW_CACHE_BYTES (16 * LAM_MIB)

struct lam_units {
    char *address; /* of the loader */
    struct lam_loader_client client;
    struct lam_loader_model remote;
    struct lam_pool_map pool;
    struct lam_model model;
    struct lam_row_cache rows;
    struct lam_batch batch;           /* of the last session */
    uint64_t gather_ns;               /* that row gathers have taken */
    uint64_t closed_ns;               /* that acquire has blocked in sessions that are closed */
    struct lam_pool_ready pool_ready; /* as the last of them heard it */
    uint32_t layer_batch;             /* as configured, like the next three */
    uint32_t credits;
    uint64_t timeout_ns;
    void (*on_lost)(void *arg);
    void *lost_arg;
    bool lock_made;
    pthread_mutex_t lock;      /* stop comes from another thread */
    struct lam_leases *leases; /* NULL: no session; changed under the lock */
    bool stopped;              /* under the lock */
};

static enum lam_status read_model(struct lam_units *units, struct lam_err *err)
{
    struct lam_model *model = &units->model;
    void *header;
    enum lam_status status;

    if (units->remote.header_bytes == 0 || units->remote.header_bytes > LAM_GGUF_HEADER_BYTES_MAX)
        return lam_fail(err, LAM_DATA_LOSS, "the loader announces a header of %" PRIu64 " bytes",
            units->remote.header_bytes);
    header = lam_calloc(units->remote.header_bytes, 1);
    if (!header)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a header of %" PRIu64 " bytes",
            units->remote.header_bytes);
    model->header = header;
    model->header_bytes = units->remote.header_bytes;
    model->file_bytes = units->remote.file_bytes;
    model->digest = units->remote.digest;
    status = lam_loader_client_header(&units->client, &units->remote, header, err);
    if (status == LAM_OK)
        status = lam_gguf_parse(header, model->header_bytes, model->file_bytes, &model->gguf, err);
    if (status == LAM_OK)
        status = lam_spec_read(model->gguf, &model->spec, err);
    if (status == LAM_OK)
        status = lam_manifest_build(model->gguf, &model->spec, &model->manifest, err);
    if (status == LAM_OK && (model->manifest.n_units != units->remote.n_units ||
                                units->remote.table_kept > model->manifest.has_table))
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "the loader cuts the model into %" PRIu32 " units, this worker into %" PRIu32
            ": run loader and worker of one version",
            units->remote.n_units, model->manifest.n_units);
    return status;
}

static enum lam_status open_rows(struct lam_units *units, uint32_t rows_max, struct lam_err *err)
{
    const struct lam_extent *embedding = &units->model.manifest.embedding;

    if (embedding->row_bytes > LAM_LOADER_EXTENT_BYTES_MAX)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "an embedding row of %" PRIu64 " bytes is over the limit of %" PRIu64,
            embedding->row_bytes, LAM_LOADER_EXTENT_BYTES_MAX);
    return lam_row_cache_init(&units->rows, embedding->row_bytes, UNITS_ROW_CACHE_BYTES,
        embedding->n_rows, rows_max, err);
}

enum lam_status lam_units_connect(
    const struct lam_units_config *config, struct lam_units **ret_units, struct lam_err *err)
{
    struct lam_units *units = lam_calloc(1, sizeof *units);
    enum lam_status status = LAM_OK;

    assert(config->max_rows > 0);
    if (units) {
        units->lock_made = pthread_mutex_init(&units->lock, NULL) == 0;
        units->address = lam_strdup(config->loader);
    }
    if (!units || !units->address || !units->lock_made) {
        lam_units_destroy(units);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the loader's units");
    }
    units->layer_batch = config->layer_batch;
    units->credits = config->credits;
    units->timeout_ns = config->timeout_ns;
    units->on_lost = config->on_lost;
    units->lost_arg = config->lost_arg;
    status = lam_loader_client_init(&units->client, units->address, config->timeout_ns, err);
    if (status == LAM_OK)
        status = lam_pool_map_open(config->pool_socket, config->timeout_ns, &units->pool, err);
    if (status == LAM_OK)
        status = lam_loader_client_register(
            &units->client, config->model ? config->model : "", &units->remote, err);
    if (status == LAM_OK)
        status = read_model(units, err);
    if (status == LAM_OK)
        status = open_rows(units, config->max_rows, err);
    if (status != LAM_OK) {
        lam_units_destroy(units);
        return status;
    }
    *ret_units = units;
    return LAM_OK;
}

void lam_units_stop(struct lam_units *units)
{
    pthread_mutex_lock(&units->lock);
    units->stopped = true;
    if (units->leases)
        lam_leases_stop(units->leases);
    pthread_mutex_unlock(&units->lock);
}

void lam_units_destroy(struct lam_units *units)
{
    if (!units)
        return;
    lam_units_close(units);
    lam_row_cache_done(&units->rows);
    lam_manifest_done(&units->model.manifest);
    lam_gguf_destroy(units->model.gguf);
    lam_free((void *)units->model.header);
    lam_pool_map_close(&units->pool);
    lam_loader_client_done(&units->client);
    if (units->lock_made)
        pthread_mutex_destroy(&units->lock);
    lam_free(units->address);
    lam_free(units);
}

const struct lam_model *lam_units_model(const struct lam_units *units)
{
    return &units->model;
}

struct lam_units_pool lam_units_pool(const struct lam_units *units)
{
    return (struct lam_units_pool){.base = units->pool.base, .bytes = units->pool.bytes};
}

static struct lam_batch choose_batch(
    const struct lam_units *units, const struct lam_units_session *session)
{
    const struct lam_manifest *manifest = &units->model.manifest;
    struct lam_batch_facts facts = {
        .n_units = session->cycle ? session->n_units : manifest->n_units,
        .unit_bytes_total = manifest->unit_bytes_total,
        .n_slots = units->remote.n_slots,
        .n_ahead_bytes = units->remote.n_ahead_bytes,
        .n_held = session->n_ahead,
    };

    if (session->cycle)
        facts.unit_bytes_total = 0;
    for (uint32_t i = 0; i < session->n_units; i++)
        facts.unit_bytes_total += manifest->units[session->cycle[i]].bytes;
    return lam_batch_choose(&facts, units->layer_batch, units->credits);
}

enum lam_status lam_units_open(
    struct lam_units *units, const struct lam_units_session *session, struct lam_err *err)
{
    struct lam_leases *leases;
    struct lam_lease_config lease = {
        .channel = units->client.channel,
        .loader = units->address,
        .manifest = &units->model.manifest,
        .pool = &units->pool,
        .model = units->remote.handle,
        .cycle = session->cycle,
        .n_cycle = session->n_units,
        .once = session->once,
        .table = session->rows && units->remote.table_kept,
        .timeout_ns = units->timeout_ns,
        .on_lost = units->on_lost,
        .lost_arg = units->lost_arg,
    };
    enum lam_status status;

    assert(!units->leases);
    units->batch = choose_batch(units, session);
    lease.credits = units->batch.n_credits;
    lease.batch = units->batch.n_units;
    status = lam_leases_create(&lease, &leases, err);
    if (status != LAM_OK)
        return status;
    pthread_mutex_lock(&units->lock);
    units->leases = leases;
    if (units->stopped)
        lam_leases_stop(leases);
    pthread_mutex_unlock(&units->lock);
    return LAM_OK;
}

void lam_units_close(struct lam_units *units)
{
    struct lam_leases *leases = units->leases;

    if (!leases)
        return;
    units->pool_ready = lam_units_pool_ready(units);
    pthread_mutex_lock(&units->lock);
    units->leases = NULL;
    pthread_mutex_unlock(&units->lock);
    units->closed_ns += lam_leases_stall_ns(leases);
    lam_leases_destroy(leases);
}

const char *lam_units_batch(const struct lam_units *units)
{
    return units->batch.why;
}

enum lam_status lam_units_check(struct lam_units *units, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    pthread_mutex_lock(&units->lock);
    if (units->leases)
        status = lam_leases_check(units->leases, err);
    pthread_mutex_unlock(&units->lock);
    return status;
}

bool lam_units_ready(struct lam_units *units, uint32_t index)
{
    return lam_leases_ready(units->leases, index);
}

enum lam_status lam_units_acquire(
    struct lam_units *units, uint32_t index, const void **ret_base, struct lam_err *err)
{
    assert(units->leases);
    return lam_leases_acquire(units->leases, index, ret_base, err);
}

void lam_units_release(struct lam_units *units, uint32_t index)
{
    lam_leases_release(units->leases, index);
}

const void *lam_units_find_kept(struct lam_units *units, uint32_t index)
{
    assert(units->leases);
    return lam_leases_find_kept(units->leases, index);
}

bool lam_units_table_kept(const struct lam_units *units)
{
    return units->remote.table_kept;
}

/* All rows where they lie in the pool, or false. */
static bool find_rows(
    const struct lam_units *units, const int32_t *ids, uint32_t n, const void **ret_rows)
{
    const struct lam_manifest *manifest = &units->model.manifest;
    uint32_t found = UINT32_MAX; /* the unit that base is of */
    const unsigned char *base = NULL;

    for (uint32_t i = 0; i < n && units->leases; i++) {
        uint64_t id = (uint64_t)ids[i];
        uint32_t u = lam_manifest_row_unit(manifest, id);

        if (u != found)
            base = lam_leases_find_kept(units->leases, u);
        if (!base)
            return false;
        found = u;
        ret_rows[i] =
            base + (id - manifest->units[u].tensors[0].row_begin) * manifest->embedding.row_bytes;
    }
    return units->leases != NULL;
}

/* ---- questions */

static uint32_t rows_of_question(const struct lam_units *units)
{
    uint64_t n = LAM_LOADER_EXTENT_BYTES_MAX / units->rows.row_bytes;

    return n < LAM_LOADER_RANGES_MAX ? (uint32_t)n : LAM_LOADER_RANGES_MAX;
}

static uint32_t ask_rows(void *arg, uint32_t i, uint64_t *offsets, uint64_t *ret_bytes_each)
{
    const struct lam_units *units = arg;
    const struct lam_extent *embedding = &units->model.manifest.embedding;
    uint32_t n_max = rows_of_question(units), first = i * n_max;
    uint32_t n = units->rows.n_misses - first;

    n = n < n_max ? n : n_max;
    for (uint32_t r = 0; r < n; r++)
        offsets[r] = embedding->file_offset +
                     (uint64_t)units->rows.misses[first + r].id * embedding->row_bytes;
    *ret_bytes_each = embedding->row_bytes;
    return n;
}

static void take_rows(void *arg, uint32_t i, const unsigned char *data)
{
    const struct lam_units *units = arg;
    uint64_t row_bytes = units->rows.row_bytes;
    uint32_t n_max = rows_of_question(units), first = i * n_max;

    for (uint32_t r = 0; r < n_max && first + r < units->rows.n_misses; r++)
        memcpy(units->rows.misses[first + r].row, data + r * row_bytes, row_bytes);
}

enum lam_status lam_units_embedding_rows(struct lam_units *units, const int32_t *ids, uint32_t n,
    const void **ret_rows, struct lam_err *err)
{
    struct lam_loader_reads reads = {.ask = ask_rows, .take = take_rows, .arg = units};
    uint64_t begin_ns = lam_now_ns();
    enum lam_status status;

    if (find_rows(units, ids, n, ret_rows))
        return LAM_OK;
    lam_row_cache_look_up(&units->rows, ids, n, ret_rows);
    reads.n = (units->rows.n_misses + rows_of_question(units) - 1) / rows_of_question(units);
    status = lam_loader_client_read(&units->client, units->remote.handle, &reads, err);
    if (status != LAM_OK)
        lam_row_cache_forget(&units->rows);
    units->gather_ns += lam_now_ns() - begin_ns;
    lam_trace_end(LAM_TRACE_WAIT, "embedding rows", begin_ns, LAM_TRACE_NONE, LAM_TRACE_NONE,
        units->rows.n_misses * units->rows.row_bytes);
    return status;
}

/* An extent, in parts that a question can ask for. */
struct parts {
    const struct lam_extent *extent;
    lam_units_part_fn take;
    void *arg;
};

static uint64_t part_bytes(const struct parts *parts, uint32_t i)
{
    uint64_t left = parts->extent->bytes - i * LAM_LOADER_EXTENT_BYTES_MAX;

    return left < LAM_LOADER_EXTENT_BYTES_MAX ? left : LAM_LOADER_EXTENT_BYTES_MAX;
}

static uint32_t ask_part(void *arg, uint32_t i, uint64_t *offsets, uint64_t *ret_bytes_each)
{
    const struct parts *parts = arg;

    offsets[0] = parts->extent->file_offset + i * LAM_LOADER_EXTENT_BYTES_MAX;
    *ret_bytes_each = part_bytes(parts, i);
    return 1;
}

static void take_part(void *arg, uint32_t i, const unsigned char *data)
{
    const struct parts *parts = arg;

    parts->take(parts->arg, i * LAM_LOADER_EXTENT_BYTES_MAX, data, part_bytes(parts, i));
}

enum lam_status lam_units_read_parts(struct lam_units *units, const struct lam_extent *extent,
    lam_units_part_fn take, void *arg, struct lam_err *err)
{
    struct parts parts = {.extent = extent, .take = take, .arg = arg};
    uint64_t n = (extent->bytes + LAM_LOADER_EXTENT_BYTES_MAX - 1) / LAM_LOADER_EXTENT_BYTES_MAX;
    struct lam_loader_reads reads = {.ask = ask_part, .take = take_part, .arg = &parts};

    if (n > UINT32_MAX)
        return lam_fail(err, LAM_UNIMPLEMENTED, "%" PRIu64 " bytes of one extent", extent->bytes);
    reads.n = (uint32_t)n;
    return lam_loader_client_read(&units->client, units->remote.handle, &reads, err);
}

static void copy_part(void *arg, uint64_t offset, const void *bytes, uint64_t n_bytes)
{
    memcpy((unsigned char *)arg + offset, bytes, n_bytes);
}

enum lam_status lam_units_read_extent(
    struct lam_units *units, const struct lam_extent *extent, void *out, struct lam_err *err)
{
    if (extent->bytes == 0 || extent->bytes > LAM_LOADER_EXTENT_BYTES_MAX)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "a vector of %" PRIu64 " bytes is over the limit of %" PRIu64, extent->bytes,
            LAM_LOADER_EXTENT_BYTES_MAX);
    return lam_units_read_parts(units, extent, copy_part, out, err);
}

struct lam_pool_ready lam_units_pool_ready(const struct lam_units *units)
{
    struct lam_pool_ready ready = {0};

    if (units->leases)
        ready = lam_leases_pool_ready(units->leases);
    return ready.bytes > 0 ? ready : units->pool_ready;
}

uint64_t lam_units_stall_ns(const struct lam_units *units)
{
    uint64_t ns = units->gather_ns + units->closed_ns;

    return units->leases ? ns + lam_leases_stall_ns(units->leases) : ns;
}
