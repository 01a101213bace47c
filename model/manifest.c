/*
 * manifest: see manifest.h.
 *
 * A layer is the span from its first tensor to its last; what little may lie between (padding, a
 * stray vector) is read along, because one large read beats nine small ones. Head tiles have equal
 * numbers of rows, a multiple of TILE_ROWS_STEP, so that no tile is a leftover.
 */
#include "model/manifest.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/layout.h"

/* Gaps of a layer: 1/16 of it, and what padding takes in small ones. */
#define GAP_SHARE 16u
#define GAP_BYTES_FREE (64 * LAM_KIB)
#define TILE_BYTES_MIN LAM_MIB
#define TILES_MAX 4096u
#define TILE_ROWS_STEP 32u

/* The file's tensor of a role, with the shape that the spec asks for. */
static enum lam_status find_tensor(const struct lam_gguf *gguf, const struct lam_spec *spec,
    enum lam_tensor_role role, uint32_t layer, const struct lam_gguf_tensor **ret_tensor,
    struct lam_err *err)
{
    struct lam_layout_tensor wanted = lam_layout_tensor(spec, role, layer);
    int64_t index = lam_gguf_find_tensor(gguf, wanted.name);
    const struct lam_gguf_tensor *tensor;

    if (index < 0)
        return lam_fail(
            err, LAM_INVALID_ARGUMENT, "the model file has no tensor '%s'", wanted.name);
    tensor = lam_gguf_tensor(gguf, (uint64_t)index);
    if (tensor->dims[0] != wanted.n_cols || tensor->dims[1] != wanted.n_rows)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "tensor '%s' does not have the shape that the model's numbers ask for", wanted.name);
    *ret_tensor = tensor;
    return LAM_OK;
}

static enum lam_status build_layer(const struct lam_gguf *gguf, const struct lam_spec *spec,
    uint32_t layer, struct lam_unit *unit, struct lam_err *err)
{
    uint64_t begin = UINT64_MAX;
    uint64_t end = 0;
    uint64_t payload = 0;

    _Static_assert(LAM_LAYER_ROLES <= LAM_UNIT_TENSORS_MAX, "a layer fits a unit");
    for (uint32_t role = 0; role < LAM_LAYER_ROLES; role++) {
        const struct lam_gguf_tensor *tensor = NULL;
        enum lam_status status =
            find_tensor(gguf, spec, (enum lam_tensor_role)role, layer, &tensor, err);
        if (status)
            return status;
        /* Sums of extents inside one file, without overlap: no overflow. */
        begin = tensor->offset < begin ? tensor->offset : begin;
        end = tensor->offset + tensor->bytes > end ? tensor->offset + tensor->bytes : end;
        payload += tensor->bytes;
        unit->tensors[role] = (struct lam_unit_tensor){.role = (enum lam_tensor_role)role,
            .dtype = tensor->dtype,
            .n_rows = tensor->dims[1],
            .n_cols = tensor->dims[0],
            .offset = tensor->offset,
            .bytes = tensor->bytes};
    }
    if (end - begin - payload > payload / GAP_SHARE + GAP_BYTES_FREE)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the tensors of 'blk.%" PRIu32 "' (%" PRIu64 " bytes) lie scattered over %" PRIu64
            " bytes of the file; write the file anew in layer order, for example with "
            "llama-quantize",
            layer, payload, end - begin);
    for (uint32_t i = 0; i < LAM_LAYER_ROLES; i++)
        unit->tensors[i].offset -= begin;
    unit->kind = LAM_UNIT_LAYER;
    unit->layer = layer;
    unit->file_offset = begin;
    unit->bytes = end - begin;
    unit->n_tensors = LAM_LAYER_ROLES;
    return LAM_OK;
}

/* Rows of a tile: as many as fit tile_bytes_max, evened out over the tiles. */
static uint64_t tile_rows(uint64_t n_rows, uint64_t row_bytes, uint64_t tile_bytes_max)
{
    uint64_t rows_max = tile_bytes_max / row_bytes;
    uint64_t n_tiles;
    uint64_t rows;

    assert(rows_max > 0); /* a layer holds two vectors as long as a row, as f32 */
    if (rows_max >= TILE_ROWS_STEP)
        rows_max -= rows_max % TILE_ROWS_STEP;
    n_tiles = (n_rows + rows_max - 1) / rows_max;
    rows = (n_rows + n_tiles - 1) / n_tiles;
    if (rows_max >= TILE_ROWS_STEP)
        rows = (rows + TILE_ROWS_STEP - 1) / TILE_ROWS_STEP * TILE_ROWS_STEP;
    return rows;
}

static void build_tile(const struct lam_gguf_tensor *head, uint64_t rows_per_tile, uint32_t tile,
    struct lam_unit *unit)
{
    uint64_t row_bytes = head->bytes / head->dims[1];
    uint64_t row_begin = tile * rows_per_tile;
    uint64_t n_rows = head->dims[1] - row_begin;

    if (n_rows > rows_per_tile)
        n_rows = rows_per_tile;
    unit->kind = LAM_UNIT_HEAD;
    unit->layer = tile;
    unit->file_offset = head->offset + row_begin * row_bytes;
    unit->bytes = n_rows * row_bytes;
    unit->n_tensors = 1;
    unit->tensors[0] = (struct lam_unit_tensor){.role = LAM_T_OUTPUT,
        .dtype = head->dtype,
        .n_rows = n_rows,
        .n_cols = head->dims[0],
        .row_begin = row_begin,
        .bytes = unit->bytes};
}

