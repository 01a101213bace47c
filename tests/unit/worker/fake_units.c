/* fake_units: see fake_units.h. */
#include "tests/unit/worker/fake_units.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"

#define ROWS_MAX 64
#define PLACES_MAX 8
#define PLACES_DEFAULT 2
#define ALIGN 4096 /* of file offsets, which a place keeps */
#define PART_BYTES (300 * LAM_KIB)

struct lam_units {
    const struct tiny_model *tiny;
    unsigned char *pool; /* [PLACES_MAX, place_bytes] */
    uint64_t place_bytes;
    uint32_t n_places;
    uint32_t seed;
    uint32_t *cycle; /* [n_cycle] of the session */
    uint32_t n_cycle;
    uint32_t n_sessions;
    bool open, once, kept, table;
    bool in_place; /* rows, in the session */
    uint64_t n_gathered;
    uint64_t slow_ns, stall_ns;
    void (*sleep)(uint64_t ns);
    uint64_t next;                   /* acquires of the session */
    uint64_t released;               /* of the session: the oldest unit that is held */
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
    units->n_places = PLACES_DEFAULT;
    units->place_bytes = lam_align_up(tiny->model.manifest.unit_bytes_max, ALIGN) + ALIGN;
    units->pool = lam_aligned_calloc(ALIGN, PLACES_MAX * units->place_bytes);
    units->cycle = lam_calloc(tiny->model.manifest.n_units, sizeof *units->cycle);
    units->rows = lam_calloc(ROWS_MAX, tiny->model.manifest.embedding.row_bytes);
    assert(units->rows && units->pool && units->cycle);
    return units;
}

void fake_units_set(struct lam_units *units, uint32_t n_places, uint32_t seed)
{
    assert(n_places >= 1 && n_places <= PLACES_MAX && !units->open);
    units->n_places = n_places;
    units->seed = seed;
}

void lam_units_destroy(struct lam_units *units)
{
    if (!units)
        return;
    lam_free(units->pool);
    lam_free(units->cycle);
    lam_free(units->rows);
    lam_free(units);
}

void fake_units_fail_acquire(struct lam_units *units, uint64_t nth)
{
    units->fail_at = nth ? units->n_acquired + nth : 0;
}

uint32_t fake_units_held(const struct lam_units *units)
{
    return (uint32_t)(units->next - units->released);
}

uint64_t fake_units_acquired(const struct lam_units *units)
{
    return units->n_acquired;
}

void fake_units_keep(struct lam_units *units)
{
    units->kept = true;
}

void fake_units_keep_table(struct lam_units *units)
{
    units->table = true;
}

void fake_units_slow(struct lam_units *units, uint64_t ns, void (*sleep)(uint64_t ns))
{
    units->slow_ns = ns;
    units->sleep = sleep;
}

uint64_t fake_units_gathered(const struct lam_units *units)
{
    return units->n_gathered;
}

uint32_t fake_units_sessions(const struct lam_units *units)
{
    return units->n_sessions;
}

void lam_units_stop(struct lam_units *units)
{
    atomic_store(&units->stopped, true);
}

const struct lam_model *lam_units_model(const struct lam_units *units)
{
    return &units->tiny->model;
}

struct lam_units_pool lam_units_pool(const struct lam_units *units)
{
    return (struct lam_units_pool){units->pool, PLACES_MAX * units->place_bytes};
}

enum lam_status lam_units_open(
    struct lam_units *units, const struct lam_units_session *session, struct lam_err *err)
{
    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    assert(!units->open);
    assert(!session->cycle || session->n_units > 0 || (session->rows && units->table));
    units->n_cycle = session->cycle ? session->n_units : units->tiny->model.manifest.n_units;
    assert(units->n_cycle <= units->tiny->model.manifest.n_units);
    for (uint32_t i = 0; i < units->n_cycle; i++) {
        units->cycle[i] = session->cycle ? session->cycle[i] : i;
        assert(i == 0 || units->cycle[i] > units->cycle[i - 1]);
    }
    units->open = true;
    units->once = session->once;
    units->in_place = session->rows;
    units->next = 0;
    units->released = 0;
    units->n_sessions++;
    return LAM_OK;
}

