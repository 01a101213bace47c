/*
 * plan: the request checked and completed, then the search.
 *
 * The search tries a fixed family: pieces cut in two ways, every budget of the pool for which
 * something changes, and for each of these the best split. More memory only adds members to the
 * family and never makes one slower; so the best of them is never slower either.
 */
#include "model/plan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

#define CHUNK_DEFAULT 512u
#define CHUNK_DEFAULT_CPU 256u
#define SEQS_MAX 1024u
#define CHUNK_MAX 8192u
#define SEQS_TRIED_MAX 256u
#define ALIGN_DEFAULT 4096u
/* Units in the pool at a time when they only pass through it once, at start. */
#define RESIDENT_SLOTS 3u
/* No sum of sizes may come near 2^63; the factors are below 2^32 each. */
#define BYTES_MAX 0x1p60

static bool is_cpu(const struct lam_plan_request *request)
{
    return request->devices[0].kind == LAM_DEVICE_CPU;
}

static enum lam_status check_devices(const struct lam_plan_request *request, struct lam_err *err)
{
    uint32_t n_used = 0;

    if (request->n_devices == 0 || request->n_devices > LAM_PLAN_DEVICES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "%" PRIu32 " devices; a plan is for 1 to %u",
            request->n_devices, LAM_PLAN_DEVICES_MAX);
    for (uint32_t d = 0; d < request->n_devices; d++) {
        const struct lam_plan_device *device = &request->devices[d];
        bool gpu = device->kind == LAM_DEVICE_GPU;
        if (!gpu && request->n_devices > 1)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "'%s' cannot share a model with other devices; plan for it alone", device->name);
        if (!(device->flop_rate > 0) ||
            (gpu && (!(device->link_rate > 0) || !(device->memory_rate > 0))))
            return lam_fail(
                err, LAM_INVALID_ARGUMENT, "'%s' has a speed that is not positive", device->name);
        n_used += !gpu || device->cap_bytes > 0;
    }
    if (n_used == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--vram leaves no device to compute on");
    if (!(request->host.disk_rate > 0) || !(request->host.memory_rate > 0))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "disk and host memory need a positive speed");
    return LAM_OK;
}

static enum lam_status check_kv(const struct lam_plan_request *request, struct lam_err *err)
{
    uint32_t d = request->spec->head_dim;

    if (!request->kv_given || request->kv_dtype == LAM_F16 || request->kv_dtype == LAM_F32)
        return LAM_OK;
    if (request->kv_dtype != LAM_Q8_0 || !request->kv_q8_allowed)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--kv-type: '%s' cannot do %s; take f16",
            request->devices[0].name, lam_dtype_info(request->kv_dtype)->name);
    if (d % lam_dtype_info(LAM_Q8_0)->block_elems != 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--kv-type q8_0 needs blocks of 32, but heads of this model have %" PRIu32
            " values; take f16",
            d);
    return LAM_OK;
}

static enum lam_status check_request(const struct lam_plan_request *request, struct lam_err *err)
{
    const struct lam_spec *spec = request->spec;
    enum lam_status status = check_devices(request, err);
    double rows = CHUNK_MAX;
    double widths = 2.0 * spec->n_embd + 5.0 * spec->n_ff +
                    5.0 * spec->head_dim * ((double)spec->n_heads + spec->n_kv_heads);
    double kv = 2.0 * spec->n_kv_heads * spec->head_dim * 4 * spec->n_layers;

    if (status || (status = check_kv(request, err)) != LAM_OK)
        return status;
    if (request->n_ctx > spec->n_ctx_train)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--ctx %" PRIu32 " is more than the %" PRIu32 " tokens that the model was trained for",
            request->n_ctx, spec->n_ctx_train);
    if (request->n_seqs > SEQS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--batch %" PRIu32 " is above %u",
            request->n_seqs, SEQS_MAX);
    if (request->prefill_chunk > CHUNK_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--prefill-chunk %" PRIu32 " is above %u",
            request->prefill_chunk, CHUNK_MAX);
    if (request->layer_batch > spec->n_layers)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--layer-batch %" PRIu32 " is more than the %" PRIu32 " layers of the model",
            request->layer_batch, spec->n_layers);
    if (request->n_logit_rows > CHUNK_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "logits of %" PRIu32 " rows are above %u",
            request->n_logit_rows, CHUNK_MAX);
    if ((double)request->n_pages * LAM_PLAN_PAGE_TOKENS > (double)SEQS_MAX * spec->n_ctx_train)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--kv-tokens: %" PRIu32 " pages are more than %u whole contexts; lower it",
            request->n_pages, SEQS_MAX);
    if (widths * rows * 4 + kv * SEQS_MAX * spec->n_ctx_train + rows * spec->n_vocab * 8 +
            (double)request->manifest->unit_bytes_max * 3 * spec->n_layers >
        BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the model's numbers are too large to be planned with: %" PRIu32
            " wide, context %" PRIu32,
            spec->n_embd, spec->n_ctx_train);
    return LAM_OK;
}

