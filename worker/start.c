/*
 * start: how an engine comes to its memory. The plan is made from the config, from what the device
 * says about itself and from the loader's pool; then exactly what it says is taken, once.
 *
 * A device's context costs memory before the arena is there. So the kernels are made first, for the
 * largest shapes that the plan can come to, and again when it comes to smaller ones: the size of
 * their workspace follows from the shapes.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/processors.h"
#include "common/size.h"
#include "model/assumed.h"
#include "model/vram.h"
#include "worker/arrange.h"
#include "worker/embedding.h"
#include "worker/forward.h"
#include "worker/stream.h"

#define HEAD_DIM_MAX 256u /* kernels/ops.h */
#define CTX_DEFAULT_MAX 8192u
#define ROWS_DEFAULT 512u
#define SAMPLERS_MAX 16u
#define KV_Q8_ELEMS 32u /* a block of Q8_0, of one head (kernels/kv.h) */
/* More than any plan takes: a CPU's memory is the system's to refuse. */
#define RAM_UNLIMITED ((uint64_t)1 << 58)

static double rate_or(double given, double otherwise)
{
    return given > 0 ? given : otherwise;
}

static bool is_device(const struct lam_engine *engine)
{
    return engine->config.device != NULL;
}

static enum lam_status start_kernels(struct lam_engine *engine, uint32_t n_ctx, uint32_t n_seqs,
    uint32_t n_rows, struct lam_err *err)
{
    const struct lam_spec *spec = &engine->model->spec;
    uint32_t q_cols = spec->n_heads * spec->head_dim;
    struct lam_kernel_config shapes = {
        .n_threads = engine->config.n_threads,
        .max_rows = n_rows > n_seqs ? n_rows : n_seqs,
        .max_cols = spec->n_ff > spec->n_embd ? spec->n_ff : spec->n_embd,
        .max_seqs = n_seqs,
        .max_ctx = n_ctx,
        .n_heads = spec->n_heads,
        .head_dim = spec->head_dim,
        .device = engine->config.device_index,
    };
    struct lam_kernels *kernels;
    enum lam_status status;

    if (q_cols > shapes.max_cols)
        shapes.max_cols = q_cols;
    if (engine->kernels && memcmp(&shapes, &engine->shapes, sizeof shapes) == 0)
        return LAM_OK;
    if (engine->kernels)
        engine->config.ops->destroy(engine->kernels);
    engine->kernels = NULL;
    status = engine->config.ops->create(&shapes, &kernels, err);
    if (status != LAM_OK)
        return status;
    engine->kernels = kernels;
    engine->shapes = shapes;
    return LAM_OK;
}

/* The device as the plan sees it: what it holds already, what it may hold. */
static enum lam_status describe_device(
    struct lam_engine *engine, struct lam_plan_device *ret_device, struct lam_err *err)
{
    const struct lam_engine_config *config = &engine->config;
    const struct lam_spec *spec = &engine->model->spec;
    uint32_t most = spec->n_ctx_train < CTX_DEFAULT_MAX ? spec->n_ctx_train : CTX_DEFAULT_MAX;
    struct lam_vram_device seen = {0};
    struct lam_device_facts facts;
    char notes[LAM_VRAM_NOTES_BYTES];
    enum lam_status status = start_kernels(engine, config->n_ctx > 0 ? config->n_ctx : most,
        config->max_seqs > 0 ? config->max_seqs : 1,
        config->max_rows > 0 ? config->max_rows : ROWS_DEFAULT, err);

    if (status == LAM_OK)
        status = config->device->facts(engine->kernels, &facts, err);
    if (status != LAM_OK)
        return status;
    snprintf(seen.name, sizeof seen.name, "cuda:%" PRIu32, config->device_index);
    seen.total_bytes = facts.total_bytes;
    /* The cap is on all that this process holds, so what it holds already counts as free. */
    seen.free_bytes = facts.free_bytes + (facts.own_is_exact ? facts.own_bytes : 0);
    status = lam_vram_parse(
        config->vram ? config->vram : "auto", &seen, 1, &engine->cap_bytes, notes, err);
    *ret_device = (struct lam_plan_device){
        .kind = LAM_DEVICE_GPU,
        .total_bytes = facts.total_bytes,
        .cap_bytes = engine->cap_bytes,
        .context_bytes = facts.own_bytes,
        .link_rate = rate_or(config->rates.link, LAM_ASSUMED_LINK_RATE),
        .memory_rate = rate_or(config->rates.device_memory, LAM_ASSUMED_DEVICE_MEMORY_RATE),
        .product_rate = config->rates.product,
        .layer_seconds = config->rates.layer_seconds,
        .flop_rate = rate_or(config->rates.device_flops, LAM_ASSUMED_DEVICE_FLOP_RATE),
    };
    memcpy(ret_device->name, seen.name, sizeof ret_device->name);
    return status;
}

