/*
 * plan_build: a choice written out: the arena of each device, tier and place of each piece, the
 * loader's pool, the times.
 */
#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

/* A worker's rows to the next one: two messages on open streams. */
#define HOP_NS 150000u
/* From the logits of a pass to the first kernel of the next one: sampling, the gateway's turn, the
 * embedding row of the new token. Copies go on meanwhile. */
#define STEP_NS 400000u
/* ... of it the row: a question to the loader. */
#define ROW_NS 280000u

uint64_t lam_plan_disk_ns(
    const struct lam_plan_request *request, double drives_share, uint64_t to_read, uint64_t saved)
{
    double bytes = to_read > saved ? (double)(to_read - saved) * drives_share : 0;

    return lam_plan_ns(bytes, request->host.disk_rate);
}

static uint64_t max_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Rows travel between devices after every layer when these are dealt, else once per device. */
static uint64_t hops_ns(const struct lam_problem *problem, const struct lam_split *split)
{
    uint32_t n_used = 0;

    if (problem->dealt)
        return (uint64_t)HOP_NS * problem->request->spec->n_layers;
    for (uint32_t d = 0; d < problem->n_active; d++)
        n_used += split->at[d + 1] > split->at[d];
    return n_used > 1 ? (uint64_t)HOP_NS * n_used : 0;
}

/* Devices compute one after the other. Bytes are summed before they become time, so that the sum
 * does not depend on the split when devices are equally fast. */
static uint64_t compute_ns(const struct lam_problem *problem, const struct lam_split *split)
{
    struct lam_work work[LAM_PLAN_DEVICES_MAX] = {0};
    uint64_t sum = 0;

    for (uint32_t d = 0; d < problem->n_active; d++) {
        const struct lam_plan_device *device = &problem->request->devices[problem->active[d]];
        uint32_t like = 0;
        for (; like < d; like++) {
            const struct lam_plan_device *other = &problem->request->devices[problem->active[like]];
            if (lam_work_alike(device, other))
                break;
        }
        lam_work_add(&work[like], problem, split->at[d], split->at[d + 1]);
    }
    for (uint32_t d = 0; d < problem->n_active; d++)
        sum += lam_work_ns(&work[d], problem, &problem->request->devices[problem->active[d]]);
    return sum;
}

/* With ranges, a device waits for its own link in its turn. */
static uint64_t ranges_ns(struct lam_problem *problem, const struct lam_split *split)
{
    uint64_t sum = 0;

    for (uint32_t d = 0; d < problem->n_active; d++) {
        struct lam_work work = {0};
        const struct lam_plan_device *device = &problem->request->devices[problem->active[d]];
        lam_work_add(&work, problem, split->at[d], split->at[d + 1]);
        sum += max_of(lam_share_of(problem, d, split->at[d], split->at[d + 1], NULL).link_ns,
            lam_work_ns(&work, problem, device));
    }
    return sum;
}

/* What happens one after the other. */
static uint64_t serial_ns(struct lam_problem *problem, const struct lam_split *split)
{
    return compute_ns(problem, split) + hops_ns(problem, split) + STEP_NS;
}

uint64_t lam_plan_pass_ns(
    struct lam_problem *problem, const struct lam_split *split, uint64_t disk_ns)
{
    bool in_turn = problem->n_active > 1 && !problem->dealt && split->link_ns > 0;
    uint64_t serial = in_turn ? ranges_ns(problem, split) + hops_ns(problem, split) + STEP_NS
                              : serial_ns(problem, split);

    return max_of(disk_ns, max_of(split->link_ns, serial));
}

void lam_plan_fill_settings(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *cutting,
    struct lam_plan *plan)
{
    struct lam_plan_sizes sizes = lam_plan_sizes(request, settings);

    plan->n_ctx = settings->n_ctx;
    plan->n_seqs = settings->n_seqs;
    plan->prefill_chunk = settings->prefill_chunk;
    plan->kv_dtype = settings->kv_dtype;
    plan->layer_batch = settings->layer_batch > 0 ? settings->layer_batch : 1;
    if (cutting->groups)
        plan->layer_batch = 0;
    plan->n_logit_rows = sizes.n_logit_rows;
    plan->page_tokens = sizes.page_tokens;
    plan->n_pages = sizes.n_pages;
    plan->kv_page_bytes = sizes.kv_page_bytes;
    plan->n_devices = request->n_devices;
    plan->n_units = request->manifest->n_units;
    plan->n_layers = request->spec->n_layers;
}

