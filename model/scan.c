/* scan: see the header. */
#include "model/scan.h"

uint32_t lam_scan_lanes(const struct lam_scan *scan)
{
    uint64_t n, idle;

    if (scan->n_lanes < 2 || scan->n_transit <= scan->n_lanes)
        return 1;
    n = scan->n_transit - (scan->n_lanes - 1); /* are read in a pass, through one lane */
    idle = scan->step_bytes > scan->early_bytes ? scan->step_bytes - scan->early_bytes : 0;
    if (scan->n_units * scan->step_bytes > (n + 1) * scan->slot_bytes)
        return scan->n_lanes;
    return n * (scan->slot_bytes + idle) > (n + 1) * scan->slot_bytes ? 2 : 1;
}

static struct lam_scan scan_of(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes)
{
    struct lam_scan scan = {.n_lanes = pool->n_lanes,
        .slot_bytes = pool->slot_bytes,
        .early_bytes = pool->early_bytes,
        .step_bytes = step_bytes};

    for (uint32_t u = 0; u < table->n_units; u++) {
        if (cycle != NULL && !cycle[u])
            continue;
        scan.n_units++;
        scan.n_transit += !kept[u];
    }
    return scan;
}

uint64_t lam_scan_disk_bytes(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes)
{
    struct lam_scan scan = scan_of(table, pool, kept, cycle, step_bytes);
    uint32_t n_rest = pool->n_lanes - lam_scan_lanes(&scan);
    bool part = pool->part_bytes > 0; /* of the first unit that streams for anybody */
    uint64_t bytes = 0;

    if (scan.n_transit <= scan.n_lanes)
        return 0; /* each has a lane */
    for (uint32_t u = 0; u < table->n_units; u++) {
        bool here = cycle == NULL || cycle[u];

        if (kept[u])
            continue;
        if (here && part)
            bytes += table->windows[u] - pool->part_bytes;
        else if (here && n_rest > 0)
            n_rest--;
        else if (here)
            bytes += table->windows[u];
        part = false;
    }
    return bytes;
}

uint64_t lam_scan_saved_bytes(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, uint64_t step_bytes)
{
    struct lam_scan scan = scan_of(table, pool, kept, NULL, step_bytes);
    uint64_t least = UINT64_MAX;

    for (uint32_t u = 0; u < table->n_units; u++)
        if (!kept[u] && table->windows[u] < least)
            least = table->windows[u];
    return scan.n_transit > 0 ? (pool->n_lanes - lam_scan_lanes(&scan)) * least : 0;
}
