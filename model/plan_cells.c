/*
 * plan_cells: the order in which devices take ranges of pieces, and where a range may end.
 *
 * Ranges: pass order. Dealt: layers 0, D, 2D .. then 1, D + 1 .., so that equal shares are every
 * D-th layer. Around the border between two such deals the attention of a few layers lies by
 * itself: attention is the smallest piece of a layer, so shares can be made even in small steps.
 *
 * Residents are spread evenly over the pass, so that the link is asked for bytes at a steady rate:
 * multiples of the golden ratio modulo one, cut anywhere, leave gaps of three sizes at most. The
 * head comes first, because its pieces lie together; units that RAM does not keep come before all
 * others, because they cost the disk as well.
 */
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

#define GOLDEN 2654435769u
/* Cuts are tried in pairs: a model of very many layers is cut at some of them only. */
#define CUTS_MAX 272u
#define SLOTS 2u
/* One for each group of a layer: a device loads its next layer while others compute. */
#define SLOTS_DEALT 3u
#define GROUPS 3u
#define DEAL_EDGE 8u

/* Does a layer's KV come with this piece? */
static bool has_kv(const struct lam_manifest *manifest, const struct lam_plan_piece *piece)
{
    return manifest->units[piece->unit].kind == LAM_UNIT_LAYER &&
           (piece->kind == LAM_PIECE_UNIT || piece->kind == LAM_PIECE_ATTENTION);
}

/* A range may end before any group of a layer, and before the head. Of models with more layers than
 * can be tried, before attention and feed-forward, or before every few layers. */
static bool may_cut_before(const struct lam_problem *problem, uint32_t cell)
{
    const struct lam_manifest *manifest = problem->request->manifest;
    const struct lam_plan_piece *piece = &problem->cutting->pieces[problem->cells[cell].piece];
    uint32_t n_layers = problem->request->spec->n_layers;

    if (manifest->units[piece->unit].kind == LAM_UNIT_HEAD)
        return manifest->units[piece->unit].layer == 0 && piece->row_begin == 0;
    if (piece->kind == LAM_PIECE_DOWN)
        return 3 * n_layers <= CUTS_MAX;
    if (piece->kind == LAM_PIECE_GATE_UP)
        return 2 * n_layers <= CUTS_MAX;
    return problem->kv_before[cell] % (n_layers / CUTS_MAX + 1) == 0;
}

/* Appends pieces from .. to of the entry's unit as its range number `range`. */
static void add_cells(struct lam_problem *problem, struct lam_entry *entry, uint32_t range,
    uint32_t from, uint32_t to)
{
    const struct lam_cutting *cutting = problem->cutting;
    uint32_t n = problem->n_cells;

    entry->begin[range] = n;
    for (uint32_t p = cutting->first[entry->unit] + from; p < cutting->first[entry->unit] + to;
         p++, n++) {
        const struct lam_plan_piece *piece = &cutting->pieces[p];
        problem->cells[n] = (struct lam_cell){.piece = p, .bytes = piece->device_bytes};
        problem->bytes_before[n + 1] = problem->bytes_before[n] + piece->device_bytes;
        problem->kv_before[n + 1] =
            problem->kv_before[n] + has_kv(problem->request->manifest, piece);
        entry->bytes += piece->device_bytes;
        if (piece->device_bytes < problem->cell_bytes_min)
            problem->cell_bytes_min = piece->device_bytes;
    }
    entry->end[range] = n;
    problem->n_cells = n;
}

static void add_whole(struct lam_problem *problem, struct lam_entry *entry)
{
    const uint32_t *first = problem->cutting->first;

    add_cells(problem, entry, 0, 0, first[entry->unit + 1] - first[entry->unit]);
}

/* The layers of one device's deal: at both ends attention by itself, in small steps. */
static void add_deal(struct lam_problem *problem, struct lam_entry *entries, uint32_t n)
{
    uint32_t edge = n / 2 < DEAL_EDGE ? n / 2 : DEAL_EDGE;

    for (uint32_t i = 0; i < edge; i++)
        add_cells(problem, &entries[i], 0, 0, 1);
    for (uint32_t i = 0; i < edge; i++)
        add_cells(problem, &entries[i], 1, 1, GROUPS);
    for (uint32_t i = edge; i < n - edge; i++)
        add_whole(problem, &entries[i]);
    for (uint32_t i = n - edge; i < n; i++)
        add_cells(problem, &entries[i], 1, 1, GROUPS);
    for (uint32_t i = n - edge; i < n; i++)
        add_cells(problem, &entries[i], 0, 0, 1);
}

static void fill_cells(struct lam_problem *problem)
{
    uint32_t n_layers = problem->request->spec->n_layers;
    uint32_t step = problem->dealt ? problem->n_active : 1;
    uint32_t e = 0;

    for (uint32_t d = 0; d < step && d < n_layers; d++) {
        uint32_t begin = e;
        for (uint32_t layer = d; layer < n_layers; layer += step)
            problem->entries[e++].unit = layer;
        if (problem->dealt && problem->cutting->groups)
            add_deal(problem, &problem->entries[begin], e - begin);
        for (uint32_t i = begin; i < e && !(problem->dealt && problem->cutting->groups); i++)
            add_whole(problem, &problem->entries[i]);
    }
    for (; e < problem->n_entries; e++) {
        problem->entries[e].unit = e;
        add_whole(problem, &problem->entries[e]);
    }
    for (uint32_t c = 0; c < problem->n_cells; c++)
        if (c == 0 || (problem->n_active > 1 && may_cut_before(problem, c)))
            problem->cuts[problem->n_cuts++] = c;
    problem->cuts[problem->n_cuts++] = problem->n_cells;
}