/* The tables of a plan, with what the cutting says of each piece. */
bool lam_plan_take_tables(const struct lam_cutting *cutting, struct lam_plan *plan)
{
    plan->n_pieces = cutting->n_pieces;
    plan->pieces = lam_calloc(plan->n_pieces, sizeof *plan->pieces);
    plan->layers = lam_calloc(plan->n_layers, sizeof *plan->layers);
    plan->pool.kept = lam_calloc(plan->n_units, sizeof *plan->pool.kept);
    plan->pool.offsets = lam_calloc(plan->n_units, sizeof *plan->pool.offsets);
    if (!plan->pieces || !plan->layers || !plan->pool.kept || !plan->pool.offsets)
        return false;
    memcpy(plan->pieces, cutting->pieces, plan->n_pieces * sizeof *plan->pieces);
    return true;
}

/* The pool of a budget, in the tables that the plan already has. */
void lam_plan_fill_pool(const struct lam_kept_table *table, uint64_t budget, struct lam_plan *plan)
{
    bool *kept = plan->pool.kept;
    uint64_t *offsets = plan->pool.offsets;
    uint64_t at;

    lam_pool_choose(table, budget, kept, &plan->pool);
    plan->pool.kept = kept;
    plan->pool.offsets = offsets;
    at = plan->pool.n_lanes * plan->pool.lane_bytes + plan->pool.part_bytes +
         plan->pool.n_ahead * plan->pool.slot_bytes;
    for (uint32_t u = 0; u < plan->n_units; u++) {
        if (!kept[u])
            continue;
        offsets[u] = at;
        at += table->windows[u];
    }
    assert(at == plan->pool.pool_bytes);
}

/* Marks what is resident, and on which device each piece is. resident: [n_cells]. */
static void fill_tiers(struct lam_problem *problem, const struct lam_split *split, bool *resident,
    struct lam_plan *plan)
{
    for (uint32_t d = 0; d < problem->n_active; d++) {
        uint32_t begin = problem->cuts[split->at[d]];
        uint32_t end = problem->cuts[split->at[d + 1]];
        struct lam_plan_arena *arena = &plan->arenas[problem->active[d]];

        lam_share_of(problem, d, split->at[d], split->at[d + 1], resident);
        arena->used = end > begin;
        arena->minimum_bytes = lam_share_minimum(problem, d, split->at[d], split->at[d + 1]);
        for (uint32_t c = begin; c < end; c++) {
            struct lam_plan_piece *piece = &plan->pieces[problem->cells[c].piece];
            piece->device = problem->active[d];
            piece->tier = LAM_TIER_DISK;
            if (resident[c])
                piece->tier = LAM_TIER_DEVICE;
            else if (plan->pool.kept[piece->unit])
                piece->tier = LAM_TIER_RAM;
        }
    }
}

/* An arena with everything else of its device, and this much for the embedding table. Returns
 * whether it is within the cap. */
static bool lay_out_arena(const struct lam_problem *problem, uint32_t device, bool has_head,
    uint64_t resident_bytes, uint64_t embedding_bytes, struct lam_plan_arena *arena)
{
    const struct lam_plan_device *facts = &problem->request->devices[device];

    lam_plan_lay_out(problem->request, problem->settings, has_head, arena->n_layers,
        arena->n_slots * arena->slot_bytes, resident_bytes, embedding_bytes, arena);
    arena->context_bytes = facts->context_bytes;
    arena->total_bytes = arena->context_bytes + arena->arena_bytes;
    return arena->total_bytes <= facts->cap_bytes;
}

/* The embedding table comes last: only a device that holds all else has use for it. With several
 * devices its room would depend on which layers the first one takes: more memory could cost it. */
