/* row_cache: see row_cache.h. */
#include "worker/row_cache.h"

#include <assert.h>

#include "common/mem.h"

enum lam_status lam_row_cache_init(struct lam_row_cache *cache, uint64_t row_bytes,
    uint64_t budget_bytes, uint64_t n_ids, uint32_t rows_max, struct lam_err *err)
{
    struct lam_row_cache made = {.row_bytes = row_bytes, .rows_max = rows_max};

    assert(row_bytes > 0 && n_ids > 0 && rows_max > 0);
    made.n_places = budget_bytes / row_bytes < n_ids ? budget_bytes / row_bytes : n_ids;
    if (made.n_places == 0)
        made.n_places = 1;
    made.places = lam_calloc(made.n_places, row_bytes);
    made.ids = lam_calloc(made.n_places, sizeof *made.ids);
    made.last_used = lam_calloc(made.n_places, sizeof *made.last_used);
    made.side = lam_calloc(rows_max, row_bytes);
    made.misses = lam_calloc(rows_max, sizeof *made.misses);
    if (!made.places || !made.ids || !made.last_used || !made.side || !made.misses) {
        lam_row_cache_done(&made);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for %llu cached embedding rows of %llu bytes: lower --prefill-chunk",
            (unsigned long long)made.n_places, (unsigned long long)row_bytes);
    }
    for (uint64_t i = 0; i < made.n_places; i++)
        made.ids[i] = -1;
    *cache = made;
    return LAM_OK;
}

void lam_row_cache_done(struct lam_row_cache *cache)
{
    lam_free(cache->places);
    lam_free(cache->ids);
    lam_free(cache->last_used);
    lam_free(cache->side);
    lam_free(cache->misses);
    *cache = (struct lam_row_cache){0};
}

/* Where the row of `id` will be after this look-up; a miss is noted. */
static void *place_row(struct lam_row_cache *cache, int32_t id)
{
    uint64_t place = (uint64_t)id % cache->n_places;
    void *row = cache->places + place * cache->row_bytes;

    if (cache->ids[place] != id) {
        if (cache->last_used[place] == cache->look_up)
            row = cache->side + cache->n_misses * cache->row_bytes;
        else
            cache->ids[place] = id;
        cache->misses[cache->n_misses++] = (struct lam_row_miss){.id = id, .row = row};
    }
    return row;
}

void lam_row_cache_look_up(
    struct lam_row_cache *cache, const int32_t *ids, uint32_t n, const void **ret_rows)
{
    assert(n <= cache->rows_max);
    cache->n_misses = 0;
    cache->look_up++;
    /* Rows that are here stay: a miss of this look-up must not displace a hit of it. */
    for (uint32_t i = 0; i < n; i++) {
        uint64_t place = (uint64_t)ids[i] % cache->n_places;

        assert(ids[i] >= 0);
        if (cache->ids[place] == ids[i])
            cache->last_used[place] = cache->look_up;
    }
    for (uint32_t i = 0; i < n; i++) {
        ret_rows[i] = place_row(cache, ids[i]);
        if (cache->ids[(uint64_t)ids[i] % cache->n_places] == ids[i])
            cache->last_used[(uint64_t)ids[i] % cache->n_places] = cache->look_up;
    }
}

void lam_row_cache_forget(struct lam_row_cache *cache)
{
    for (uint32_t i = 0; i < cache->n_misses; i++) {
        uint64_t place = (uint64_t)cache->misses[i].id % cache->n_places;

        if (cache->ids[place] == cache->misses[i].id)
            cache->ids[place] = -1;
    }
    cache->n_misses = 0;
}
