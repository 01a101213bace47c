/*
 * plan_pool: which budget the loader is to be given, and what a pass reads with it. What the loader
 * makes of one is model/kept.h and model/scan.h.
 *
 * A few bytes more can make those rules keep less (one more slot), or spread the kept units
 * otherwise, so that devices hold others. So a plan tries budgets on a grid that depends on the
 * model alone and takes the best: with more memory there are more of them to choose from.
 *
 * The embedding table comes behind all of that, and takes nothing from it.
 */
#include "common/size.h"
#include "model/plan_impl.h"
#include "model/scan.h"

/* Far beyond any unit, and far from an overflow when it is counted for each. */
#define STEP_BYTES_MAX ((uint64_t)1 << 40)

uint32_t lam_pool_budgets(
    const struct lam_kept_table *table, uint64_t ram_bytes, uint32_t n_steps, uint64_t *budgets)
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

void lam_pool_add_table(const struct lam_plan_request *request, const struct lam_kept_table *table,
    uint64_t ram_bytes, struct lam_plan_pool *pool)
{
    uint64_t bytes = lam_kept_embedding_bytes(request->manifest, table->align);

    if (pool->n_kept < table->n_units || bytes > ram_bytes - pool->budget_bytes)
        return;
    pool->table_bytes = bytes;
    pool->budget_bytes += bytes;
    pool->pool_bytes += bytes;
}

void lam_pool_choose(const struct lam_kept_table *table, uint64_t budget_bytes, bool *kept,
    struct lam_plan_pool *pool)
{
    struct lam_kept it;

    lam_kept_choose(table, budget_bytes, LAM_KEPT_LANES_WANTED, kept, &it);
    *pool = (struct lam_plan_pool){.budget_bytes = budget_bytes,
        .pool_bytes = it.pool_bytes,
        .slot_bytes = it.slot_bytes,
        .n_lanes = it.n_lanes,
        .lane_bytes = it.slot_bytes + it.early_bytes,
        .part_bytes = it.part_bytes,
        .n_ahead = it.n_ahead,
        .n_kept = it.n_kept};
}

/* The pool's side of model/scan.h. */
static struct lam_kept kept_of(const struct lam_plan_pool *pool)
{
    return (struct lam_kept){.n_lanes = pool->n_lanes,
        .slot_bytes = pool->slot_bytes,
        .early_bytes = pool->lane_bytes - pool->slot_bytes,
        .part_bytes = pool->part_bytes,
        .n_ahead = pool->n_ahead,
        .n_kept = pool->n_kept,
        .pool_bytes = pool->pool_bytes};
}

uint64_t lam_pool_unkept_bytes(
    const struct lam_kept_table *table, const bool *kept, const bool *cycle)
{
    uint64_t bytes = 0;

    for (uint32_t u = 0; u < table->n_units; u++)
        bytes += (cycle == NULL || cycle[u]) && !kept[u] ? table->windows[u] : 0;
    return bytes;
}

uint64_t lam_pool_disk_bytes(const struct lam_kept_table *table, const struct lam_plan_pool *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes)
{
    struct lam_kept it = kept_of(pool);

    return lam_scan_disk_bytes(table, &it, kept, cycle, step_bytes);
}

uint64_t lam_pool_saved_bytes(const struct lam_kept_table *table, const struct lam_plan_pool *pool,
    const bool *kept, uint64_t step_bytes)
{
    struct lam_kept it = kept_of(pool);

    return lam_scan_saved_bytes(table, &it, kept, step_bytes);
}

uint64_t lam_pool_step_bytes(const struct lam_plan_request *request, uint64_t work_ns)
{
    double step_seconds = (double)work_ns / 1e9 / request->manifest->n_units;
    double bytes = step_seconds * request->host.disk_rate;

    return bytes < STEP_BYTES_MAX ? (uint64_t)bytes : STEP_BYTES_MAX;
}