static struct lam_plan_settings default_settings(const struct lam_plan_request *request)
{
    uint32_t train = request->spec->n_ctx_train;
    struct lam_plan_settings settings = {
        .n_ctx = train < LAM_PLAN_CTX_DEFAULT_MAX ? train : LAM_PLAN_CTX_DEFAULT_MAX,
        .n_seqs = 1,
        .prefill_chunk = is_cpu(request) ? CHUNK_DEFAULT_CPU : CHUNK_DEFAULT,
        .layer_batch = request->layer_batch,
        .kv_dtype = request->kv_given ? request->kv_dtype : LAM_F16};

    if (request->n_ctx > 0)
        settings.n_ctx = request->n_ctx;
    if (request->n_seqs > 0)
        settings.n_seqs = request->n_seqs;
    if (request->prefill_chunk > 0)
        settings.prefill_chunk = request->prefill_chunk;
    return settings;
}

static bool model_init(struct lam_plan_model *model, const struct lam_plan_request *request)
{
    uint64_t align = request->host.align > 0 ? request->host.align : ALIGN_DEFAULT;

    memset(model, 0, sizeof *model);
    if (!lam_cutting_init(&model->units, request->manifest, false) ||
        !lam_cutting_init(&model->groups, request->manifest, true) ||
        !lam_kept_table_init(
            &model->pool, request->manifest->units, request->manifest->n_units, align))
        return false;
    if (request->host.drives)
        lam_kept_table_set_drives(&model->pool, request->host.drives, request->host.n_drives);
    return true;
}

static void model_done(struct lam_plan_model *model)
{
    lam_cutting_done(&model->units);
    lam_cutting_done(&model->groups);
    lam_kept_table_done(&model->pool);
}

/* Adds a line; what does not fit any more is left out as a whole. */
static void note(struct lam_plan *plan, const char *fmt, ...) LAM_PRINTF(2, 3);

static void note(struct lam_plan *plan, const char *fmt, ...)
{
    size_t used = strlen(plan->notes);
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(plan->notes + used, sizeof plan->notes - used, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof plan->notes - used)
        plan->notes[used] = '\0';
}

/* What may be given up for the model to fit, one after the other; only what was not asked for. */
struct giving_up {
    const struct lam_plan_model *model;
    const struct lam_plan_request *request;
    struct lam_plan_settings settings;
    bool fits;
    bool no_memory;
};

static bool try_fit(struct giving_up *g)
{
    struct lam_plan_need need = {0};

    if (!lam_plan_need_of(g->model, g->request, &g->settings, &need))
        g->no_memory = true;
    g->fits = !g->no_memory && lam_plan_need_met(&need);
    return g->fits;
}

/* Lowers settings until they fit. When nothing helps, all that may be given up is: what is still
 * missing then is what a message has to ask for. */
static bool give_up(struct giving_up *g)
{
    const struct lam_plan_settings before = g->settings;
    const struct lam_spec *spec = g->request->spec;
    bool q8 = g->request->kv_q8_allowed && !g->request->kv_given && spec->head_dim % 32 == 0;

    while (!try_fit(g) && g->request->n_ctx == 0 && g->settings.n_ctx / 2 >= LAM_PLAN_CTX_LEAST)
        g->settings.n_ctx /= 2;
    if (!g->fits && q8) {
        g->settings.kv_dtype = LAM_Q8_0;
        try_fit(g);
    }
    if (!g->fits && g->request->prefill_chunk == 0 &&
        g->settings.prefill_chunk > LAM_PLAN_CHUNK_LEAST) {
        g->settings.prefill_chunk = LAM_PLAN_CHUNK_LEAST;
        try_fit(g);
    }
    if (!g->fits)
        return !g->no_memory;
    while (g->settings.n_ctx * 2 <= before.n_ctx) { /* what the later steps made room for */
        g->settings.n_ctx *= 2;
        if (try_fit(g))
            continue;
        g->settings.n_ctx /= 2;
        g->fits = true;
        break;
    }
    return !g->no_memory;
}

