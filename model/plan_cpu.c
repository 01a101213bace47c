/*
 * plan_cpu: a plan for one CPU, which computes in the loader's pool: no link, no slots of its own,
 * and one memory for everything: --ram is pool, arena and context together, the pool counted once.
 */
#include <math.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

static uint64_t max_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void lay_out(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, struct lam_plan_arena *arena)
{
    lam_plan_lay_out(request, settings, true, request->spec->n_layers, 0, 0, 0, arena);
    arena->used = true;
    arena->n_layers = request->spec->n_layers;
    arena->context_bytes = request->devices[0].context_bytes;
    arena->total_bytes = arena->context_bytes + arena->arena_bytes;
}

uint64_t lam_plan_cpu_bytes(
    const struct lam_plan_request *request, const struct lam_plan_settings *settings)
{
    struct lam_plan_arena arena = {0};

    lay_out(request, settings, &arena);
    return arena.total_bytes;
}

struct chosen {
    uint64_t budget;
    uint64_t disk_bytes;
    double share; /* lam_kept_drives_share */
};

/* The budget that takes the disk least time; of equal ones the first, which keeps most. */
static bool choose_budget(const struct lam_kept_table *table, uint64_t ram_bytes,
    uint64_t step_bytes, bool *kept, struct chosen *ret_chosen)
{
    uint64_t *budgets = lam_calloc(LAM_POOL_STEPS_CPU + 2, sizeof *budgets);
    struct lam_plan_pool pool;
    double least = INFINITY;
    uint32_t n;

    if (!budgets)
        return false;
    n = lam_pool_budgets(table, ram_bytes, LAM_POOL_STEPS_CPU, budgets);
    for (uint32_t i = 0; i < n; i++) {
        struct chosen it = {.budget = budgets[i]};
        lam_pool_choose(table, it.budget, kept, &pool);
        it.disk_bytes = lam_pool_disk_bytes(table, &pool, kept, NULL, step_bytes);
        it.share = lam_kept_drives_share(table, pool.n_ahead, it.disk_bytes);
        if ((double)it.disk_bytes * it.share >= least)
            continue;
        least = (double)it.disk_bytes * it.share;
        *ret_chosen = it;
    }
    lam_free(budgets);
    return true;
}

/* Rows of a batch share the weights; arithmetic grows with them. */
static uint64_t compute_ns_of(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *units)
{
    struct lam_plan_sizes sizes = lam_plan_sizes(request, settings);
    double weights = (double)units->bytes;
    double kv = (double)sizes.kv_layer_bytes / 2 * request->spec->n_layers;
    double flops = 2 * weights * units->weights_per_byte * settings->n_seqs;

    return max_of(lam_plan_ns(weights + kv, request->host.memory_rate),
        lam_plan_ns(flops, request->devices[0].flop_rate));
}

bool lam_plan_build_cpu(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *units,
    const struct lam_kept_table *table, struct lam_plan *plan)
{
    struct lam_plan_arena *arena = &plan->arenas[0];
    uint64_t compute_ns = compute_ns_of(request, settings, units);
    struct chosen chosen = {0};
    uint64_t disk_ns;

    lam_plan_fill_settings(request, settings, units, plan);
    lay_out(request, settings, arena);
    arena->minimum_bytes = arena->total_bytes + table->slot_bytes;
    if (!lam_plan_take_tables(units, plan) ||
        !choose_budget(table, request->host.ram_bytes - arena->total_bytes,
            lam_pool_step_bytes(request, compute_ns), plan->pool.kept, &chosen))
        return false;
    plan->fits = true;
    lam_plan_fill_pool(table, chosen.budget, plan);
    lam_pool_add_table(request, table, request->host.ram_bytes - arena->total_bytes, &plan->pool);
    plan->pool.unkept_bytes = lam_pool_unkept_bytes(table, plan->pool.kept, NULL);
    plan->pool.disk_bytes = chosen.disk_bytes;
    for (uint32_t p = 0; p < plan->n_pieces; p++)
        plan->pieces[p].tier = plan->pool.kept[plan->pieces[p].unit] ? LAM_TIER_RAM : LAM_TIER_DISK;
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        plan->layers[l].kv_index = l;
        arena->n_layers_resident += plan->pool.kept[l]; /* unit l is layer l */
    }
    disk_ns = lam_plan_disk_ns(request, chosen.share, chosen.disk_bytes, 0);
    arena->compute_seconds = (double)compute_ns / 1e9;
    plan->bound = disk_ns > compute_ns ? LAM_BOUND_DISK : LAM_BOUND_COMPUTE;
    plan->pass_seconds = (double)max_of(max_of(disk_ns, compute_ns), 1) / 1e9;
    plan->tokens_per_second = plan->n_seqs / plan->pass_seconds;
    return true;
}
