/* regions: see the header. */
#include "loader/regions.h"

#include <assert.h>

#include "common/mem.h"

enum lam_status lam_regions_init(
    struct lam_regions *regions, const struct lam_layout *layout, struct lam_err *err)
{
    *regions = (struct lam_regions){
        .layout = layout, .there = lam_calloc(layout->n_regions, sizeof(*regions->there))};
    if (regions->there == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of the pool");
    return LAM_OK;
}

void lam_regions_done(struct lam_regions *regions)
{
    lam_free(regions->there);
    *regions = (struct lam_regions){0};
}

void lam_regions_add(struct lam_regions *regions, uint32_t r)
{
    assert(r < regions->layout->n_regions && !regions->there[r]);
    regions->there[r] = true;
}

/* The first region without memory among those that share bytes with [begin, end), or n_regions. */
static uint32_t first_lacking(const struct lam_regions *regions, uint64_t begin, uint64_t end)
{
    const struct lam_layout *layout = regions->layout;
    uint32_t r = 0;

    while (r < layout->n_regions &&
           (regions->there[r] || layout->regions[r].pool_offset >= end ||
               layout->regions[r].pool_offset + layout->regions[r].bytes <= begin))
        r++;
    return r;
}

bool lam_regions_have(const struct lam_regions *regions, uint32_t p)
{
    const struct lam_place *place = &regions->layout->places[p];
    uint64_t end = place->pool_offset + place->bytes;

    return first_lacking(regions, place->pool_offset, end) == regions->layout->n_regions;
}

bool lam_regions_next(const struct lam_regions *regions, uint32_t p, uint32_t *ret_region)
{
    const struct lam_layout *layout = regions->layout;
    uint32_t r = layout->n_regions;

    if (p != LAM_REGIONS_NO_PLACE)
        r = first_lacking(regions, layout->places[p].pool_offset,
            layout->places[p].pool_offset + layout->places[p].bytes);
    if (r == layout->n_regions)
        r = first_lacking(regions, 0, layout->pool_bytes);
    if (r == layout->n_regions)
        return false;
    *ret_region = r;
    return true;
}