void lam_units_close(struct lam_units *units)
{
    if (units->open)
        memset(units->pool, 0xff, PLACES_MAX * units->place_bytes);
    units->open = false;
    units->released = units->next;
}

/* A unit is here when a place is free, and, with a seed, not at the first look. */
bool lam_units_ready(struct lam_units *units, uint32_t index)
{
    assert(units->open && index == units->cycle[units->next % units->n_cycle]);
    if (units->next - units->released >= units->n_places)
        return false;
    if (units->slow_ns > 0)
        return false;
    if (units->seed == 0)
        return true;
    units->seed = units->seed * 1664525u + 1013904223u;
    return units->seed >> 30 != 0;
}

enum lam_status lam_units_acquire(
    struct lam_units *units, uint32_t index, const void **ret_base, struct lam_err *err)
{
    const struct lam_unit *unit = &units->tiny->model.manifest.units[index];
    unsigned char *place = units->pool + units->next % units->n_places * units->place_bytes +
                           unit->file_offset % ALIGN;

    assert(units->open && index == units->cycle[units->next % units->n_cycle]);
    assert(!units->once || units->next < units->n_cycle);
    assert(units->next - units->released < units->n_cycle);  /* never twice */
    assert(units->next - units->released < units->n_places); /* it would block for ever */
    if (units->slow_ns > 0)
        units->sleep(units->slow_ns);
    units->stall_ns += units->slow_ns;
    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    units->n_acquired++;
    if (units->fail_at > 0 && units->n_acquired >= units->fail_at)
        return lam_fail(err, LAM_DATA_LOSS, "unit %u cannot be read", index);
    memcpy(place, units->tiny->image + unit->file_offset, unit->bytes);
    units->next++;
    *ret_base = place;
    return LAM_OK;
}

void lam_units_release(struct lam_units *units, uint32_t index)
{
    assert(units->released < units->next);
    assert(index == units->cycle[units->released % units->n_cycle]);
    memset(units->pool + units->released % units->n_places * units->place_bytes, 0xff,
        units->place_bytes);
    units->released++;
}

const void *lam_units_find_kept(struct lam_units *units, uint32_t index)
{
    assert(units->open);
    return units->kept ? units->tiny->image + units->tiny->model.manifest.units[index].file_offset
                       : NULL;
}

bool lam_units_table_kept(const struct lam_units *units)
{
    return units->table;
}

enum lam_status lam_units_embedding_rows(struct lam_units *units, const int32_t *ids, uint32_t n,
    const void **ret_rows, struct lam_err *err)
{
    const struct lam_extent *embedding = &units->tiny->model.manifest.embedding;

    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    assert(n <= ROWS_MAX);
    units->n_gathered += units->open && units->in_place && units->table ? 0 : n;
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

enum lam_status lam_units_read_parts(struct lam_units *units, const struct lam_extent *extent,
    lam_units_part_fn take, void *arg, struct lam_err *err)
{
    if (atomic_load(&units->stopped))
        return lam_fail(err, LAM_CANCELLED, "stopped");
    for (uint64_t at = 0; at < extent->bytes; at += PART_BYTES) {
        uint64_t left = extent->bytes - at;

        take(arg, at, units->tiny->image + extent->file_offset + at,
            left < PART_BYTES ? left : PART_BYTES);
    }
    return LAM_OK;
}

enum lam_status lam_units_check(struct lam_units *units, struct lam_err *err)
{
    return atomic_load(&units->stopped) ? lam_fail(err, LAM_UNAVAILABLE, "stopped") : LAM_OK;
}

struct lam_pool_ready lam_units_pool_ready(const struct lam_units *units)
{
    uint64_t n = fake_units_acquired(units);

    return (struct lam_pool_ready){n * 4096, n * 1000};
}

uint64_t lam_units_stall_ns(const struct lam_units *units)
{
    return units->stall_ns;
}
