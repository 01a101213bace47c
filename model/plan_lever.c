/*
 * plan_lever: what a plan needs at least, and what each flag would change about that. Every saving
 * is the difference of two plans' needs, never an estimate.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

#define CTX_STEP_LEAST 64u

static bool is_cpu(const struct lam_plan_request *request)
{
    return request->devices[0].kind == LAM_DEVICE_CPU;
}

/* Whether layers would be dealt if something is streamed. */
static bool is_dealt(const struct lam_plan_request *request)
{
    uint32_t n_active = 0;

    for (uint32_t d = 0; d < request->n_devices; d++)
        n_active += request->devices[d].cap_bytes > 0;
    return n_active > 1 && request->stages == LAM_STAGES_AUTO;
}

/* The nearest split of one cutting. The problem stays the caller's, to be given back. */
static bool nearest(struct lam_problem *problem, const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct lam_cutting *cutting,
    struct lam_split *split, struct lam_plan_need *need)
{
    if (!lam_problem_init(problem, request, settings, cutting, is_dealt(request)))
        return false;
    need->bytes = lam_split_nearest(problem, split, &need->device);
    return true;
}

/* Which cutting needs least: in all but strange models, tensor groups. */
static const struct lam_cutting *cutting_of(
    const struct lam_plan_model *model, const struct lam_plan_settings *settings)
{
    return settings->layer_batch > 0 ? &model->units : &model->groups;
}

bool lam_plan_need_of(const struct lam_plan_model *model, const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, struct lam_plan_need *ret_need)
{
    struct lam_plan_need need = {0};
    struct lam_problem problem = {0};
    struct lam_split split;
    bool ok;

    if (is_cpu(request)) {
        need.bytes = lam_plan_cpu_bytes(request, settings) + model->pool.slot_bytes;
        need.cap = request->host.ram_bytes;
        *ret_need = need;
        return true;
    }
    ok = nearest(&problem, request, settings, cutting_of(model, settings), &split, &need);
    lam_problem_done(&problem);
    for (uint32_t d = 0; d < request->n_devices; d++)
        if (request->devices[d].cap_bytes > need.cap)
            need.cap = request->devices[d].cap_bytes;
    need.ram_missing = request->host.ram_bytes < model->pool.slot_bytes;
    *ret_need = need;
    return ok;
}

/* Levers in the making. */
struct pulling {
    const struct lam_plan_model *model;
    const struct lam_plan_request *request;
    struct lam_plan_settings before;   /* as they were at first */
    struct lam_plan_settings settings; /* as they are */
    struct lam_plan_need need;         /* as it is */
    struct lam_plan *plan;
    bool no_memory;
};

static void add_lever(struct pulling *pull, uint64_t saves_bytes, bool fits, const char *fmt, ...)
    LAM_PRINTF(4, 5);

static void add_lever(struct pulling *pull, uint64_t saves_bytes, bool fits, const char *fmt, ...)
{
    struct lam_plan_lever *lever = &pull->plan->levers[pull->plan->n_levers++];
    va_list args;

    assert(pull->plan->n_levers <= LAM_PLAN_LEVERS_MAX);
    va_start(args, fmt);
    vsnprintf(lever->flag, sizeof lever->flag, fmt, args);
    va_end(args);
    lever->saves_bytes = saves_bytes;
    lever->fits = fits;
}

/* What other settings save; false when nothing. */
static bool pull_settings(struct pulling *pull, const struct lam_plan_settings *settings,
    uint64_t *ret_saves, bool *ret_fits)
{
    struct lam_plan_need need = {0};

    if (!lam_plan_need_of(pull->model, pull->request, settings, &need)) {
        pull->no_memory = true;
        return false;
    }
    if (need.bytes >= pull->need.bytes)
        return false;
    *ret_saves = pull->need.bytes - need.bytes;
    *ret_fits = lam_plan_need_met(&need);
    return true;
}

/* Halves a number until it fits, or once if that is not enough either. Returns the new number, 0
 * when halving saves nothing. number: points into *tried. */
static uint32_t pull_half(struct pulling *pull, struct lam_plan_settings *tried, uint32_t *number,
    uint32_t least, uint64_t *ret_saves, bool *ret_fits)
{
    uint32_t first = *number / 2;
    uint64_t saves;
    bool fits;

    if (first < least)
        return 0;
    for (*number = first; *number >= least; *number /= 2)
        if (pull_settings(pull, tried, ret_saves, ret_fits) && *ret_fits)
            return *number;
    *number = first;
    if (!pull_settings(pull, tried, &saves, &fits))
        return 0;
    *ret_saves = saves;
    *ret_fits = fits;
    return first;
}

