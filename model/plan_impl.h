/*
 * plan_impl: what the files of the planner share. Reading order: plan_pieces (how units are cut),
 * plan_size (what a device needs beside weights), plan_pool (the loader's side), plan_cells (the
 * order of pieces), plan_share (what one device does with a range), plan_split (ranges for all
 * devices), plan_build (the result in full), plan_cpu (the same for a CPU), plan_lever (what to
 * change), plan (the search).
 *
 * Times are whole nanoseconds and weights are counted as they are padded on a device, in one
 * measure everywhere: comparisons are then exact, and "never slower" needs no tolerance.
 */
#ifndef LAMINAR_MODEL_PLAN_IMPL_H
#define LAMINAR_MODEL_PLAN_IMPL_H

#include "model/kept.h"
#include "model/plan.h"

#define LAM_PLAN_CTX_DEFAULT_MAX 8192u
#define LAM_PLAN_CTX_LEAST 512u
#define LAM_PLAN_CHUNK_LEAST 128u

/* The request with every default filled in. */
struct lam_plan_settings {
    uint32_t n_ctx;
    uint32_t n_seqs;
    uint32_t prefill_chunk;
    uint32_t layer_batch;
    enum lam_dtype kv_dtype;
};

/* ---- plan_pieces */

/* The model in pieces, cut in one of the two ways. */
struct lam_cutting {
    bool groups; /* tensor groups; else whole units */
    uint32_t n_pieces;
    struct lam_plan_piece *pieces; /* in pass order; tier, device, offset and load not yet set */
    uint32_t *first;               /* [n_units + 1]: pieces of unit u are first[u] .. first[u+1] */
    uint64_t piece_bytes_max;
    uint64_t bytes;    /* of all pieces, padded */
    double copy_bytes; /* of an average copy */
    double weights_per_byte;
};

/* False: no memory. */
LAM_MUST_USE bool lam_cutting_init(
    struct lam_cutting *cutting, const struct lam_manifest *manifest, bool groups);
void lam_cutting_done(struct lam_cutting *cutting);

/* Speed of a link for the copies of this cutting. */
double lam_cutting_rate(const struct lam_cutting *cutting, double link_rate);

/* ---- plan_size */

/* What a device holds beside weights and slots. */
struct lam_plan_sizes {
    uint64_t base_bytes; /* workspace, activations, tables */
    uint64_t head_bytes; /* logits, on the device that has the head */
    uint64_t kv_layer_bytes;
    uint32_t n_logit_rows;
    uint32_t page_tokens;
    uint32_t n_pages;
    uint64_t kv_page_bytes;
};

struct lam_plan_sizes lam_plan_sizes(
    const struct lam_plan_request *request, const struct lam_plan_settings *settings);

/* Lays out an arena: everything but total, minimum and the counters. */
void lam_plan_lay_out(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, bool has_head, uint32_t n_kv_layers,
    uint64_t slots_bytes, uint64_t resident_bytes, uint64_t embedding_bytes,
    struct lam_plan_arena *arena);

/* ---- plan_pool */

#define LAM_POOL_STEPS 128u /* of the grid, where splits are tried for each */
#define LAM_POOL_STEPS_CPU 1024u

/* Budgets worth trying, largest first: a grid of n_steps up to the whole model, below ram_bytes.
 * Returns how many; budgets: [n_steps + 2]. None: not even a slot fits. */
uint32_t lam_pool_budgets(
    const struct lam_kept_table *table, uint64_t ram_bytes, uint32_t n_steps, uint64_t *budgets);

/* What the loader keeps with this budget; slot_bytes <= budget_bytes. kept: [n_units]. */
void lam_pool_choose(const struct lam_kept_table *table, uint64_t budget_bytes, bool *kept,
    struct lam_plan_pool *pool);

/* Adds the embedding table to a pool that keeps all units, if ram_bytes are enough for both. */
void lam_pool_add_table(const struct lam_plan_request *request, const struct lam_kept_table *table,
    uint64_t ram_bytes, struct lam_plan_pool *pool);

/* How many bytes the disk reads while a device works on one unit, if all units take work_ns. */
uint64_t lam_pool_step_bytes(const struct lam_plan_request *request, uint64_t work_ns);

/* Of the units of cycle (NULL: all) that are not kept; kept, cycle: [n_units]. */
uint64_t lam_pool_unkept_bytes(
    const struct lam_kept_table *table, const bool *kept, const bool *cycle);

