/* policy: see the header. Sizes come from a checked manifest, whose extents lie inside one file:
 * their sum stays far below 2^63, so plain arithmetic is safe here. */
#include "loader/policy.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"

/* Before doubling arrives at the maximum. */
#define N_SMALL_REGIONS 3u

/* The least part of a unit that is worth a place of its own. */
#define PART_ALIGNS_MIN 16u

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

/* Is unit u among k of n that are spread evenly? */
static bool is_spread(uint32_t u, uint32_t k, uint32_t n)
{
    return (uint64_t)(u + 1) * k / n > (uint64_t)u * k / n;
}

static uint64_t bytes_of_spread(
    const struct lam_unit *units, uint32_t n, uint64_t align, uint32_t k)
{
    uint64_t bytes = 0;

    for (uint32_t u = 0; u < n; u++) {
        if (is_spread(u, k, n))
            bytes += lam_policy_window(&units[u], align).bytes;
    }
    return bytes;
}

/* Marks the largest evenly spread set that fits, then each smaller unit that fits beside it. */
static uint64_t choose_kept(
    struct lam_layout *layout, const struct lam_unit *units, uint64_t budget_bytes)
{
    uint32_t n = layout->n_units;
    uint32_t k = n;
    uint64_t rest;

    while (bytes_of_spread(units, n, layout->align, k) > budget_bytes)
        k--;
    rest = budget_bytes - bytes_of_spread(units, n, layout->align, k);
    for (uint32_t u = 0; u < n; u++) {
        uint64_t bytes = lam_policy_window(&units[u], layout->align).bytes;

        layout->kept[u] = is_spread(u, k, n);
        if (!layout->kept[u] && bytes <= rest) {
            layout->kept[u] = true;
            rest -= bytes;
        }
        layout->n_kept += layout->kept[u];
    }
    return rest;
}

/* The sizes that all places follow from. */
struct lanes {
    uint64_t slot_bytes;  /* the largest window */
    uint64_t early_bytes; /* by which the two places of a lane are shifted; 0: one place each */
    uint32_t wanted;      /* how many there should be */
};

/*
 * How much of the next unit each lane can take ahead. It is memory that keeps nothing, and the hit
 * ratio shall stay within a hundredth of what one slot for streaming would give; units smaller than
 * their slots take from that hundredth too.
 */
static uint64_t early_bytes(const struct lam_layout *layout, const struct lam_unit *units,
    const struct lanes *lanes, uint64_t budget_bytes)
{
    uint64_t slot_bytes = lanes->slot_bytes;
    uint64_t full_bytes = lam_policy_bytes_full(units, layout->n_units, layout->align);
    uint64_t uneven_bytes = lanes->wanted * (slot_bytes - full_bytes / layout->n_units);
    uint64_t allowed_bytes = full_bytes / 1000 * 9;
    uint64_t left_bytes = (budget_bytes - layout->n_lanes * slot_bytes) / layout->n_lanes;
    uint64_t bytes = full_bytes / 1000;

    if (allowed_bytes > uneven_bytes + lanes->wanted * bytes)
        bytes = (allowed_bytes - uneven_bytes) / lanes->wanted;
    if (layout->n_lanes == 1)
        bytes = left_bytes < slot_bytes ? left_bytes : slot_bytes;
    else if (bytes > LAM_POLICY_EARLY_BYTES_MAX)
        bytes = LAM_POLICY_EARLY_BYTES_MAX;
    return lam_align_down(bytes < left_bytes ? bytes : left_bytes, layout->align);
}

/* What no whole unit fits into keeps the end of the first unit that streams. */
static void choose_part(struct lam_layout *layout, const struct lam_unit *units, uint64_t rest)
{
    layout->part_unit = LAM_POLICY_NO_UNIT;
    if (rest < PART_ALIGNS_MIN * layout->align ||
        layout->n_units - layout->n_kept <= layout->n_lanes)
        return;
    layout->part_unit = 0;
    while (layout->kept[layout->part_unit])
        layout->part_unit++;
    layout->part_bytes = lam_align_down(rest, layout->align);
    assert(lam_policy_window(&units[layout->part_unit], layout->align).bytes > layout->part_bytes);
}

static void place_all(
    struct lam_layout *layout, const struct lam_unit *units, const struct lanes *lanes)
{
    struct lam_place *place = layout->places;
    uint64_t at = 0;

    for (uint32_t lane = 0; lane < layout->n_lanes; lane++) {
        *place++ = (struct lam_place){.pool_offset = at, .bytes = lanes->slot_bytes, .lane = lane};
        at += lanes->early_bytes;
        if (lanes->early_bytes > 0)
            *place++ =
                (struct lam_place){.pool_offset = at, .bytes = lanes->slot_bytes, .lane = lane};
        at += lanes->slot_bytes;
    }
    if (layout->part_unit != LAM_POLICY_NO_UNIT) {
        uint64_t bytes = lam_policy_window(&units[layout->part_unit], layout->align).bytes;

        at += layout->part_bytes;
        *place++ = (struct lam_place){
            .pool_offset = at - bytes, .bytes = bytes, .lane = layout->n_lanes - 1};
    }
    layout->n_slots = (uint32_t)(place - layout->places);
    for (uint32_t u = 0; u < layout->n_units; u++) {
        uint64_t bytes = lam_policy_window(&units[u], layout->align).bytes;

        if (!layout->kept[u])
            continue;
        *place++ = (struct lam_place){.pool_offset = at, .bytes = bytes, .lane = layout->n_lanes};
        at += bytes;
    }
    assert(place == layout->places + layout->n_slots + layout->n_kept);
    layout->pool_bytes = at;
}