static void pull_counts(struct pulling *pull)
{
    struct lam_plan_settings tried = pull->settings;
    uint64_t saves = 0;
    bool fits = false;

    if (pull_half(pull, &tried, &tried.n_ctx, CTX_STEP_LEAST, &saves, &fits))
        add_lever(pull, saves, fits, "--ctx %" PRIu32, tried.n_ctx);
    tried = pull->settings;
    if (pull_half(pull, &tried, &tried.n_seqs, 1, &saves, &fits))
        add_lever(pull, saves, fits, "--batch %" PRIu32, tried.n_seqs);
    tried = pull->settings;
    tried.prefill_chunk = LAM_PLAN_CHUNK_LEAST;
    if (pull->settings.prefill_chunk > LAM_PLAN_CHUNK_LEAST &&
        pull_settings(pull, &tried, &saves, &fits))
        add_lever(pull, saves, fits, "--prefill-chunk %u", LAM_PLAN_CHUNK_LEAST);
}

static void pull_forms(struct pulling *pull)
{
    struct lam_plan_settings tried = pull->settings;
    const struct lam_spec *spec = pull->request->spec;
    bool q8 = pull->request->kv_q8_allowed && spec->head_dim % 32 == 0;
    uint64_t saves;
    bool fits;

    tried.kv_dtype = LAM_F16;
    if (pull->settings.kv_dtype == LAM_F32 && pull_settings(pull, &tried, &saves, &fits))
        add_lever(pull, saves, fits, "--kv-type f16");
    tried.kv_dtype = LAM_Q8_0;
    if (q8 && pull->settings.kv_dtype != LAM_Q8_0 && pull_settings(pull, &tried, &saves, &fits))
        add_lever(pull, saves, fits, "--kv-type q8_0");
    tried = pull->settings;
    tried.layer_batch = 0;
    if (pull->settings.layer_batch > 0 && pull_settings(pull, &tried, &saves, &fits))
        add_lever(pull, saves, fits, "--layer-batch auto");
}

/* "--ctx 512 --kv-type q8_0": what differs, with a space before each but the first. */
static void describe_change(const struct lam_plan_settings *before,
    const struct lam_plan_settings *after, char *text, size_t text_bytes)
{
    char parts[5][32] = {"", "", "", "", ""};

    if (after->n_ctx != before->n_ctx)
        snprintf(parts[0], sizeof parts[0], " --ctx %" PRIu32, after->n_ctx);
    if (after->n_seqs != before->n_seqs)
        snprintf(parts[1], sizeof parts[1], " --batch %" PRIu32, after->n_seqs);
    if (after->prefill_chunk != before->prefill_chunk)
        snprintf(parts[2], sizeof parts[2], " --prefill-chunk %" PRIu32, after->prefill_chunk);
    if (after->kv_dtype != before->kv_dtype)
        snprintf(parts[3], sizeof parts[3], " --kv-type %s",
            after->kv_dtype == LAM_Q8_0 ? "q8_0" : "f16");
    if (after->layer_batch != before->layer_batch)
        snprintf(parts[4], sizeof parts[4], " --layer-batch auto");
    snprintf(text, text_bytes, "%s%s%s%s%s", parts[0], parts[1], parts[2], parts[3], parts[4]);
    if (text[0])
        memmove(text, text + 1, strlen(text));
}

/* Where none is enough by itself, all settings together: as much of the context as then fits. */
static void pull_together(struct pulling *pull)
{
    const struct lam_spec *spec = pull->request->spec;
    struct lam_plan_settings tried = pull->settings;
    char flags[sizeof pull->plan->levers[0].flag];
    uint64_t saves = 0;
    bool fits = false;

    for (uint32_t i = 0; i < pull->plan->n_levers; i++)
        if (pull->plan->levers[i].fits)
            return;
    if (tried.prefill_chunk > LAM_PLAN_CHUNK_LEAST)
        tried.prefill_chunk = LAM_PLAN_CHUNK_LEAST;
    tried.kv_dtype = LAM_F16;
    if (pull->request->kv_q8_allowed && spec->head_dim % 32 == 0)
        tried.kv_dtype = LAM_Q8_0;
    tried.layer_batch = 0;
    for (; tried.n_seqs > 0; tried.n_seqs /= 2)
        for (tried.n_ctx = pull->settings.n_ctx; tried.n_ctx >= CTX_STEP_LEAST; tried.n_ctx /= 2) {
            if (!pull_settings(pull, &tried, &saves, &fits) || !fits)
                continue;
            describe_change(&pull->settings, &tried, flags, sizeof flags);
            add_lever(pull, saves, true, "%s", flags);
            return;
        }
}

static uint64_t mib_up(uint64_t bytes)
{
    return (bytes + LAM_MIB - 1) / LAM_MIB;
}

