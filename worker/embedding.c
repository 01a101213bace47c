/* embedding: see embedding.h. */
#include "worker/embedding.h"

#include <assert.h>

#include "common/trace.h"

static const struct lam_plan_region *region_of(const struct lam_engine *engine)
{
    return &engine->plan.arenas[0].regions[LAM_REGION_EMBEDDING];
}

static void upload_part(void *arg, uint64_t offset, const void *bytes, uint64_t n_bytes)
{
    struct lam_engine *engine = arg;

    lam_engine_upload(engine, region_of(engine)->offset + offset, bytes, n_bytes);
}

enum lam_status lam_embedding_load(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_extent *table = &engine->model->manifest.embedding;
    uint64_t begin_ns = lam_trace_begin();
    enum lam_status status;

    if (region_of(engine)->bytes == 0)
        return LAM_OK;
    assert(region_of(engine)->bytes >= table->bytes);
    status = lam_units_read_parts(engine->units, table, upload_part, engine, err);
    lam_trace_end(
        LAM_TRACE_COPY, "embedding", begin_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, table->bytes);
    return status;
}

/* The row in a head that is the same matrix; NULL: its piece does not stay. */
static const void *row_of_head(const struct lam_engine *engine, uint64_t id)
{
    const struct lam_plan *plan = &engine->plan;
    const struct lam_manifest *manifest = &engine->model->manifest;

    /* Rows of the head lie in the last pieces, in order. */
    for (uint32_t p = plan->n_pieces; p-- > 0;) {
        const struct lam_plan_piece *piece = &plan->pieces[p];
        const struct lam_unit_tensor *tile =
            lam_unit_find(&manifest->units[piece->unit], LAM_T_OUTPUT);
        const unsigned char *base;
        uint64_t first, offset;

        if (!tile)
            break;
        first = tile->row_begin + piece->row_begin;
        if (id < first)
            continue;
        base = engine->weights->ops->find(engine->weights, p);
        if (!base || !lam_plan_tensor_offset(piece, tile, &offset))
            return NULL;
        return base + offset + (id - first) * manifest->embedding.row_bytes;
    }
    return NULL;
}

static const void *row_in_place(const struct lam_engine *engine, uint64_t id)
{
    if (region_of(engine)->bytes > 0)
        return engine->arena + region_of(engine)->offset +
               id * engine->model->manifest.embedding.row_bytes;
    return engine->model->spec.tied_head ? row_of_head(engine, id) : NULL;
}

/* All of them, or false. */
static bool find_rows(
    const struct lam_engine *engine, const int32_t *ids, uint32_t n_rows, const void **rows)
{
    for (uint32_t i = 0; i < n_rows; i++) {
        rows[i] = row_in_place(engine, (uint64_t)ids[i]);
        if (!rows[i])
            return false;
    }
    return true;
}

/* Puts the gathered rows behind each other into the arrival; they become addresses of the device.
 * Returns the arrival's size. */
static uint64_t pack_rows(const struct lam_engine *engine, const void **rows, uint32_t n_rows)
{
    uint64_t row_bytes = engine->model->manifest.embedding.row_bytes;
    uint64_t offset = lam_plan_arrival_rows(n_rows);
    unsigned char *arrival = lam_engine_host(engine, engine->layout.arrival);
    const unsigned char *there = lam_engine_at(engine, lam_engine_buffers(engine)->arrival);

    for (uint32_t i = 0; i < n_rows; i++, offset += row_bytes) {
        memcpy(arrival + offset, rows[i], row_bytes);
        rows[i] = there + offset;
    }
    return offset;
}

enum lam_status lam_embedding_gather(
    struct lam_engine *engine, uint32_t n_rows, struct lam_err *err)
{
    const int32_t *ids = lam_engine_host(engine, engine->layout.ids);
    const void **rows = lam_engine_host(engine, engine->layout.rows);
    struct lam_dequant_args dequant = {
        .rows = rows,
        .dtype = engine->model->manifest.embedding.dtype,
        .n_rows = n_rows,
        .n_cols = engine->model->spec.n_embd,
        .out = lam_engine_at(engine, lam_engine_buffers(engine)->residual),
    };
    uint64_t bytes = n_rows * sizeof(int32_t); /* of positions */

    if (!find_rows(engine, ids, n_rows, rows)) {
        enum lam_status status;

        lam_engine_tell_begun(engine);
        status = lam_units_embedding_rows(engine->units, ids, n_rows, rows, err);

        if (status != LAM_OK)
            return status;
        if (engine->config.device)
            bytes = pack_rows(engine, rows, n_rows);
    }
    lam_engine_upload(engine, lam_engine_buffers(engine)->arrival,
        lam_engine_host(engine, engine->layout.arrival), bytes);
    engine->config.ops->dequant(engine->kernels, &dequant);
    return LAM_OK;
}
