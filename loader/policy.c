/* policy: see the header. Which units are kept and how large the lanes are is model/kept.h; here it
 * gets addresses. */
#include "loader/policy.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"

/* Before doubling arrives at the maximum. */
#define N_SMALL_REGIONS 3u

struct lam_window lam_policy_window(const struct lam_unit *unit, uint64_t align)
{
    struct lam_window window;

    window.file_offset = lam_align_down(unit->file_offset, align);
    window.bytes = lam_align_up(unit->file_offset + unit->bytes, align) - window.file_offset;
    return window;
}

uint64_t lam_policy_bytes_full(const struct lam_unit *units, uint32_t n_units, uint64_t align)
{
    uint64_t bytes = 0;

    for (uint32_t u = 0; u < n_units; u++)
        bytes += lam_policy_window(&units[u], align).bytes;
    return bytes;
}

static void place_all(
    struct lam_layout *layout, const struct lam_kept_table *table, const struct lam_kept *kept)
{
    struct lam_place *place = layout->places;
    uint64_t at = 0;

    for (uint32_t lane = 0; lane < kept->n_lanes; lane++) {
        *place++ = (struct lam_place){.pool_offset = at, .bytes = kept->slot_bytes, .lane = lane};
        at += kept->early_bytes;
        if (kept->early_bytes > 0)
            *place++ =
                (struct lam_place){.pool_offset = at, .bytes = kept->slot_bytes, .lane = lane};
        at += kept->slot_bytes;
    }
    if (kept->part_bytes > 0) { /* the end of the first unit that streams */
        uint64_t bytes;

        layout->part_unit = 0;
        while (layout->kept[layout->part_unit])
            layout->part_unit++;
        bytes = table->windows[layout->part_unit];
        assert(bytes > kept->part_bytes);
        at += kept->part_bytes;
        *place++ = (struct lam_place){
            .pool_offset = at - bytes, .bytes = bytes, .lane = layout->n_lanes - 1};
    }
    layout->n_slots = (uint32_t)(place - layout->places);
    for (uint32_t i = 0; i < layout->n_ahead; i++, at += kept->slot_bytes)
        *place++ = (struct lam_place){
            .pool_offset = at, .bytes = kept->slot_bytes, .lane = layout->n_lanes};
    for (uint32_t u = 0; u < layout->n_units; u++) {
        uint64_t bytes = table->windows[u];

        if (!layout->kept[u])
            continue;
        *place++ = (struct lam_place){.pool_offset = at, .bytes = bytes, .lane = layout->n_lanes};
        at += bytes;
    }
    layout->n_places = (uint32_t)(place - layout->places);
    assert(layout->n_places == layout->n_slots + layout->n_ahead + layout->n_kept);
    assert(at == layout->pool_bytes);
}

/* More than a single place, which may be larger, does not go into region r beyond this. */
static uint64_t region_bytes_max(const struct lam_layout *layout, uint32_t r)
{
    return r < N_SMALL_REGIONS ? layout->region_bytes << r : LAM_POLICY_REGION_BYTES_MAX;
}

/* Adds what belongs together: it goes into a new region where it would overflow this one, and over
 * several where it is itself larger than one. */
static void add_to_regions(struct lam_layout *layout, uint64_t bytes)
{
    struct lam_region *region = &layout->regions[layout->n_regions - 1];

    if (region->bytes + bytes > region_bytes_max(layout, layout->n_regions - 1) &&
        region->bytes > 0) {
        region[1].pool_offset = region->pool_offset + region->bytes;
        region++;
    }
    for (; bytes > LAM_POLICY_REGION_BYTES_MAX; bytes -= LAM_POLICY_REGION_BYTES_MAX) {
        region->bytes = LAM_POLICY_REGION_BYTES_MAX;
        region[1].pool_offset = region->pool_offset + region->bytes;
        region++;
    }
    region->bytes += bytes;
    layout->n_regions = (uint32_t)(region - layout->regions) + 1;
}

static void cut_regions(struct lam_layout *layout, const struct lam_kept *kept)
{
    layout->n_regions = 1;
    for (uint32_t lane = 0; lane < layout->n_lanes; lane++) {
        bool last = lane + 1 == layout->n_lanes;

        add_to_regions(
            layout, kept->slot_bytes + kept->early_bytes + (last ? kept->part_bytes : 0));
    }
    for (uint32_t p = layout->n_slots; p < layout->n_places; p++)
        add_to_regions(layout, layout->places[p].bytes);
}

static enum lam_status check_budget(
    const struct lam_kept_table *table, uint64_t budget_bytes, struct lam_err *err)
{
    char need[24], have[24];

    if (budget_bytes >= table->slot_bytes)
        return LAM_OK;
    return lam_fail_no_fit(err,
        "a pool of %s cannot hold the largest layer: give at least --ram %" PRIu64
        "KiB (%s), better three times that",
        lam_size_format(budget_bytes, have, sizeof(have)), (table->slot_bytes + 1023) / 1024,
        lam_size_format(table->slot_bytes, need, sizeof(need)));
}