/* Larger caps, all by the same amount: just enough. */
static void pull_vram(struct pulling *pull)
{
    const struct lam_plan_request *request = pull->request;
    uint64_t missing = pull->need.bytes - pull->need.cap;
    char list[sizeof pull->plan->levers[0].flag] = "";
    size_t used = 0;
    bool same = true;

    for (uint32_t d = 0; d < request->n_devices; d++) {
        const struct lam_plan_device *device = &request->devices[d];
        uint64_t cap = device->cap_bytes;
        int n = cap > 0 ? snprintf(list + used, sizeof list - used, "%s%" PRIu64 "MiB",
                              d ? "," : "", mib_up(cap + missing))
                        : snprintf(list + used, sizeof list - used, "%soff", d ? "," : "");
        if (n < 0 || (size_t)n >= sizeof list - used - 8) /* "--vram " */
            return;
        if (device->total_bytes > 0 && cap > 0 &&
            mib_up(cap + missing) * LAM_MIB > device->total_bytes)
            return; /* more than there is */
        same = same && cap == request->devices[0].cap_bytes;
        used += (size_t)n;
    }
    if (same)
        add_lever(pull, missing, !pull->need.ram_missing, "--vram %" PRIu64 "MiB",
            mib_up(request->devices[0].cap_bytes + missing));
    else
        add_lever(pull, missing, !pull->need.ram_missing, "--vram %s", list);
}

static const char *region_names[LAM_REGIONS] = {
    "workspace", "activations", "logits", "tables", "KV", "slots", "weights", "embedding"};

/* The unit of the terms of a sum: that which lam_size_format takes for the sum. */
struct scale {
    double bytes;
    int decimals;
};

static struct scale scale_of(uint64_t sum)
{
    if (sum >= LAM_GIB)
        return (struct scale){(double)LAM_GIB, 2};
    return (struct scale){(double)LAM_MIB, 1};
}

/* "context 0.45 + KV 1.25 + ..."; what would read as nothing is a part of "other". */
static void add_sum(
    const struct lam_plan_arena *arena, struct scale scale, char *text, size_t text_bytes)
{
    int n = snprintf(text, text_bytes, "context %.*f", scale.decimals,
        (double)arena->context_bytes / scale.bytes);
    uint64_t other = arena->arena_bytes;
    double least = scale.decimals == 2 ? 0.005 : 0.05;

    for (uint32_t r = LAM_REGIONS; r-- > 0 && n > 0 && (size_t)n < text_bytes;) {
        double value = (double)arena->regions[r].bytes / scale.bytes;
        if (value < least)
            continue;
        other -= arena->regions[r].bytes;
        n += snprintf(
            text + n, text_bytes - (size_t)n, " + %s %.*f", region_names[r], scale.decimals, value);
    }
    if (n > 0 && (size_t)n < text_bytes)
        snprintf(text + n, text_bytes - (size_t)n, " + other %.*f", scale.decimals,
            (double)other / scale.bytes);
}

/* "--ctx 512 (-1.09), --kv-type q8_0 (-0.59)": as many as there is room for. */
static void add_options(
    const struct lam_plan *plan, struct scale scale, char *text, size_t text_bytes)
{
    size_t used = 0;

    text[0] = '\0';
    for (uint32_t i = 0; i < plan->n_levers; i++) {
        int n = snprintf(text + used, text_bytes - used, "%s%s (-%.*f)", i ? ", " : "",
            plan->levers[i].flag, scale.decimals,
            (double)plan->levers[i].saves_bytes / scale.bytes);
        if (n < 0 || (size_t)n >= text_bytes - used) {
            text[used] = '\0'; /* whole levers only */
            return;
        }
        used += (size_t)n;
    }
}

/* The least arenas of the nearest split. False: no memory. */
static bool fill_least(struct pulling *pull)
{
    const struct lam_plan_request *request = pull->request;
    struct lam_problem problem = {0};
    struct lam_split split = {0};
    struct lam_plan_need need = {0};
    bool ok = nearest(&problem, request, &pull->settings, cutting_of(pull->model, &pull->settings),
        &split, &need);

    for (uint32_t d = 0; ok && d < problem.n_active; d++) {
        uint32_t a = problem.cuts[split.at[d]], b = problem.cuts[split.at[d + 1]];
        struct lam_plan_arena *arena = &pull->plan->arenas[problem.active[d]];
        uint64_t all = problem.bytes_before[b] - problem.bytes_before[a];
        uint64_t slots = problem.n_slots * problem.slot_bytes;
        if (a == b)
            continue;
        arena->used = true;
        arena->n_layers = problem.kv_before[b] - problem.kv_before[a];
        arena->n_slots = slots < all ? problem.n_slots : 0;
        arena->slot_bytes = slots < all ? problem.slot_bytes : 0;
        lam_plan_lay_out(request, &pull->settings, b == problem.n_cells, arena->n_layers,
            slots < all ? slots : 0, slots < all ? 0 : all, 0, arena);
        arena->context_bytes = request->devices[problem.active[d]].context_bytes;
        arena->total_bytes = arena->context_bytes + arena->arena_bytes;
        arena->minimum_bytes = lam_share_minimum(&problem, d, split.at[d], split.at[d + 1]);
    }
    lam_problem_done(&problem);
    return ok;
}