static uint64_t embedding_bytes(const struct lam_plan_request *request, bool all_resident)
{
    if (!all_resident || request->n_devices > 1 || request->spec->tied_head)
        return 0;
    return request->manifest->embedding.bytes;
}

/* The region sizes of each device, from the tiers. */
static void lay_out_arenas(
    struct lam_problem *problem, const struct lam_split *split, struct lam_plan *plan)
{
    for (uint32_t d = 0; d < problem->n_active; d++) {
        uint32_t device = problem->active[d];
        struct lam_plan_arena *arena = &plan->arenas[device];
        uint32_t begin = problem->cuts[split->at[d]];
        uint32_t end = problem->cuts[split->at[d + 1]];
        uint64_t resident = 0, all = problem->bytes_before[end] - problem->bytes_before[begin];
        uint64_t embedding;
        bool has_head = end == problem->n_cells;
        bool within;

        if (!arena->used)
            continue;
        for (uint32_t c = begin; c < end; c++)
            if (plan->pieces[problem->cells[c].piece].tier == LAM_TIER_DEVICE)
                resident += problem->cells[c].bytes;
        arena->n_layers = problem->kv_before[end] - problem->kv_before[begin];
        arena->n_slots = resident < all ? problem->n_slots : 0;
        arena->slot_bytes = resident < all ? problem->slot_bytes : 0;
        embedding = embedding_bytes(problem->request, resident == all);
        within = lay_out_arena(problem, device, has_head, resident, embedding, arena);
        if (!within && embedding > 0)
            within = lay_out_arena(problem, device, has_head, resident, 0, arena);
        assert(within);
    }
}

/* Residents lie one after the other; the others are counted. */
static void place_pieces(struct lam_plan *plan)
{
    uint64_t at[LAM_PLAN_DEVICES_MAX];

    for (uint32_t d = 0; d < plan->n_devices; d++)
        at[d] = plan->arenas[d].regions[LAM_REGION_RESIDENT].offset;
    for (uint32_t p = 0; p < plan->n_pieces; p++) {
        struct lam_plan_piece *piece = &plan->pieces[p];
        struct lam_plan_arena *arena = &plan->arenas[piece->device];
        if (piece->tier == LAM_TIER_DEVICE) {
            piece->offset = at[piece->device];
            at[piece->device] += piece->device_bytes;
            continue;
        }
        arena->n_streamed++;
        arena->streamed_bytes += piece->bytes;
        assert(piece->device_bytes <= arena->slot_bytes);
    }
}

/* Which KV is where, and which layers are resident. */
static void fill_layers(
    const struct lam_cutting *cutting, const struct lam_manifest *manifest, struct lam_plan *plan)
{
    uint32_t n_kv[LAM_PLAN_DEVICES_MAX] = {0};

    for (uint32_t u = 0; u < manifest->n_units; u++) {
        const struct lam_plan_piece *first = &plan->pieces[cutting->first[u]];
        bool resident = true;
        if (manifest->units[u].kind != LAM_UNIT_LAYER)
            continue;
        plan->layers[manifest->units[u].layer] =
            (struct lam_plan_layer){first->device, n_kv[first->device]++};
        for (uint32_t p = cutting->first[u]; p < cutting->first[u + 1]; p++)
            if (plan->pieces[p].device == first->device && plan->pieces[p].tier != LAM_TIER_DEVICE)
                resident = false;
        plan->arenas[first->device].n_layers_resident += resident;
    }
}

/* A unit that one device holds whole is not asked for. cycle: [n_units], the others. */
static void fill_cycle(const struct lam_cutting *cutting, const struct lam_plan *plan, bool *cycle)
{
    for (uint32_t u = 0; u < plan->n_units; u++) {
        cycle[u] = false;
        for (uint32_t p = cutting->first[u]; p < cutting->first[u + 1]; p++)
            if (plan->pieces[p].tier != LAM_TIER_DEVICE ||
                plan->pieces[p].device != plan->pieces[cutting->first[u]].device)
                cycle[u] = true;
    }
}

/* What of the cycle RAM does not keep is read in every pass, less what a lane holds for the only
 * worker there is. */
