/*
 * plan_share: what one device does with a range of pieces under its cap.
 *
 * First fit in a fixed order (plan_cells.c): whole units, then single pieces where no unit fits any
 * more. First fit never takes less in more room (where two rooms differ first, the larger one takes
 * a piece that the smaller one's rest is too small for), and a longer range never streams less. The
 * search in plan_split rests on both.
 */
#include <string.h>

#include "common/size.h"
#include "model/plan_impl.h"

/* What is beside products in a layer where nobody has measured it: 0.62 ms of 32 layers on an H100
 * (docs/perf/notebook.md, CUDA kernels). */
#define LAYER_NS 20000u

uint64_t lam_plan_ns(double bytes, double rate)
{
    double ns = bytes / rate * 1e9;

    return ns < 1e18 ? (uint64_t)ns : (uint64_t)1e18;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Marks what of an entry lies in [a, b). */
static void mark(const struct lam_entry *entry, uint32_t a, uint32_t b, bool *resident)
{
    for (uint32_t r = 0; r < 2; r++)
        for (uint32_t c = max_u32(entry->begin[r], a); c < min_u32(entry->end[r], b); c++)
            resident[c] = true;
}

/* Bytes of an entry that lie in [a, b). */
static uint64_t bytes_within(
    const struct lam_problem *problem, const struct lam_entry *entry, uint32_t a, uint32_t b)
{
    uint64_t bytes = 0;

    for (uint32_t r = 0; r < 2; r++) {
        uint32_t begin = max_u32(entry->begin[r], a);
        uint32_t end = min_u32(entry->end[r], b);
        if (begin < end)
            bytes += problem->bytes_before[end] - problem->bytes_before[begin];
    }
    return bytes;
}

/* Takes whole units in the order, as far as they lie in [a, b). Returns the room that is left. */
static uint64_t take_units(struct lam_problem *problem, const uint32_t *order, uint32_t a,
    uint32_t b, uint64_t room, bool *resident, uint64_t *saved)
{
    memset(problem->taken, false, problem->n_entries * sizeof *problem->taken);
    for (uint32_t i = 0; i < problem->n_entries && room >= problem->cell_bytes_min; i++) {
        const struct lam_entry *entry = &problem->entries[order[i]];
        uint64_t bytes = bytes_within(problem, entry, a, b);
        if (bytes == 0 || bytes > room)
            continue;
        room -= bytes;
        problem->taken[order[i]] = true;
        if (resident)
            mark(entry, a, b, resident);
        if (!entry->kept && bytes == entry->bytes)
            *saved += bytes;
    }
    return room;
}

/* Takes single pieces of the units that were too large. */
static uint64_t take_pieces(struct lam_problem *problem, const uint32_t *order, uint32_t a,
    uint32_t b, uint64_t room, bool *resident)
{
    for (uint32_t i = 0; i < problem->n_entries && room >= problem->cell_bytes_min; i++) {
        const struct lam_entry *entry = &problem->entries[order[i]];
        for (uint32_t r = 0; r < 2 && !problem->taken[order[i]]; r++)
            for (uint32_t c = max_u32(entry->begin[r], a); c < min_u32(entry->end[r], b); c++) {
                if (problem->cells[c].bytes > room)
                    continue;
                room -= problem->cells[c].bytes;
                if (resident)
                    resident[c] = true;
            }
    }
    return room;
}

/* What the device holds for cells [a, b) beside weights and slots, and outside of the arena. */
static void fixed_of(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b,
    uint64_t *ret_outside, uint64_t *ret_fixed)
{
    uint32_t n_kv = problem->kv_before[b] - problem->kv_before[a];
    const struct lam_plan_device *device = &problem->request->devices[problem->active[d]];

    *ret_outside = device->context_bytes;
    *ret_fixed = problem->sizes.base_bytes + n_kv * problem->sizes.kv_layer_bytes;
    if (b == problem->n_cells)
        *ret_fixed += problem->sizes.head_bytes;
}

struct lam_room lam_room_of(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b)
{
    uint64_t cap = problem->request->devices[problem->active[d]].cap_bytes;
    uint64_t slots = problem->n_slots * problem->slot_bytes;
    struct lam_room room = {.fits = true, .resident = true};
    uint64_t outside, fixed, usable;

    a = problem->cuts[a];
    b = problem->cuts[b];
    if (a == b)
        return room;
    room.all = problem->bytes_before[b] - problem->bytes_before[a];
    fixed_of(problem, d, a, b, &outside, &fixed);
    usable = cap > outside ? lam_align_down(cap - outside, LAM_PLAN_ARENA_STEP) : 0;
    room.resident = fixed + room.all <= usable;
    room.fits = room.resident || fixed + slots <= usable;
    if (room.resident)
        room.bytes = room.all;
    else if (room.fits)
        room.bytes = usable - fixed - slots;
    return room;
}

struct lam_share lam_share_of(
    struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b, bool *resident)
{
    struct lam_room room = lam_room_of(problem, d, a, b);
    struct lam_share share = {.fits = room.fits, .resident = room.resident};
    uint64_t rest, rest_plain, unused = 0;

    a = problem->cuts[a];
    b = problem->cuts[b];
    if (!room.fits || a == b)
        return share;
    rest = take_units(problem, problem->order, a, b, room.bytes, resident, &share.saved);
    if (room.resident)
        return share;
    rest = take_pieces(problem, problem->order, a, b, rest, resident);
    if (problem->reordered) {
        rest_plain = take_units(problem, problem->spread, a, b, room.bytes, NULL, &unused);
        rest_plain = take_pieces(problem, problem->spread, a, b, rest_plain, NULL);
        rest = rest > rest_plain ? rest : rest_plain;
    }
    share.link_ns = lam_plan_ns((double)(room.all - (room.bytes - rest)), problem->link_rate[d]);
    return share;
}

uint64_t lam_share_minimum(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b)
{
    uint64_t slots = problem->n_slots * problem->slot_bytes;
    uint64_t all, outside, fixed;

    a = problem->cuts[a];
    b = problem->cuts[b];
    if (a == b)
        return 0;
    all = problem->bytes_before[b] - problem->bytes_before[a];
    fixed_of(problem, d, a, b, &outside, &fixed);
    return outside + lam_align_up(fixed + (all < slots ? all : slots), LAM_PLAN_ARENA_STEP);
}

bool lam_work_alike(const struct lam_plan_device *one, const struct lam_plan_device *other)
{
    return !(one->memory_rate < other->memory_rate) && !(one->memory_rate > other->memory_rate) &&
           !(one->product_rate < other->product_rate) &&
           !(one->product_rate > other->product_rate) &&
           !(one->layer_seconds < other->layer_seconds) &&
           !(one->layer_seconds > other->layer_seconds) && !(one->flop_rate < other->flop_rate) &&
           !(one->flop_rate > other->flop_rate);
}

void lam_work_add(struct lam_work *work, const struct lam_problem *problem, uint32_t a, uint32_t b)
{
    uint32_t from = problem->cuts[a];
    uint32_t to = problem->cuts[b];

    work->weight_bytes += problem->bytes_before[to] - problem->bytes_before[from];
    work->n_layers += problem->kv_before[to] - problem->kv_before[from];
    work->kv_bytes += problem->sizes.kv_layer_bytes / 2 * /* half of the context */
                      (problem->kv_before[to] - problem->kv_before[from]);
}

uint64_t lam_work_ns(const struct lam_work *work, const struct lam_problem *problem,
    const struct lam_plan_device *device)
{
    double flops = 2 * (double)work->weight_bytes * problem->cutting->weights_per_byte *
                   problem->settings->n_seqs;
    double product_rate = device->product_rate > 0 ? device->product_rate : device->memory_rate;
    uint64_t memory_ns = lam_plan_ns((double)work->weight_bytes, product_rate) +
                         lam_plan_ns((double)work->kv_bytes, device->memory_rate);
    uint64_t flops_ns = lam_plan_ns(flops, device->flop_rate);
    uint64_t layer_ns =
        device->layer_seconds > 0 ? (uint64_t)(device->layer_seconds * 1e9) : LAYER_NS;

    return (memory_ns > flops_ns ? memory_ns : flops_ns) + layer_ns * work->n_layers;
}