/* More than a single place, which may be larger, does not go into region r beyond this. */
static uint64_t region_bytes_max(uint32_t r)
{
    return r < N_SMALL_REGIONS ? LAM_POLICY_REGION_BYTES_FIRST << r : LAM_POLICY_REGION_BYTES_MAX;
}

/* Adds what belongs together: it goes into a new region where it would overflow this one, and over
 * several where it is itself larger than one. */
static void add_to_regions(struct lam_layout *layout, uint64_t bytes)
{
    struct lam_region *region = &layout->regions[layout->n_regions - 1];

    if (region->bytes + bytes > region_bytes_max(layout->n_regions - 1) && region->bytes > 0) {
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

static void cut_regions(struct lam_layout *layout, const struct lanes *lanes)
{
    layout->n_regions = 1;
    for (uint32_t lane = 0; lane < layout->n_lanes; lane++) {
        bool last = lane + 1 == layout->n_lanes;

        add_to_regions(
            layout, lanes->slot_bytes + lanes->early_bytes + (last ? layout->part_bytes : 0));
    }
    for (uint32_t p = layout->n_slots; p < layout->n_slots + layout->n_kept; p++)
        add_to_regions(layout, layout->places[p].bytes);
}

/* How many lanes, how large, what is kept. budget_bytes: less than the model. */
static enum lam_status choose_lanes(struct lam_layout *layout, const struct lam_unit *units,
    uint64_t budget_bytes, struct lanes *lanes, struct lam_err *err)
{
    uint64_t fit = budget_bytes / lanes->slot_bytes;
    char need[24], have[24];

    if (fit == 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "a pool of %s cannot hold the largest layer: give at least --ram %" PRIu64
            "KiB (%s), better three times that",
            lam_size_format(budget_bytes, have, sizeof(have)), (lanes->slot_bytes + 1023) / 1024,
            lam_size_format(lanes->slot_bytes, need, sizeof(need)));
    layout->n_lanes = fit < lanes->wanted ? (uint32_t)fit : lanes->wanted;
    lanes->early_bytes = early_bytes(layout, units, lanes, budget_bytes);
    return LAM_OK;
}

enum lam_status lam_policy_layout(const struct lam_unit *units, uint32_t n_units, uint64_t align,
    uint64_t budget_bytes, uint32_t lanes_wanted, struct lam_layout *ret_layout,
    struct lam_err *err)
{
    struct lam_layout layout = {
        .align = align, .n_units = n_units, .part_unit = LAM_POLICY_NO_UNIT};
    uint64_t full_bytes = lam_policy_bytes_full(units, n_units, align);
    struct lanes lanes = {.wanted = lanes_wanted};
    uint64_t regions_max, rest;

    assert(n_units > 0 && (align & (align - 1)) == 0);
    for (uint32_t u = 0; u < n_units; u++) {
        uint64_t bytes = lam_policy_window(&units[u], align).bytes;

        lanes.slot_bytes = bytes > lanes.slot_bytes ? bytes : lanes.slot_bytes;
    }
    if (full_bytes > budget_bytes) {
        enum lam_status status = choose_lanes(&layout, units, budget_bytes, &lanes, err);

        if (status != LAM_OK)
            return status;
    }

    /* Each region but the small ones and the last is, together with its successor, larger than the
     * maximum. */
    regions_max = 2 * (full_bytes + (2 * (uint64_t)lanes_wanted + 1) * lanes.slot_bytes) /
                      LAM_POLICY_REGION_BYTES_MAX +
                  2 + N_SMALL_REGIONS;
    layout.kept = lam_calloc(n_units, sizeof(*layout.kept));
    layout.places = lam_calloc(2 * (size_t)lanes_wanted + 1 + n_units, sizeof(*layout.places));
    layout.regions = lam_calloc(regions_max, sizeof(*layout.regions));
    if (layout.kept == NULL || layout.places == NULL || layout.regions == NULL) {
        lam_layout_done(&layout);
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of %" PRIu32 " units", n_units);
    }
    rest = choose_kept(
        &layout, units, budget_bytes - layout.n_lanes * (lanes.slot_bytes + lanes.early_bytes));
    /* Uneven units may leave fewer to stream than there are lanes. */
    if (layout.n_lanes > n_units - layout.n_kept)
        layout.n_lanes = n_units - layout.n_kept;
    choose_part(&layout, units, rest);
    place_all(&layout, units, &lanes);
    cut_regions(&layout, &lanes);
    assert(layout.pool_bytes <= budget_bytes && layout.n_regions <= regions_max);
    *ret_layout = layout;
    return LAM_OK;
}

void lam_layout_done(struct lam_layout *layout)
{
    lam_free(layout->kept);
    lam_free(layout->places);
    lam_free(layout->regions);
    memset(layout, 0, sizeof(*layout));
}