static uint32_t n_threads(const struct lam_engine_config *config)
{
    return config->n_threads > 0 ? config->n_threads : lam_processors();
}

static struct lam_plan_request request_of(
    const struct lam_engine *engine, const struct lam_plan_device *device)
{
    const struct lam_engine_config *config = &engine->config;
    double memory_rate =
        is_device(engine) ? LAM_ASSUMED_HOST_RATE : lam_assumed_cpu_memory_rate(n_threads(config));

    return (struct lam_plan_request){
        .spec = &engine->model->spec,
        .manifest = &engine->model->manifest,
        .devices = device,
        .n_devices = 1,
        .host = {.disk_rate = rate_or(config->rates.disk, LAM_ASSUMED_DISK_RATE),
            .memory_rate = rate_or(config->rates.host_memory, memory_rate)},
        .n_ctx = config->n_ctx,
        .n_seqs = config->max_seqs,
        .prefill_chunk = config->max_rows,
        .n_logit_rows = config->max_logit_rows,
        .page_tokens = config->page_tokens,
        .n_pages = config->kv_pages,
        .layer_batch = is_device(engine) ? config->layer_batch : 0,
        .kv_given = config->kv_given,
        .kv_dtype = config->kv_dtype,
        .kv_q8_allowed = engine->model->spec.head_dim % KV_Q8_ELEMS == 0,
        .objective = config->objective,
    };
}

/* A plan that does not fit is an error here. */
static enum lam_status make_plan(
    struct lam_engine *engine, const struct lam_plan_request *request, struct lam_err *err)
{
    enum lam_status status;

    lam_plan_done(&engine->plan);
    status = lam_plan_make(request, &engine->plan, err);
    if (status == LAM_OK && !engine->plan.fits)
        status = lam_fail_no_fit(err, "%s", engine->plan.reason.text);
    return status;
}

/* What disk, link and memory take alone: the forecast has more in it. */
static uint64_t floor_ns_of(const struct lam_plan *plan, const struct lam_plan_request *request)
{
    double memory_s = (double)request->manifest->unit_bytes_total / request->devices[0].memory_rate;
    double disk_s = (double)plan->pool.disk_bytes / request->host.disk_rate;
    double floor_s =
        plan->arenas[0].link_seconds > memory_s ? plan->arenas[0].link_seconds : memory_s;

    return (uint64_t)((disk_s > floor_s ? disk_s : floor_s) * 1e9);
}

/* What the loader's pool keeps should not be resident; the pool's size decides that. */
static enum lam_status plan_device(struct lam_engine *engine, struct lam_err *err)
{
    struct lam_plan_device device;
    struct lam_plan_request request;
    enum lam_status status = describe_device(engine, &device, err);

    if (status != LAM_OK)
        return status;
    request = request_of(engine, &device);
    request.host.ram_bytes = lam_units_pool(engine->units).bytes;
    status = make_plan(engine, &request, err);
    if (status == LAM_OK)
        engine->floor_ns = floor_ns_of(&engine->plan, &request);
    return status;
}

/* A CPU's plan is of one memory for pool and arena: the pool is given, the arena comes on top. */
static enum lam_status plan_cpu(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_plan_device cpu = {
        .name = "cpu",
        .kind = LAM_DEVICE_CPU,
        .flop_rate = LAM_ASSUMED_CPU_FLOP_RATE,
    };
    struct lam_plan_request request = request_of(engine, &cpu);
    enum lam_status status;

    request.host.ram_bytes = RAM_UNLIMITED;
    status = make_plan(engine, &request, err);
    if (status != LAM_OK)
        return status;
    request.host.ram_bytes =
        engine->plan.arenas[0].total_bytes + lam_units_pool(engine->units).bytes;
    status = make_plan(engine, &request, err);
    if (status == LAM_OK)
        engine->floor_ns = (uint64_t)(engine->plan.pass_seconds * 1e9);
    return status;
}

/* What the plan has chosen is the config from here on. */
static void resolve_config(struct lam_engine *engine)
{
    const struct lam_plan *plan = &engine->plan;
    struct lam_engine_config *config = &engine->config;

    config->n_ctx = plan->n_ctx;
    config->max_seqs = plan->n_seqs;
    config->max_rows = plan->prefill_chunk > plan->n_seqs ? plan->prefill_chunk : plan->n_seqs;
    config->max_logit_rows = plan->n_logit_rows;
    config->kv_given = true;
    config->kv_dtype = plan->kv_dtype;
    config->page_tokens = plan->page_tokens;
    config->kv_pages = plan->n_pages;
}