static void fill_disk(const struct lam_problem *problem, const struct lam_kept_table *table,
    const bool *cycle, struct lam_plan *plan)
{
    struct lam_plan_pool *pool = &plan->pool;

    pool->unkept_bytes = lam_pool_unkept_bytes(table, pool->kept, cycle);
    pool->disk_bytes = pool->unkept_bytes;
    if (problem->step_bytes < UINT64_MAX)
        pool->disk_bytes = lam_pool_disk_bytes(table, pool, pool->kept, cycle, problem->step_bytes);
}

static bool has_embedding(const struct lam_plan *plan)
{
    return plan->arenas[0].regions[LAM_REGION_EMBEDDING].bytes > 0;
}

/* No row of the embedding is asked of the loader. */
static bool has_rows(const struct lam_plan_request *request, const struct lam_choice *choice,
    const struct lam_plan *plan)
{
    return request->n_devices == 1 && choice->all_resident &&
           (request->spec->tied_head || has_embedding(plan) || plan->pool.table_bytes > 0);
}

static void fill_times(
    struct lam_problem *problem, const struct lam_choice *choice, struct lam_plan *plan)
{
    bool in_turn = problem->n_active > 1 && !problem->dealt;
    uint64_t disk_ns =
        lam_plan_disk_ns(problem->request, problem->drives_share, choice->disk_bytes, 0);
    uint64_t link_ns = 0, worst_ns = 0;
    uint64_t alone_ns = serial_ns(problem, &choice->split);

    for (uint32_t d = 0; d < problem->n_active; d++) {
        struct lam_plan_arena *arena = &plan->arenas[problem->active[d]];
        struct lam_work work = {0};
        uint32_t a = choice->split.at[d];
        uint32_t b = choice->split.at[d + 1];
        uint64_t link = lam_share_of(problem, d, a, b, NULL).link_ns;
        lam_work_add(&work, problem, a, b);
        arena->link_seconds = (double)link / 1e9;
        arena->compute_seconds =
            (double)lam_work_ns(&work, problem, &problem->request->devices[problem->active[d]]) /
            1e9;
        if (link > worst_ns)
            plan->bound_device = problem->active[d];
        worst_ns = max_of(worst_ns, link);
        link_ns = in_turn ? link_ns + link : worst_ns;
    }
    plan->pass_seconds = (double)max_of(choice->pass_ns, 1) / 1e9;
    if (has_rows(problem->request, choice, plan)) /* and STEP_NS is in its pass */
        plan->pass_seconds -= (double)ROW_NS / 1e9;
    plan->tokens_per_second = plan->n_seqs / plan->pass_seconds;
    plan->bound = LAM_BOUND_COMPUTE;
    if (disk_ns > alone_ns && disk_ns >= link_ns)
        plan->bound = LAM_BOUND_DISK;
    else if (link_ns > alone_ns)
        plan->bound = problem->host_bound ? LAM_BOUND_HOST_MEMORY : LAM_BOUND_LINK;
}

bool lam_plan_build(struct lam_problem *problem, const struct lam_choice *choice,
    const struct lam_kept_table *table, struct lam_plan *plan)
{
    bool *marks = lam_calloc(problem->n_cells, sizeof *marks); /* of cells, then of units */

    lam_plan_fill_settings(problem->request, problem->settings, problem->cutting, plan);
    if (!marks || !lam_plan_take_tables(problem->cutting, plan)) {
        lam_free(marks);
        return false;
    }
    plan->fits = true;
    plan->dealt = problem->dealt;
    lam_plan_fill_pool(table, choice->pool_budget, plan);
    fill_tiers(problem, &choice->split, marks, plan);
    lay_out_arenas(problem, &choice->split, plan);
    if (!has_embedding(plan))
        lam_pool_add_table(problem->request, table, problem->request->host.ram_bytes, &plan->pool);
    place_pieces(plan);
    fill_layers(problem->cutting, problem->request->manifest, plan);
    fill_cycle(problem->cutting, plan, marks);
    if (!choice->all_resident)
        fill_disk(problem, table, marks, plan);
    fill_times(problem, choice, plan);
    lam_free(marks);
    return true;
}