static void note_changes(const struct lam_plan_settings *before,
    const struct lam_plan_settings *after, struct lam_plan *plan)
{
    if (after->n_ctx != before->n_ctx)
        note(plan,
            "context %" PRIu32 " instead of %" PRIu32 ", else it does not fit; --ctx sets it\n",
            after->n_ctx, before->n_ctx);
    if (after->kv_dtype != before->kv_dtype)
        note(plan, "KV cache in q8_0 instead of f16, else it does not fit; --kv-type sets it\n");
    if (after->prefill_chunk != before->prefill_chunk)
        note(plan,
            "prompts in chunks of %" PRIu32 " instead of %" PRIu32
            " rows, else it does not fit; --prefill-chunk sets it\n",
            after->prefill_chunk, before->prefill_chunk);
}

/* Puts the problem into the order of a budget. Returns what a pass reads at most if no device holds
 * anything; what a device holds comes off that, whatever it is. */
static uint64_t use_budget(
    struct lam_problem *problem, const struct lam_kept_table *table, uint64_t budget, bool *kept)
{
    struct lam_plan_pool pool;
    uint64_t bytes, saved = 0;

    lam_pool_choose(table, budget, kept, &pool);
    bytes = lam_problem_order(problem, kept);
    if (problem->step_bytes < UINT64_MAX)
        saved = lam_pool_saved_bytes(table, &pool, kept, problem->step_bytes);
    bytes = bytes > saved ? bytes - saved : 0;
    problem->drives_share = lam_kept_drives_share(table, pool.n_ahead, bytes);
    return bytes;
}

/* Scratch of one search. */
struct search {
    const struct lam_kept_table *table;
    uint64_t *budgets; /* [n_budgets] */
    uint32_t n_budgets;
    bool *kept;
};

/* Improves the choice by this problem. False: no memory. */
static bool search_problem(
    struct search *search, struct lam_problem *problem, struct lam_choice *choice)
{
    for (uint32_t i = 0; i < search->n_budgets; i++) {
        uint64_t budget = search->budgets[i];
        uint64_t to_read = use_budget(problem, search->table, budget, search->kept);
        uint64_t limit = choice->found ? choice->stream_ns : UINT64_MAX;
        struct lam_split split;
        int found = lam_split_find(problem, to_read, limit, &split);
        uint64_t disk_ns;
        if (found < 0)
            return false;
        if (found == 0)
            continue;
        disk_ns = lam_plan_disk_ns(problem->request, problem->drives_share, to_read, split.saved);
        *choice = (struct lam_choice){.found = true,
            .groups = problem->cutting->groups,
            .split = split,
            .pool_budget = budget,
            .stream_ns = disk_ns > split.link_ns ? disk_ns : split.link_ns};
    }
    return true;
}

/* Everything resident: RAM only passes the units on once. */
static void search_resident(
    struct search *search, struct lam_problem *problem, struct lam_choice *choice)
{
    uint64_t slots = RESIDENT_SLOTS * search->table->slot_bytes;
    uint64_t budget = search->budgets[0];
    struct lam_split split = {0};
    uint64_t pass_ns;

    if (!lam_split_resident(problem, &split))
        return;
    pass_ns = lam_plan_pass_ns(problem, &split, 0);
    if (choice->found && pass_ns >= choice->pass_ns)
        return;
    *choice = (struct lam_choice){.found = true,
        .all_resident = true,
        .groups = problem->cutting->groups,
        .split = split,
        .pool_budget = budget < slots ? budget : slots,
        .pass_ns = pass_ns};
}

static bool finish(struct search *search, struct lam_problem *problem, struct lam_choice *choice,
    struct lam_plan *plan)
{
    uint64_t to_read = use_budget(problem, search->table, choice->pool_budget, search->kept);

    if (!choice->all_resident) {
        if (!lam_split_even(problem, to_read, &choice->split))
            return false;
        choice->disk_bytes = to_read > choice->split.saved ? to_read - choice->split.saved : 0;
    }
    choice->pass_ns = lam_plan_pass_ns(problem, &choice->split,
        lam_plan_disk_ns(problem->request, problem->drives_share, choice->disk_bytes, 0));
    return lam_plan_build(problem, choice, search->table, plan);
}

/* The best plan of GPUs for settings that fit. False: no memory. */
static bool plan_gpus(struct search *search, const struct lam_plan_model *model,
    const struct lam_plan_request *request, const struct lam_plan_settings *settings,
    struct lam_plan *plan)
{
    struct lam_problem ranges[2] = {0};
    struct lam_problem dealt[2] = {0};
    struct lam_problem *problems = ranges;
    uint32_t n = settings->layer_batch > 0 ? 1 : 2; /* whole units; tensor groups */
    struct lam_choice choice = {0};
    bool ok = true;