/* Zeroed pages of a large block are given by the system on first touch: idle ones cost nothing. */
static enum lam_status take_block(
    const struct lam_engine *engine, uint64_t bytes, void **ret_block, struct lam_err *err)
{
    const struct lam_engine_config *config = &engine->config;
    char text[24];

    *ret_block = bytes <= SIZE_MAX ? lam_aligned_calloc(LAM_PLAN_ALIGN, bytes) : NULL;
    if (*ret_block)
        return LAM_OK;
    return lam_fail_no_fit(err,
        "no memory for the engine: a context of %u tokens, %u sequences and %u rows need %s: "
        "lower --ctx, --batch or --prefill-chunk",
        config->n_ctx, config->max_seqs, config->max_rows,
        lam_size_format(bytes, text, sizeof text));
}

static enum lam_status take_device(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_device_ops *device = engine->config.device;
    const struct lam_plan_arena *arena = &engine->plan.arenas[0];
    const struct lam_plan_region *workspace = &arena->regions[LAM_REGION_WORKSPACE];
    uint64_t logits_bytes =
        (uint64_t)engine->config.max_logit_rows * engine->model->spec.n_vocab * sizeof(float);
    void *base = NULL, *logits = NULL;
    enum lam_status status = start_kernels(
        engine, engine->config.n_ctx, engine->config.max_seqs, engine->config.max_rows, err);

    if (status != LAM_OK)
        return status;
    if (lam_device_workspace_bytes(&engine->shapes) > workspace->bytes)
        return lam_fail(err, LAM_INTERNAL,
            "the plan leaves %" PRIu64 " bytes to kernels that need %" PRIu64
            ": are worker and GPU library of one version?",
            workspace->bytes, lam_device_workspace_bytes(&engine->shapes));
    status = device->arena(engine->kernels, arena->arena_bytes, &base, err);
    if (status == LAM_OK)
        status = device->host_memory(engine->kernels, logits_bytes, &logits, err);
    if (status == LAM_OK)
        status = take_block(engine, engine->layout.total_bytes, &engine->host_block, err);
    if (status != LAM_OK)
        return status;
    engine->arena = base;
    engine->host = engine->host_block;
    engine->logits = logits;
    engine->argmaxes = logits;
    device->workspace(engine->kernels, engine->arena + workspace->offset);
    return LAM_OK;
}

static enum lam_status take_cpu(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_plan_arena *arena = &engine->plan.arenas[0];
    enum lam_status status = take_block(engine, arena->arena_bytes, &engine->arena_block, err);

    if (status != LAM_OK)
        return status;
    assert(engine->layout.total_bytes <= arena->buffers.bookkeeping_bytes);
    engine->arena = engine->arena_block;
    engine->host = engine->arena + arena->buffers.bookkeeping;
    engine->logits = lam_engine_at(engine, arena->buffers.logits);
    return start_kernels(
        engine, engine->config.n_ctx, engine->config.max_seqs, engine->config.max_rows, err);
}

/* Beside a device the processors are idle when a pass ends. On a CPU the draws of a batch are
 * nothing beside its products, and the plan has memory for one. */
static uint32_t count_samplers(const struct lam_engine *engine)
{
    uint32_t n = n_threads(&engine->config);

    if (n > SAMPLERS_MAX)
        n = SAMPLERS_MAX;
    if (engine->config.max_seqs < n)
        n = engine->config.max_seqs;
    return is_device(engine) ? n : 1;
}

static enum lam_status take_memory(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_engine_config *config = &engine->config;
    const struct lam_model *model = engine->model;
    struct lam_kv_config kv = {
        .n_slots = config->max_seqs,
        .n_pages = config->kv_pages,
        .page_tokens = config->page_tokens,
        .pages_per_slot = (config->n_ctx - 1) / config->page_tokens + 1,
    };
    uint32_t n_samplers = count_samplers(engine);
    uint64_t packed_row_bytes = is_device(engine) ? model->manifest.embedding.row_bytes : 0;
    enum lam_status status = lam_engine_layout_make(&engine->plan, &kv, config->max_rows,
        model->spec.n_vocab, n_samplers, packed_row_bytes, &engine->layout, err);

    if (status == LAM_OK)
        status = is_device(engine) ? take_device(engine, err) : take_cpu(engine, err);
    if (status == LAM_OK && n_samplers > 1)
        status = lam_pool_create(n_samplers, &engine->samplers, err);
    if (status == LAM_OK)
        lam_kv_init(&engine->kv, &kv, lam_engine_host(engine, engine->layout.kv_words));
    if (status == LAM_OK) /* no page has this number: kernels have no table yet */
        memset(lam_engine_host(engine, engine->layout.tables), 0xFF,
            (uint64_t)engine->plan.n_seqs * kv.pages_per_slot * sizeof(uint32_t));
    return status;
}

