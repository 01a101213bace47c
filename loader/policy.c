/* policy: see the header. Sizes come from a checked manifest, whose extents lie inside one file:
 * their sum stays far below 2^63, so plain arithmetic is safe here. */
#include "loader/policy.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"

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

/* Marks the largest evenly spread set that fits, then whatever smaller unit still fits beside it.
 */
static void choose_kept(
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
}

static void place_all(struct lam_layout *layout, const struct lam_unit *units, uint64_t slot_bytes)
{
    uint64_t at = 0;
    uint32_t p = 0;

    for (; p < layout->n_slots; p++) {
        layout->places[p] = (struct lam_place){.pool_offset = at, .bytes = slot_bytes};
        at += slot_bytes;
    }
    for (uint32_t u = 0; u < layout->n_units; u++) {
        uint64_t bytes = lam_policy_window(&units[u], layout->align).bytes;

        if (!layout->kept[u])
            continue;
        layout->places[p++] = (struct lam_place){.pool_offset = at, .bytes = bytes};
        at += bytes;
    }
    assert(p == layout->n_slots + layout->n_kept);
    layout->pool_bytes = at;
}

/* Ends a region where the next place would overflow it; cuts a place that is itself larger. */
static void cut_regions(struct lam_layout *layout)
{
    struct lam_region *region = layout->regions;

    for (uint32_t p = 0; p < layout->n_slots + layout->n_kept; p++) {
        uint64_t left = layout->places[p].bytes;

        if (region->bytes + left > LAM_POLICY_REGION_BYTES_MAX && region->bytes > 0)
            (++region)->pool_offset = layout->places[p].pool_offset;
        while (left > LAM_POLICY_REGION_BYTES_MAX) {
            region->bytes = LAM_POLICY_REGION_BYTES_MAX;
            left -= LAM_POLICY_REGION_BYTES_MAX;
            region[1].pool_offset = region->pool_offset + region->bytes;
            region++;
        }
        region->bytes += left;
    }
    layout->n_regions = (uint32_t)(region - layout->regions) + 1;
}

enum lam_status lam_policy_layout(const struct lam_unit *units, uint32_t n_units, uint64_t align,
    uint64_t budget_bytes, struct lam_layout *ret_layout, struct lam_err *err)
{
    struct lam_layout layout = {.align = align, .n_units = n_units};
    uint64_t full_bytes = lam_policy_bytes_full(units, n_units, align);
    uint64_t slot_bytes = 0;
    uint64_t regions_max;
    char need[24], have[24];

    assert(n_units > 0 && (align & (align - 1)) == 0);
    for (uint32_t u = 0; u < n_units; u++) {
        uint64_t bytes = lam_policy_window(&units[u], align).bytes;

        slot_bytes = bytes > slot_bytes ? bytes : slot_bytes;
    }
    if (full_bytes > budget_bytes) {
        uint64_t fit = budget_bytes / slot_bytes;

        if (fit == 0)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "a pool of %s cannot hold the largest layer: give at least --ram %" PRIu64
                "KiB (%s), better three times that",
                lam_size_format(budget_bytes, have, sizeof(have)), (slot_bytes + 1023) / 1024,
                lam_size_format(slot_bytes, need, sizeof(need)));
        layout.n_slots = fit < LAM_POLICY_SLOTS_WANTED ? (uint32_t)fit : LAM_POLICY_SLOTS_WANTED;
    }

    /* Each region but the last is, together with its successor, larger than the maximum. */
    regions_max = 2 * (full_bytes + 3 * slot_bytes) / LAM_POLICY_REGION_BYTES_MAX + 2;
    layout.kept = lam_calloc(n_units, sizeof(*layout.kept));
    layout.places = lam_calloc((size_t)layout.n_slots + n_units, sizeof(*layout.places));
    layout.regions = lam_calloc(regions_max, sizeof(*layout.regions));
    if (layout.kept == NULL || layout.places == NULL || layout.regions == NULL) {
        lam_layout_done(&layout);
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of %" PRIu32 " units", n_units);
    }
    choose_kept(&layout, units, budget_bytes - layout.n_slots * slot_bytes);
    /* Uneven units may leave fewer to stream than there are slots. */
    if (layout.n_slots > n_units - layout.n_kept)
        layout.n_slots = n_units - layout.n_kept;
    place_all(&layout, units, slot_bytes);
    cut_regions(&layout);
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
