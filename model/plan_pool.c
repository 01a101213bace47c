/*
 * plan_pool: what a loader will do with its memory, by the rules of loader/policy.c and in the same
 * arithmetic: places are the aligned windows of units; unless all fit, up to three lanes, each for
 * the largest unit and a piece of the next; the largest evenly spread set that fits is kept, then
 * each smaller unit that fits beside it, then the end of one. tests/unit/model/plan_pool_test.c
 * holds the two against each other, byte for byte. The kept end of a unit is not credited: it is
 * less than a unit in a pass.
 *
 * A few bytes more can make those rules keep less (one more slot), or spread the kept units
 * otherwise, so that devices hold others. So a plan tries budgets on a grid that depends on the
 * model alone and takes the best: with more memory there are more of them to choose from.
 */
#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

#define LANES_WANTED 3u
#define EARLY_BYTES_MAX (32 * LAM_MIB)
#define PART_ALIGNS_MIN 16u

bool lam_pool_table_init(
    struct lam_pool_table *table, const struct lam_manifest *manifest, uint64_t align)
{
    uint32_t n = manifest->n_units;

    *table = (struct lam_pool_table){.n_units = n, .align = align};
    table->windows = lam_calloc(n, sizeof *table->windows);
    table->spread = lam_calloc((size_t)n + 1, sizeof *table->spread);
    if (!table->windows || !table->spread) {
        lam_pool_table_done(table);
        return false;
    }
    for (uint32_t u = 0; u < n; u++) {
        const struct lam_unit *unit = &manifest->units[u];
        uint64_t bytes = lam_align_up(unit->file_offset + unit->bytes, align) -
                         lam_align_down(unit->file_offset, align);
        table->windows[u] = bytes;
        table->full_bytes += bytes;
        table->slot_bytes = bytes > table->slot_bytes ? bytes : table->slot_bytes;
    }
    /* The j-th of k units that are spread evenly over n is the last of its share. */
    for (uint32_t k = 1; k <= n; k++)
        for (uint32_t j = 1; j <= k; j++)
            table->spread[k] += table->windows[((uint64_t)j * n + k - 1) / k - 1];
    return true;
}

void lam_pool_table_done(struct lam_pool_table *table)
{
    lam_free(table->windows);
    lam_free(table->spread);
    memset(table, 0, sizeof *table);
}

uint32_t lam_pool_budgets(
    const struct lam_pool_table *table, uint64_t ram_bytes, uint32_t n_steps, uint64_t *budgets)
{
    uint64_t step = lam_align_up(table->full_bytes / n_steps + 1, table->align);
    uint32_t n = 0;

    if (table->full_bytes <= ram_bytes) {
        budgets[0] = table->full_bytes; /* nothing is better than reading nothing */
        return 1;
    }
    for (uint64_t budget = ram_bytes / step * step; budget > table->slot_bytes; budget -= step)
        budgets[n++] = budget;
    if (table->slot_bytes <= ram_bytes)
        budgets[n++] = table->slot_bytes;
    return n;
}

/* early_bytes of loader/policy.c: how much of the next unit a lane takes ahead. */
static uint64_t early_bytes(
    const struct lam_pool_table *table, uint32_t n_lanes, uint64_t budget_bytes)
{
    uint64_t slot = table->slot_bytes;
    uint64_t uneven = LANES_WANTED * (slot - table->full_bytes / table->n_units);
    uint64_t allowed = table->full_bytes / 1000 * 9;
    uint64_t left = (budget_bytes - n_lanes * slot) / n_lanes;
    uint64_t bytes = table->full_bytes / 1000;

    if (allowed > uneven + LANES_WANTED * bytes)
        bytes = (allowed - uneven) / LANES_WANTED;
    if (n_lanes == 1)
        bytes = left < slot ? left : slot;
    else if (bytes > EARLY_BYTES_MAX)
        bytes = EARLY_BYTES_MAX;
    return lam_align_down(bytes < left ? bytes : left, table->align);
}

/* Marks the kept units; returns what is left of rest_bytes. */
static uint64_t choose_kept(
    const struct lam_pool_table *table, uint64_t rest_bytes, bool *kept, struct lam_plan_pool *pool)
{
    uint32_t n = table->n_units;
    uint32_t k = n;

    while (table->spread[k] > rest_bytes)
        k--;
    rest_bytes -= table->spread[k];
    for (uint32_t u = 0; u < n; u++) {
        kept[u] = (uint64_t)(u + 1) * k / n > (uint64_t)u * k / n;
        if (!kept[u] && table->windows[u] <= rest_bytes) {
            kept[u] = true;
            rest_bytes -= table->windows[u];
        }
        pool->n_kept += kept[u];
        pool->pool_bytes += kept[u] ? table->windows[u] : 0;
    }
    return rest_bytes;
}

void lam_pool_choose(const struct lam_pool_table *table, uint64_t budget_bytes, bool *kept,
    struct lam_plan_pool *pool)
{
    uint32_t n = table->n_units;
    uint64_t rest = budget_bytes;

    *pool = (struct lam_plan_pool){.budget_bytes = budget_bytes};
    if (table->full_bytes > budget_bytes) {
        uint64_t fit = budget_bytes / table->slot_bytes;
        assert(fit > 0);
        pool->n_lanes = fit < LANES_WANTED ? (uint32_t)fit : LANES_WANTED;
        pool->slot_bytes = table->slot_bytes;
        pool->lane_bytes = table->slot_bytes + early_bytes(table, pool->n_lanes, budget_bytes);
        rest -= pool->n_lanes * pool->lane_bytes;
    }
    rest = choose_kept(table, rest, kept, pool);
    if (pool->n_lanes > n - pool->n_kept)
        pool->n_lanes = n - pool->n_kept;
    if (rest >= PART_ALIGNS_MIN * table->align && n - pool->n_kept > pool->n_lanes)
        pool->part_bytes = lam_align_down(rest, table->align);
    pool->pool_bytes += pool->n_lanes * pool->lane_bytes + pool->part_bytes;
}