static void build_table(const struct lam_extent *embedding, struct lam_unit *unit)
{
    unit->kind = LAM_UNIT_TABLE;
    unit->file_offset = embedding->file_offset;
    unit->bytes = embedding->bytes;
    unit->n_tensors = 1;
    unit->tensors[0] = (struct lam_unit_tensor){.role = LAM_T_EMBEDDING,
        .dtype = embedding->dtype,
        .n_rows = embedding->n_rows,
        .n_cols = embedding->n_cols,
        .bytes = embedding->bytes};
}

static struct lam_extent extent_of(const struct lam_gguf_tensor *tensor)
{
    return (struct lam_extent){.dtype = tensor->dtype,
        .n_rows = tensor->dims[1],
        .n_cols = tensor->dims[0],
        .row_bytes = tensor->bytes / tensor->dims[1],
        .file_offset = tensor->offset,
        .bytes = tensor->bytes};
}

static enum lam_status find_extents(const struct lam_gguf *gguf, const struct lam_spec *spec,
    struct lam_manifest *manifest, struct lam_err *err)
{
    const struct lam_gguf_tensor *tensor = NULL;
    enum lam_status status = find_tensor(gguf, spec, LAM_T_EMBEDDING, 0, &tensor, err);

    if (status)
        return status;
    manifest->embedding = extent_of(tensor);
    status = find_tensor(gguf, spec, LAM_T_OUTPUT_NORM, 0, &tensor, err);
    if (status)
        return status;
    manifest->output_norm = extent_of(tensor);
    if (lam_gguf_find_tensor(gguf, "rope_freqs.weight") < 0)
        return LAM_OK;
    status = find_tensor(gguf, spec, LAM_T_ROPE_FREQS, 0, &tensor, err);
    if (status)
        return status;
    manifest->rope_freqs = extent_of(tensor);
    return LAM_OK;
}

static enum lam_status build(const struct lam_gguf *gguf, const struct lam_spec *spec,
    struct lam_unit *layers, struct lam_manifest *manifest, struct lam_err *err)
{
    const struct lam_gguf_tensor *head = NULL;
    uint64_t tile_bytes_max = TILE_BYTES_MIN;
    uint64_t rows_per_tile;
    uint64_t n_tiles;
    enum lam_status status = find_extents(gguf, spec, manifest, err);

    for (uint32_t i = 0; i < spec->n_layers && !status; i++) {
        status = build_layer(gguf, spec, i, &layers[i], err);
        if (!status && layers[i].bytes > tile_bytes_max)
            tile_bytes_max = layers[i].bytes;
    }
    if (!status)
        status = find_tensor(
            gguf, spec, spec->tied_head ? LAM_T_EMBEDDING : LAM_T_OUTPUT, 0, &head, err);
    if (status)
        return status;
    rows_per_tile = tile_rows(head->dims[1], head->bytes / head->dims[1], tile_bytes_max);
    n_tiles = (head->dims[1] + rows_per_tile - 1) / rows_per_tile;
    if (n_tiles > TILES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the head '%.*s' would need %" PRIu64 " tiles of %" PRIu64 " bytes; at most %u are "
            "allowed",
            (int)head->name.size, head->name.data, n_tiles, tile_bytes_max, TILES_MAX);
    manifest->has_table = !spec->tied_head;
    manifest->units =
        lam_calloc(spec->n_layers + n_tiles + manifest->has_table, sizeof manifest->units[0]);
    if (!manifest->units)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %" PRIu64 " units",
            spec->n_layers + n_tiles);
    manifest->n_units = (uint32_t)(spec->n_layers + n_tiles);
    memcpy(manifest->units, layers, spec->n_layers * sizeof layers[0]);
    for (uint32_t i = 0; i < n_tiles; i++)
        build_tile(head, rows_per_tile, i, &manifest->units[spec->n_layers + i]);
    if (manifest->has_table)
        build_table(&manifest->embedding, &manifest->units[manifest->n_units]);
    for (uint32_t i = 0; i < manifest->n_units; i++) {
        uint64_t bytes = manifest->units[i].bytes;
        manifest->unit_bytes_total += bytes;
        if (bytes > manifest->unit_bytes_max)
            manifest->unit_bytes_max = bytes;
    }
    return LAM_OK;
}

enum lam_status lam_manifest_build(const struct lam_gguf *gguf, const struct lam_spec *spec,
    struct lam_manifest *ret_manifest, struct lam_err *err)
{
    struct lam_manifest manifest = {0};
    struct lam_unit *layers = lam_calloc(spec->n_layers, sizeof *layers);
    enum lam_status status;

    if (!layers)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for %" PRIu32 " layers", spec->n_layers);
    status = build(gguf, spec, layers, &manifest, err);
    lam_free(layers);
    if (status)
        return status;
    *ret_manifest = manifest;
    return LAM_OK;
}

void lam_manifest_done(struct lam_manifest *manifest)
{
    lam_free(manifest->units);
    *manifest = (struct lam_manifest){0};
}

uint32_t lam_manifest_row_unit(const struct lam_manifest *manifest, uint64_t id)
{
    uint32_t u = manifest->n_units;

    assert(id < manifest->embedding.n_rows);
    if (manifest->has_table)
        return u;
    do {
        u--;
    } while (manifest->units[u].tensors[0].row_begin > id);
    return u;
}

const struct lam_unit_tensor *lam_unit_find(const struct lam_unit *unit, enum lam_tensor_role role)
{
    for (uint32_t i = 0; i < unit->n_tensors; i++)
        if (unit->tensors[i].role == role)
            return &unit->tensors[i];
    return NULL;
}
