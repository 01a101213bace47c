/* scan: see the header. */
#include "model/scan.h"

#include <math.h>

/* Each change of lanes displaces what lay in them, so a pass has to gain something by more of them:
 * this part of it, and the time in which this part of a unit is read. */
#define GAIN_OF_PASS_MIN 0.05
#define GAIN_OF_UNIT_MIN 0.5

/*
 * How long a pass takes through one lane: from the release of a unit the drive needs a slot's bytes
 * until the next is there, less what it read early; the session comes to that one a stride later.
 * Strides are spread evenly, and longer where the unit between lies in a resting lane. A part that
 * is kept hardly shortens it, since the drive comes to what is missing of that unit no earlier.
 */
static double one_lane_pass(const struct lam_scan *scan, uint32_t n_read)
{
    double step = (double)scan->step_bytes;
    double idle = step > (double)scan->early_bytes ? step - (double)scan->early_bytes : 0;
    double read = (double)scan->slot_bytes + idle;
    double n_far = scan->n_units % scan->n_transit;
    double near = scan->n_units / scan->n_transit;
    double mean = (fmax(near * step, read) * (scan->n_transit - n_far) +
                      fmax((near + 1) * step, read) * n_far) /
                  scan->n_transit;
    uint32_t n_rest = scan->n_transit - n_read;
    uint32_t n_long = n_rest < n_read ? n_rest : n_read;
    double strides = 1 + (double)n_rest / n_long; /* of a long one */

    return (n_read - n_long) * mean +
           n_long * fmax(strides * scan->n_units / scan->n_transit * step, read);
}

uint32_t lam_scan_lanes(const struct lam_scan *scan)
{
    double compute = (double)scan->n_units * (double)scan->step_bytes;
    uint32_t n_read; /* in a pass, through one lane */
    double read;     /* through two */
    double few;      /* a pass through one that takes no longer is not worth a second */

    if (scan->n_lanes < 2 || scan->n_transit <= scan->n_lanes)
        return 1;
    n_read = scan->n_transit - (scan->n_lanes - 1);
    read = (n_read + 1.0) * (double)scan->slot_bytes - (double)scan->part_bytes;
    few = fmax(compute, read);
    few += fmax(few * GAIN_OF_PASS_MIN, (double)scan->slot_bytes * GAIN_OF_UNIT_MIN);
    if (scan->step_bytes <= scan->slot_bytes && one_lane_pass(scan, n_read) <= few)
        return 1;
    return compute > read ? scan->n_lanes : 2;
}

static struct lam_scan scan_of(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes)
{
    struct lam_scan scan = {.n_lanes = pool->n_lanes,
        .slot_bytes = pool->slot_bytes,
        .early_bytes = pool->early_bytes,
        .part_bytes = pool->part_bytes,
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