/* Output norm and rope factors, into the arena. */
static enum lam_status read_vector(struct lam_engine *engine, const struct lam_extent *extent,
    uint64_t offset, struct lam_err *err)
{
    void *bytes = lam_calloc(extent->bytes, 1);
    enum lam_status status;

    if (!bytes)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a vector of the model");
    status = lam_units_read_extent(engine->units, extent, bytes, err);
    if (status == LAM_OK)
        lam_engine_upload(engine, offset, bytes, extent->bytes);
    lam_free(bytes);
    return status;
}

static enum lam_status read_vectors(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_manifest *manifest = &engine->model->manifest;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    enum lam_status status = read_vector(engine, &manifest->output_norm, buffers->output_norm, err);

    if (status == LAM_OK && manifest->rope_freqs.bytes > 0)
        status = read_vector(engine, &manifest->rope_freqs, buffers->rope_factors, err);
    return status;
}

static enum lam_status open_weights(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_stream_config stream = {
        .device = engine->config.device,
        .kernels = engine->kernels,
        .plan = &engine->plan,
        .units = engine->units,
        .arena = engine->arena,
        .pin_bytes = engine->config.pin_bytes,
    };

    if (is_device(engine)) {
        enum lam_status status = lam_stream_create(&stream, &engine->weights, err);

        return status == LAM_OK ? lam_arrange_residents(engine, err) : status;
    }
    return lam_weights_pool_create(&engine->plan, engine->units, &engine->weights, err);
}

/* The promise of --vram, by the device's own account of now. */
static enum lam_status check_cap(const struct lam_engine *engine, struct lam_err *err)
{
    uint64_t held = is_device(engine) ? lam_engine_device_bytes(engine) : 0;
    char is[24], cap[24], planned[24];

    if (held <= engine->cap_bytes)
        return LAM_OK;
    return lam_fail_no_fit(err,
        "the process holds %s on cuda:%" PRIu32 ", more than its cap of %s, although %s were "
        "planned: something beside the arena has grown; raise --vram",
        lam_size_format(held, is, sizeof is), engine->config.device_index,
        lam_size_format(engine->cap_bytes, cap, sizeof cap),
        lam_size_format(engine->plan.arenas[0].total_bytes, planned, sizeof planned));
}

enum lam_status lam_engine_create(const struct lam_engine_config *config, struct lam_units *units,
    struct lam_engine **ret_engine, struct lam_err *err)
{
    struct lam_engine *engine = lam_calloc(1, sizeof *engine);
    enum lam_status status = LAM_OK;

    assert(config->ops);
    if (!engine)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the engine");
    engine->config = *config;
    engine->units = units;
    engine->model = lam_units_model(units);
    if (engine->model->spec.head_dim > HEAD_DIM_MAX)
        status = lam_fail(err, LAM_UNIMPLEMENTED,
            "the model has attention heads of %u values; this build runs models of up to %u",
            engine->model->spec.head_dim, HEAD_DIM_MAX);
    if (status == LAM_OK)
        status = is_device(engine) ? plan_device(engine, err) : plan_cpu(engine, err);
    if (status == LAM_OK) {
        resolve_config(engine);
        status = take_memory(engine, err);
    }
    if (status == LAM_OK)
        status = read_vectors(engine, err);
    if (status == LAM_OK)
        status = lam_embedding_load(engine, err);
    if (status == LAM_OK)
        status = open_weights(engine, err);
    if (status == LAM_OK)
        status = check_cap(engine, err);
    if (status != LAM_OK) {
        lam_engine_destroy(engine);
        return status;
    }
    *ret_engine = engine;
    return LAM_OK;
}

void lam_engine_destroy(struct lam_engine *engine)
{
    if (!engine)
        return;
    if (engine->weights)
        engine->weights->ops->destroy(engine->weights);
    if (engine->kernels)
        engine->config.ops->destroy(engine->kernels);
    lam_pool_destroy(engine->samplers);
    lam_free(engine->arranged);
    lam_free(engine->host_block);
    lam_free(engine->arena_block);
    lam_plan_done(&engine->plan);
    lam_free(engine);
}

uint64_t lam_engine_device_bytes(const struct lam_engine *engine)
{
    uint64_t bytes = 0;
    bool exact = false;

    if (!is_device(engine))
        return engine->plan.arenas[0].arena_bytes;
    if (engine->config.device->held(engine->kernels, &bytes, &exact, NULL) != LAM_OK || !exact)
        return 0;
    return bytes;
}