/* The head first, then by multiples of the golden ratio; no two are alike, so any sort will do. */
static void fill_spread(struct lam_problem *problem)
{
    uint32_t n_layers = problem->request->spec->n_layers;

    for (uint32_t i = 0; i < problem->n_entries; i++) {
        uint64_t key = i < n_layers ? (uint64_t)1 << 32 | (i + 1) * GOLDEN : i;
        uint32_t at = i;
        for (; at > 0; at--) {
            uint32_t other = problem->spread[at - 1];
            uint64_t other_key =
                other < n_layers ? (uint64_t)1 << 32 | (other + 1) * GOLDEN : other;
            if (other_key < key)
                break;
            problem->spread[at] = other;
        }
        problem->spread[at] = i;
    }
    memcpy(problem->order, problem->spread, problem->n_entries * sizeof *problem->order);
}

/* All links together are no faster than the memory that they read. */
static void fill_rates(struct lam_problem *problem)
{
    const struct lam_plan_request *request = problem->request;
    double sum = 0;

    for (uint32_t d = 0; d < problem->n_active; d++) {
        double link = request->devices[problem->active[d]].link_rate;
        problem->link_rate[d] = lam_cutting_rate(problem->cutting, link);
        sum += problem->link_rate[d];
    }
    problem->host_bound = sum > request->host.memory_rate;
    for (uint32_t d = 0; d < problem->n_active && problem->host_bound; d++)
        problem->link_rate[d] *= request->host.memory_rate / sum;
}

/* A device works on a unit for as long as its copy takes, or its kernels. */
static void fill_step(struct lam_problem *problem)
{
    struct lam_work work = {0};
    uint64_t link_ns = lam_plan_ns((double)problem->cutting->bytes, problem->link_rate[0]);
    uint64_t work_ns;

    problem->step_bytes = UINT64_MAX;
    if (problem->n_active > 1)
        return;
    lam_work_add(&work, problem, 0, problem->n_cuts - 1);
    work_ns = lam_work_ns(&work, problem, &problem->request->devices[problem->active[0]]);
    problem->step_bytes =
        lam_pool_step_bytes(problem->request, link_ns > work_ns ? link_ns : work_ns);
}

bool lam_problem_init(struct lam_problem *problem, const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *cutting, bool dealt)
{
    size_t n_units = request->manifest->n_units;
    size_t n_cells = cutting->n_pieces;

    *problem = (struct lam_problem){.request = request,
        .settings = settings,
        .cutting = cutting,
        .drives_share = 1,
        .sizes = lam_plan_sizes(request, settings),
        .dealt = dealt,
        .n_slots = dealt && cutting->groups ? SLOTS_DEALT : SLOTS,
        .cell_bytes_min = UINT64_MAX,
        .n_entries = request->manifest->n_units};
    problem->slot_bytes =
        cutting->piece_bytes_max * (settings->layer_batch > 0 ? settings->layer_batch : 1);
    for (uint32_t d = 0; d < request->n_devices; d++)
        if (request->devices[d].cap_bytes > 0)
            problem->active[problem->n_active++] = d;
    problem->cells = lam_calloc(n_cells, sizeof *problem->cells);
    problem->bytes_before = lam_calloc(n_cells + 1, sizeof *problem->bytes_before);
    problem->kv_before = lam_calloc(n_cells + 1, sizeof *problem->kv_before);
    problem->cuts = lam_calloc(n_cells + 1, sizeof *problem->cuts);
    problem->entries = lam_calloc(n_units, sizeof *problem->entries);
    problem->spread = lam_calloc(n_units, sizeof *problem->spread);
    problem->order = lam_calloc(n_units, sizeof *problem->order);
    problem->taken = lam_calloc(n_units, sizeof *problem->taken);
    if (!problem->cells || !problem->bytes_before || !problem->kv_before || !problem->cuts ||
        !problem->entries || !problem->spread || !problem->order || !problem->taken) {
        lam_problem_done(problem);
        return false;
    }
    fill_cells(problem);
    fill_spread(problem);
    fill_rates(problem);
    fill_step(problem);
    return true;
}

void lam_problem_done(struct lam_problem *problem)
{
    lam_free(problem->cells);
    lam_free(problem->bytes_before);
    lam_free(problem->kv_before);
    lam_free(problem->cuts);
    lam_free(problem->entries);
    lam_free(problem->spread);
    lam_free(problem->order);
    lam_free(problem->taken);
    memset(problem, 0, sizeof *problem);
}

uint64_t lam_problem_order(struct lam_problem *problem, const bool *kept)
{
    uint64_t to_read = 0;
    uint32_t n = 0;

    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < problem->n_entries; i++) {
            struct lam_entry *entry = &problem->entries[problem->spread[i]];
            entry->kept = kept[entry->unit];
            if (entry->kept == (pass == 1))
                problem->order[n++] = problem->spread[i];
            if (pass == 0 && !entry->kept)
                to_read += entry->bytes;
        }
    problem->reordered = memcmp(problem->order, problem->spread, n * sizeof *problem->order) != 0;
    return to_read;
}