/* Of these, what a pass reads: see model/scan.h. */
uint64_t lam_pool_disk_bytes(const struct lam_kept_table *table, const struct lam_plan_pool *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes);

/* What, of any cycle's units that are not kept, is not read again for sure. */
uint64_t lam_pool_saved_bytes(const struct lam_kept_table *table, const struct lam_plan_pool *pool,
    const bool *kept, uint64_t step_bytes);

/* ---- plan_cells */

/* One piece in the order in which devices take ranges. */
struct lam_cell {
    uint32_t piece;
    uint64_t bytes;
};

/* A unit: cells begin[0] .. end[0], and begin[1] .. end[1] of a layer that is in two places. */
struct lam_entry {
    uint32_t unit;
    uint32_t begin[2];
    uint32_t end[2];
    uint64_t bytes;
    bool kept; /* in RAM: a device holds it last */
};

/* Everything about the split but the split. */
struct lam_problem {
    const struct lam_plan_request *request;
    const struct lam_plan_settings *settings;
    const struct lam_cutting *cutting;
    struct lam_plan_sizes sizes;
    bool dealt;
    uint32_t n_slots;
    uint64_t slot_bytes;
    uint32_t n_active; /* devices that may be used */
    uint32_t active[LAM_PLAN_DEVICES_MAX];
    double link_rate[LAM_PLAN_DEVICES_MAX]; /* [n_active] as it can be reached */
    bool host_bound;                        /* by host memory, not by the links */
    uint64_t step_bytes; /* lam_pool_step_bytes; several devices: UINT64_MAX, not modelled */
    double drives_share; /* lam_kept_drives_share of the budget, before devices hold anything */
    uint32_t n_cells;
    uint64_t cell_bytes_min;
    struct lam_cell *cells;
    uint64_t *bytes_before; /* [n_cells + 1] */
    uint32_t *kv_before;    /* [n_cells + 1] layers whose attention lies before */
    uint32_t n_entries;
    struct lam_entry *entries;
    uint32_t *spread; /* [n_entries] entry numbers in the order of residency */
    uint32_t *order;  /* the same with kept units last */
    bool reordered;   /* order is not spread */
    bool *taken;      /* [n_entries] scratch */
    uint32_t n_cuts;
    uint32_t *cuts;     /* [n_cuts] cells where a range may end; the first 0, the last n_cells */
    uint64_t saved_max; /* plan_split: no split saves more; 0: not yet known */
};

LAM_MUST_USE bool lam_problem_init(struct lam_problem *problem,
    const struct lam_plan_request *request, const struct lam_plan_settings *settings,
    const struct lam_cutting *cutting, bool dealt);
void lam_problem_done(struct lam_problem *problem);

/* Residents are taken from units that RAM does not keep first. Returns the padded bytes of all of
 * these. kept: [n_units]. */
uint64_t lam_problem_order(struct lam_problem *problem, const bool *kept);

/* ---- plan_share */

/* The room for residents that active device d has with cells of cuts[a] .. cuts[b]. */
struct lam_room {
    bool fits;
    bool resident; /* all of it */
    uint64_t all;  /* padded bytes of the range */
    uint64_t bytes;
};

struct lam_room lam_room_of(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b);

/*
 * What active device d does with cells of cuts[a] .. cuts[b]. link_ns is at least what it would be
 * if RAM kept everything: which units RAM keeps must not make a link look faster by chance.
 */
struct lam_share {
    bool fits;
    bool resident;     /* all of it */
    uint64_t streamed; /* padded bytes */
    uint64_t saved;    /* padded bytes of whole units that RAM does not keep and the device does */
    uint64_t link_ns;  /* of `streamed` */
};

/* resident: [n_cells], set for the cells that are resident; NULL: not wanted. */
struct lam_share lam_share_of(
    struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b, bool *resident);

/* The smallest cap with which device d can do this. */
uint64_t lam_share_minimum(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b);

/* What a device computes on in a pass. */
struct lam_work {
    uint64_t weight_bytes;
    uint64_t kv_bytes;
    uint32_t n_layers;
};

void lam_work_add(struct lam_work *work, const struct lam_problem *problem, uint32_t a, uint32_t b);
uint64_t lam_work_ns(const struct lam_work *work, const struct lam_problem *problem,
    const struct lam_plan_device *device);
bool lam_work_alike(const struct lam_plan_device *one, const struct lam_plan_device *other);

uint64_t lam_plan_ns(double bytes, double rate);