/* False: no memory. */
static bool lay_out(struct lam_layout *layout, struct lam_kept_table *table,
    const struct lam_policy_request *request)
{
    /* Each region but the small ones and the last is, together with its successor, larger than the
     * maximum. */
    uint64_t regions_max = 2 *
                               (table->n_units * table->slot_bytes +
                                   (2 * (uint64_t)request->lanes_wanted + 1) * table->slot_bytes) /
                               LAM_POLICY_REGION_BYTES_MAX +
                           2 + N_SMALL_REGIONS;
    struct lam_kept kept;

    layout->kept = lam_calloc(table->n_units, sizeof(*layout->kept));
    layout->drives = lam_calloc(table->n_units, sizeof(*layout->drives));
    layout->places =
        lam_calloc(2 * (size_t)request->lanes_wanted + 1 + table->n_units, sizeof(*layout->places));
    layout->regions = lam_calloc(regions_max, sizeof(*layout->regions));
    if (layout->kept == NULL || layout->drives == NULL || layout->places == NULL ||
        layout->regions == NULL)
        return false;
    if (request->drives != NULL)
        memcpy(layout->drives, request->drives, table->n_units * sizeof(*layout->drives));
    layout->n_drives = request->drives != NULL ? request->n_drives : 1;
    lam_kept_table_set_drives(table, layout->drives, layout->n_drives);
    lam_kept_choose(table, request->budget_bytes, request->lanes_wanted, layout->kept, &kept);
    layout->n_lanes = kept.n_lanes;
    layout->n_ahead = kept.n_ahead;
    layout->n_kept = kept.n_kept;
    layout->part_bytes = kept.part_bytes;
    layout->pool_bytes = kept.pool_bytes;
    place_all(layout, table, &kept);
    cut_regions(layout, &kept);
    assert(layout->n_regions <= regions_max);
    return true;
}

enum lam_status lam_policy_layout(
    const struct lam_policy_request *request, struct lam_layout *ret_layout, struct lam_err *err)
{
    struct lam_layout layout = {.align = request->align,
        .n_units = request->n_units,
        .part_unit = LAM_POLICY_NO_UNIT,
        .region_bytes =
            request->region_bytes != 0 ? request->region_bytes : LAM_POLICY_REGION_BYTES_FIRST};
    struct lam_kept_table table = {0};
    enum lam_status status = LAM_OK;
    bool has_memory = lam_kept_table_init(&table, request->units, request->n_units, request->align);

    if (has_memory)
        status = check_budget(&table, request->budget_bytes, err);
    if (has_memory && status == LAM_OK)
        has_memory = lay_out(&layout, &table, request);
    lam_kept_table_done(&table);
    if (!has_memory)
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for the table of %" PRIu32 " units", request->n_units);
    if (status != LAM_OK) {
        lam_layout_done(&layout);
        return status;
    }
    *ret_layout = layout;
    return LAM_OK;
}

enum lam_status lam_policy_add_table(
    struct lam_layout *layout, uint64_t window_bytes, struct lam_err *err)
{
    uint64_t regions_max = layout->n_regions + window_bytes / LAM_POLICY_REGION_BYTES_MAX + 1;
    struct lam_place *places;
    struct lam_region *regions;
    uint32_t *drives;
    bool *kept;

    assert(layout->n_kept == layout->n_units && layout->n_slots == 0 && !layout->has_table);
    /* Each block is the layout's as soon as it has moved. */
    kept = lam_realloc(layout->kept, (size_t)layout->n_units + 1, sizeof(*kept));
    layout->kept = kept != NULL ? kept : layout->kept;
    drives = lam_realloc(layout->drives, (size_t)layout->n_units + 1, sizeof(*drives));
    layout->drives = drives != NULL ? drives : layout->drives;
    places = lam_realloc(layout->places, (size_t)layout->n_kept + 1, sizeof(*places));
    layout->places = places != NULL ? places : layout->places;
    regions = lam_realloc(layout->regions, regions_max, sizeof(*regions));
    layout->regions = regions != NULL ? regions : layout->regions;
    if (kept == NULL || drives == NULL || places == NULL || regions == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the embedding's place");
    memset(regions + layout->n_regions, 0, (regions_max - layout->n_regions) * sizeof(*regions));
    drives[layout->n_units] = 0; /* no pass reads it */
    kept[layout->n_units++] = true;
    layout->n_places++;
    places[layout->n_kept++] =
        (struct lam_place){.pool_offset = layout->pool_bytes, .bytes = window_bytes};
    layout->has_table = true;
    layout->pool_bytes += window_bytes;
    add_to_regions(layout, window_bytes);
    assert(layout->n_regions <= regions_max);
    return LAM_OK;
}

void lam_layout_done(struct lam_layout *layout)
{
    lam_free(layout->kept);
    lam_free(layout->drives);
    lam_free(layout->places);
    lam_free(layout->regions);
    memset(layout, 0, sizeof(*layout));
}