    for (uint32_t i = 0; i < n && ok; i++) {
        const struct lam_cutting *cutting = i == 0 ? &model->units : &model->groups;
        ok = lam_problem_init(&ranges[i], request, settings, cutting, false);
        if (ok)
            search_resident(search, &ranges[i], &choice);
        if (ok && ranges[i].n_active > 1 && request->stages == LAM_STAGES_AUTO)
            ok = lam_problem_init(&dealt[i], request, settings, cutting, true);
    }
    if (ok && !choice.found && dealt[0].cells)
        problems = dealt;
    for (uint32_t i = 0; i < n && ok && !choice.all_resident; i++)
        ok = search_problem(search, &problems[i], &choice);
    if (ok) {
        assert(choice.found); /* the settings fit: give_up() saw to it */
        ok = finish(search, &problems[choice.groups], &choice, plan);
    }
    for (uint32_t i = 0; i < 2; i++) {
        lam_problem_done(&ranges[i]);
        lam_problem_done(&dealt[i]);
    }
    return ok;
}

/* A plan for settings that fit. False: no memory. */
static bool plan_settings(const struct lam_plan_model *model,
    const struct lam_plan_request *request, const struct lam_plan_settings *settings,
    struct lam_plan *plan)
{
    struct search search = {.table = &model->pool};
    uint32_t n_units = request->manifest->n_units;
    bool ok;

    if (is_cpu(request))
        return lam_plan_build_cpu(request, settings, &model->units, &model->pool, plan);
    search.budgets = lam_calloc(LAM_POOL_STEPS + 2, sizeof *search.budgets);
    search.kept = lam_calloc(n_units, sizeof *search.kept);
    ok = search.budgets && search.kept;
    if (ok) {
        search.n_budgets =
            lam_pool_budgets(&model->pool, request->host.ram_bytes, LAM_POOL_STEPS, search.budgets);
        ok = plan_gpus(&search, model, request, settings, plan);
    }
    lam_free(search.budgets);
    lam_free(search.kept);
    return ok;
}

/* Doubles a batch that nobody asked for while that makes more tokens. False: no memory. */
static bool grow_batch(const struct lam_plan_model *model, const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, struct lam_plan *plan)
{
    struct giving_up g = {.model = model, .request = request, .settings = *settings};

    for (g.settings.n_seqs = 2; g.settings.n_seqs <= SEQS_TRIED_MAX; g.settings.n_seqs *= 2) {
        struct lam_plan larger = {0};
        if (!try_fit(&g))
            break;
        if (!plan_settings(model, request, &g.settings, &larger)) {
            lam_plan_done(&larger);
            return false;
        }
        if (larger.tokens_per_second > plan->tokens_per_second) {
            lam_plan_done(plan);
            *plan = larger;
        } else {
            lam_plan_done(&larger);
        }
    }
    return !g.no_memory;
}

static bool make(
    const struct lam_plan_request *request, struct lam_plan_model *model, struct lam_plan *plan)
{
    const struct lam_plan_settings before = default_settings(request);
    struct giving_up g = {.model = model, .request = request, .settings = before};

    if (!model_init(model, request) || !give_up(&g))
        return false;
    if (g.fits && !plan_settings(model, request, &g.settings, plan))
        return false;
    if (g.fits && request->objective == LAM_OBJECTIVE_THROUGHPUT && request->n_seqs == 0 &&
        !grow_batch(model, request, &g.settings, plan))
        return false;
    if (plan->fits)
        note_changes(&before, &g.settings, plan);
    if (plan->fits && plan->n_seqs != before.n_seqs)
        note(plan, "batch %" PRIu32 ": most tokens per second; --batch sets it\n", plan->n_seqs);
    if (plan->fits)
        g.settings.n_seqs = plan->n_seqs;
    return lam_plan_explain(model, request, &before, &g.settings, plan);
}

enum lam_status lam_plan_make(
    const struct lam_plan_request *request, struct lam_plan *ret_plan, struct lam_err *err)
{
    enum lam_status status = check_request(request, err);
    struct lam_plan_model model = {0};
    struct lam_plan plan = {0};
    bool ok;

    if (status)
        return status;
    ok = make(request, &model, &plan);
    model_done(&model);
    if (!ok) {
        lam_plan_done(&plan);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a plan of %" PRIu32 " units",
            request->manifest->n_units);
    }
    *ret_plan = plan;
    return LAM_OK;
}

void lam_plan_done(struct lam_plan *plan)
{
    lam_free(plan->pieces);
    lam_free(plan->layers);
    lam_free(plan->pool.kept);
    lam_free(plan->pool.offsets);
    memset(plan, 0, sizeof *plan);
}