static void fill_least_cpu(struct pulling *pull)
{
    struct lam_plan_arena *arena = &pull->plan->arenas[0];

    lam_plan_lay_out(
        pull->request, &pull->settings, true, pull->request->spec->n_layers, 0, 0, 0, arena);
    arena->used = true;
    arena->n_layers = pull->request->spec->n_layers;
    arena->context_bytes = pull->request->devices[0].context_bytes;
    arena->total_bytes = arena->context_bytes + arena->arena_bytes;
    arena->minimum_bytes = pull->need.bytes;
}

/* " with --ctx 512": what has been given up for the minimum; nothing where nothing was. */
static void add_given_up(const struct pulling *pull, char *text, size_t text_bytes)
{
    char change[96];

    describe_change(&pull->before, &pull->settings, change, sizeof change);
    snprintf(text, text_bytes, "%s%s", change[0] ? " with " : "", change);
}

/* The sentence with the arithmetic and all levers. */
static void give_reason(struct pulling *pull)
{
    struct lam_plan *plan = pull->plan;
    const struct lam_plan_request *request = pull->request;
    const struct lam_plan_arena *arena = &plan->arenas[pull->need.device];
    uint64_t slot = pull->model->pool.slot_bytes;
    bool ram = pull->need.ram_missing && pull->need.bytes <= pull->need.cap;
    uint64_t cap = request->devices[pull->need.device].cap_bytes;
    uint64_t least = arena->minimum_bytes;
    char sum[200], given_up[104], head[440], options[300], caps[24], leasts[24];
    struct scale scale;
    size_t room;

    if (ram || is_cpu(request)) {
        cap = request->host.ram_bytes;
        least = ram ? slot : pull->need.bytes;
    }
    scale = scale_of(least);
    lam_size_format(cap, caps, sizeof caps);
    lam_size_format(least, leasts, sizeof leasts);
    add_sum(arena, scale, sum, sizeof sum);
    add_given_up(pull, given_up, sizeof given_up);
    if (ram)
        snprintf(head, sizeof head, "RAM: cap %s, minimum %s for the largest unit to pass through",
            caps, leasts);
    else if (is_cpu(request))
        snprintf(head, sizeof head, "%s: --ram %s, minimum %s%s (%s + pool %.*f)",
            request->devices[0].name, caps, leasts, given_up, sum, scale.decimals,
            (double)slot / scale.bytes);
    else
        snprintf(head, sizeof head, "%s: cap %s, minimum %s%s (%s)",
            request->devices[pull->need.device].name, caps, leasts, given_up, sum);
    room = sizeof plan->reason.text - strlen(head) - strlen(". Options: .");
    add_options(plan, scale, options, room < sizeof options ? room : sizeof options);
    lam_fail(&plan->reason, LAM_RESOURCE_EXHAUSTED, "%s. Options: %s.", head, options);
}

bool lam_plan_explain(const struct lam_plan_model *model, const struct lam_plan_request *request,
    const struct lam_plan_settings *before, const struct lam_plan_settings *settings,
    struct lam_plan *plan)
{
    struct pulling pull = {
        .model = model, .request = request, .before = *before, .settings = *settings, .plan = plan};

    if (!lam_plan_need_of(model, request, settings, &pull.need))
        return false;
    pull_counts(&pull);
    pull_forms(&pull);
    if (pull.need.bytes > pull.need.cap && is_cpu(request))
        add_lever(&pull, pull.need.bytes - pull.need.cap, true, "--ram %" PRIu64 "MiB",
            mib_up(pull.need.bytes));
    else if (pull.need.bytes > pull.need.cap)
        pull_vram(&pull);
    if (pull.need.ram_missing)
        add_lever(&pull, model->pool.slot_bytes - request->host.ram_bytes,
            pull.need.bytes <= pull.need.cap, "--ram %" PRIu64 "MiB",
            mib_up(model->pool.slot_bytes));
    if (!plan->fits)
        pull_together(&pull);
    if (pull.no_memory)
        return false;
    if (plan->fits)
        return true;
    if (is_cpu(request))
        fill_least_cpu(&pull);
    else if (!fill_least(&pull))
        return false;
    lam_plan_fill_settings(request, settings, cutting_of(model, settings), plan);
    give_reason(&pull);
    return true;
}
