/* fake_units: see fake_units.h. */
#include "tests/unit/worker/fake_units.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "common/mem.h"

#define ROWS_MAX 64

struct lam_units {
    const struct tiny_model *tiny;
    uint32_t next;
    bool held;
    unsigned char *place; /* with the file offset's alignment */
    void *block;
    unsigned char *rows;             /* [ROWS_MAX, row_bytes] */
    atomic_uint_fast64_t n_acquired; /* tests look from their own thread */
    atomic_uint_fast64_t fail_at;
    atomic_bool stopped;
};

struct lam_units *fake_units_create(const struct tiny_model *tiny)
{
    struct lam_units *units = lam_calloc(1, sizeof *units);

    assert(units);
    units->tiny = tiny;
    units->rows = lam_calloc(ROWS_MAX, tiny->model.manifest.embedding.row_bytes);
    assert(units->rows);
    return units;
}

void lam_units_destroy(struct lam_units *units)
{
    if (!units)
        return;
    lam_free(units->block);
    lam_free(units->rows);
    lam_free(units);
}

void fake_units_fail_acquire(struct lam_units *units, uint64_t nth)
{
    units->fail_at = nth ? units->n_acquired + nth : 0;
}

uint32_t fake_units_held(const struct lam_units *units)
{
    return units->held ? 1 : 0;
}

uint64_t fake_units_acquired(const struct lam_units *units)
{
    return units->n_acquired;
}

void lam_units_stop(struct lam_units *units)
{
    atomic_store(&units->stopped, true);
}

const struct lam_model *lam_units_model(const struct lam_units *units)
{
    return &units->tiny->model;
}

enum lam_status lam_units_acquire(
    struct lam_units *units, uint32_t index, const void **ret_base, struct lam_err *err)
{
    const struct lam_unit *unit = &units->tiny->model.manifest.units[index];
    uint64_t skew = unit->file_offset % 4096;

    assert(index == units->next && !units->held);
    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    units->n_acquired++;
    if (units->n_acquired == units->fail_at)
        return lam_fail(err, LAM_DATA_LOSS, "unit %u cannot be read", index);
    units->block = lam_aligned_calloc(4096, skew + unit->bytes);
    assert(units->block);
    units->place = (unsigned char *)units->block + skew;
    memcpy(units->place, units->tiny->image + unit->file_offset, unit->bytes);
    units->held = true;
    *ret_base = units->place;
    return LAM_OK;
}

void lam_units_release(struct lam_units *units, uint32_t index)
{
    assert(index == units->next && units->held);
    memset(units->place, 0xff, units->tiny->model.manifest.units[index].bytes);
    lam_free(units->block);
    units->block = NULL;
    units->held = false;
    units->next = (index + 1) % units->tiny->model.manifest.n_units;
}

enum lam_status lam_units_embedding_rows(struct lam_units *units, const int32_t *ids, uint32_t n,
    const void **ret_rows, struct lam_err *err)
{
    const struct lam_extent *embedding = &units->tiny->model.manifest.embedding;

    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    assert(n <= ROWS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        assert(ids[i] >= 0 && (uint64_t)ids[i] < embedding->n_rows);
        ret_rows[i] = memcpy(units->rows + i * embedding->row_bytes,
            units->tiny->image + embedding->file_offset + (uint64_t)ids[i] * embedding->row_bytes,
            embedding->row_bytes);
    }
    return LAM_OK;
}

enum lam_status lam_units_read_extent(
    struct lam_units *units, const struct lam_extent *extent, void *out, struct lam_err *err)
{
    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    memcpy(out, units->tiny->image + extent->file_offset, extent->bytes);
    return LAM_OK;
}

enum lam_status lam_units_check(struct lam_units *units, struct lam_err *err)
{
    return atomic_load(&units->stopped) ? lam_fail(err, LAM_UNAVAILABLE, "stopped") : LAM_OK;
}

uint64_t lam_units_stall_ns(const struct lam_units *units)
{
    (void)units;
    return 0;
}