/* The disk's time for to_read less what is saved; that may be more. */
uint64_t lam_plan_disk_ns(
    const struct lam_plan_request *request, double drives_share, uint64_t to_read, uint64_t saved);

/* ---- plan_split */

/* Ranges: active device d has cuts[at[d]] .. cuts[at[d + 1]]. */
struct lam_split {
    uint32_t at[LAM_PLAN_DEVICES_MAX + 1];
    uint64_t link_ns; /* the largest */
    uint64_t saved;
};

/*
 * The split whose larger value of link time and disk time is the least, if that is below limit_ns.
 * to_read: padded bytes that a pass reads if no device holds anything. Returns 1, 0 when there is
 * none, -1 without memory.
 */
int lam_split_find(
    struct lam_problem *problem, uint64_t to_read, uint64_t limit_ns, struct lam_split *ret_split);

/* Among splits as good as this one, the one with the most even shares. False: no memory. */
LAM_MUST_USE bool lam_split_even(
    struct lam_problem *problem, uint64_t to_read, struct lam_split *split);

/* The split with everything resident, on as few devices as can be. */
LAM_MUST_USE bool lam_split_resident(struct lam_problem *problem, struct lam_split *ret_split);

/*
 * The split that leaves the tightest device the most room. Returns what that device needs at least,
 * plus by how much its cap is below the largest; ret_device: which.
 */
uint64_t lam_split_nearest(
    struct lam_problem *problem, struct lam_split *ret_split, uint32_t *ret_device);

/* ---- plan_build */

/* What the search found. */
struct lam_choice {
    bool found;
    bool all_resident;
    bool groups;
    struct lam_split split;
    uint64_t pool_budget;
    uint64_t disk_bytes; /* padded */
    uint64_t stream_ns;  /* the larger of link and disk */
    uint64_t pass_ns;
};

/* Fills the plan from a choice; problem is in the choice's order. False: no memory. */
LAM_MUST_USE bool lam_plan_build(struct lam_problem *problem, const struct lam_choice *choice,
    const struct lam_kept_table *table, struct lam_plan *plan);

/* Links, disk, computing and the ways between devices, put together. */
uint64_t lam_plan_pass_ns(
    struct lam_problem *problem, const struct lam_split *split, uint64_t disk_ns);

/* Steps of lam_plan_build that a plan for a CPU shares. */
void lam_plan_fill_settings(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *cutting,
    struct lam_plan *plan);
LAM_MUST_USE bool lam_plan_take_tables(const struct lam_cutting *cutting, struct lam_plan *plan);
void lam_plan_fill_pool(const struct lam_kept_table *table, uint64_t budget, struct lam_plan *plan);

/* ---- plan_cpu */

/* A CPU computes in the pool: RAM holds context, arena and pool. table->slot_bytes must fit. */
LAM_MUST_USE bool lam_plan_build_cpu(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *units,
    const struct lam_kept_table *table, struct lam_plan *plan);

/* Context and arena, without the pool. */
uint64_t lam_plan_cpu_bytes(
    const struct lam_plan_request *request, const struct lam_plan_settings *settings);

/* ---- plan_lever */

/* The model, cut and measured once for all that is tried. */
struct lam_plan_model {
    struct lam_cutting units;
    struct lam_cutting groups;
    struct lam_kept_table pool;
};

/*
 * The least memory that the settings need. Of several devices, of the one that is tightest in the
 * best split, shifted by how much larger the largest cap is: fits when bytes <= cap.
 */
struct lam_plan_need {
    uint64_t bytes;
    uint64_t cap;
    uint32_t device;
    bool ram_missing; /* GPU: not even one slot of the pool fits */
};

/* False: no memory. */
LAM_MUST_USE bool lam_plan_need_of(const struct lam_plan_model *model,
    const struct lam_plan_request *request, const struct lam_plan_settings *settings,
    struct lam_plan_need *ret_need);

static inline bool lam_plan_need_met(const struct lam_plan_need *need)
{
    return need->bytes <= need->cap && !need->ram_missing;
}

/* Fills plan->levers; when the plan does not fit, plan->reason and the arenas as well. settings:
 * what was reached, or where none fit the least that nobody asked to be more; before: as they were
 * at first. */
LAM_MUST_USE bool lam_plan_explain(const struct lam_plan_model *model,
    const struct lam_plan_request *request, const struct lam_plan_settings *before,
    const struct lam_plan_settings *settings, struct lam_plan *plan);

#endif
