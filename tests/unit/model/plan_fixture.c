/* plan_fixture: see plan_fixture.h. */
#include "tests/unit/model/plan_fixture.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "tests/unit/model/gguf_builder.h"

struct lam_spec plan_fixture_8b(void)
{
    return (struct lam_spec){.n_layers = 32,
        .n_embd = 4096,
        .n_heads = 32,
        .n_kv_heads = 8,
        .head_dim = 128,
        .n_ff = 14336,
        .n_vocab = 128256,
        .n_ctx_train = 131072,
        .rope_dim = 128,
        .rope_base = 500000,
        .rope_scale = 1,
        .norm_eps = 1e-5f};
}

struct lam_spec plan_fixture_70b(void)
{
    struct lam_spec spec = plan_fixture_8b();

    spec.n_layers = 80;
    spec.n_embd = 8192;
    spec.n_heads = 64;
    spec.n_ff = 28672;
    return spec;
}

/* Retypes a tensor in place and moves what lies behind it. */
static void retype(struct gguf_builder *builder, const char *name, enum lam_dtype dtype)
{
    struct gguf_builder_tensor *tensor = gguf_builder_find(builder, name);
    uint64_t at = tensor->offset;

    tensor->type = (uint32_t)dtype;
    for (; tensor < builder->tensors + builder->n_tensors; tensor++) {
        uint64_t row_bytes = 0;
        bool whole = lam_dtype_row_bytes((enum lam_dtype)tensor->type, tensor->dims[0], &row_bytes);
        assert(whole);
        tensor->offset = lam_align_up(at, builder->alignment);
        tensor->bytes = row_bytes * (tensor->n_dims > 1 ? tensor->dims[1] : 1);
        at = tensor->offset + tensor->bytes;
    }
    builder->data_bytes = at;
}

static void mix(struct gguf_builder *builder, const struct lam_spec *spec)
{
    uint32_t eighth = spec->n_layers / 8;

    for (uint32_t i = 0; i < spec->n_layers; i++) {
        char name[64];
        bool heavy = i < eighth || i >= 7 * eighth || (i - eighth) % 3 == 2;
        if (!heavy)
            continue;
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", i);
        retype(builder, name, LAM_Q6_K);
        snprintf(name, sizeof name, "blk.%u.ffn_down.weight", i);
        retype(builder, name, LAM_Q6_K);
    }
    retype(builder, spec->tied_head ? "token_embd.weight" : "output.weight", LAM_Q6_K);
}

void plan_fixture_init(
    struct plan_fixture *fixture, const struct lam_spec *spec, bool mixed, enum lam_dtype dtype)
{
    static struct gguf_builder builder;
    struct lam_gguf *gguf = NULL;
    struct lam_buf header;
    struct lam_err err = {0};
    enum lam_status status;

    gguf_builder_init(&builder);
    gguf_builder_llama(&builder, spec, mixed ? LAM_Q4_K : dtype);
    if (mixed)
        mix(&builder, spec);
    gguf_builder_header(&builder, &header);
    status = lam_gguf_parse(header.data, header.size, builder.file_bytes, &gguf, &err);
    if (!status)
        status = lam_spec_read(gguf, &fixture->spec, &err);
    if (!status)
        status = lam_manifest_build(gguf, &fixture->spec, &fixture->manifest, &err);
    if (status)
        fprintf(stderr, "plan_fixture: %s\n", err.text);
    assert(status == LAM_OK);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
    gguf_builder_done(&builder);
}

void plan_fixture_done(struct plan_fixture *fixture)
{
    lam_manifest_done(&fixture->manifest);
}

void plan_fixture_gpus(struct lam_plan_device *devices, uint32_t n, uint64_t cap_bytes)
{
    for (uint32_t d = 0; d < n; d++) {
        devices[d] = (struct lam_plan_device){.kind = LAM_DEVICE_GPU,
            .cap_bytes = cap_bytes,
            .context_bytes = 400 * LAM_MIB,
            .link_rate = 25e9,
            .memory_rate = 2e12,
            .flop_rate = 200e12};
        snprintf(devices[d].name, sizeof devices[d].name, "cuda:%u", d);
    }
}

struct lam_plan_device plan_fixture_cpu(void)
{
    return (struct lam_plan_device){
        .name = "cpu", .kind = LAM_DEVICE_CPU, .context_bytes = 100 * LAM_MIB, .flop_rate = 1e12};
}

struct lam_plan_request plan_fixture_request(
    const struct plan_fixture *fixture, const struct lam_plan_device *devices, uint32_t n_devices)
{
    return (struct lam_plan_request){.spec = &fixture->spec,
        .manifest = &fixture->manifest,
        .devices = devices,
        .n_devices = n_devices,
        .host = {.ram_bytes = 256 * LAM_GIB, .disk_rate = 7e9, .memory_rate = 200e9},
        .n_ctx = 4096,
        .n_seqs = 1,
        .prefill_chunk = 512,
        .kv_dtype = LAM_F16,
        .kv_given = true,
        .kv_q8_allowed = devices[0].kind == LAM_DEVICE_GPU};
}

uint64_t plan_random_in(struct plan_random *random, uint64_t min, uint64_t max)
{
    random->state ^= random->state << 13;
    random->state ^= random->state >> 7;
    random->state ^= random->state << 17;
    return min + (random->state >> 11) % (max - min + 1);
}

void plan_random_model(struct plan_random *random, struct plan_fixture *fixture)
{
    static const enum lam_dtype dtypes[] = {LAM_F32, LAM_BF16, LAM_Q4_0, LAM_Q8_0, LAM_Q6_K};
    struct lam_spec spec = gguf_builder_small_spec();
    bool mixed = plan_random_in(random, 0, 1) == 1;

    spec.n_layers = (uint32_t)plan_random_in(random, 1, 40);
    spec.n_kv_heads = (uint32_t)plan_random_in(random, 1, 4);
    spec.n_heads = spec.n_kv_heads * (uint32_t)plan_random_in(random, 1, 3);
    spec.head_dim = 64;
    spec.rope_dim = 64;
    spec.n_embd = 256 * (uint32_t)plan_random_in(random, 1, 8);
    spec.n_ff = 256 * (uint32_t)plan_random_in(random, 1, 24);
    /* Widths of every matrix are whole blocks of 256. */
    spec.n_heads = (spec.n_heads + 3) / 4 * 4;
    spec.n_kv_heads = 4;
    spec.n_vocab = (uint32_t)plan_random_in(random, 100, 60000);
    spec.n_ctx_train = 4096;
    spec.tied_head = plan_random_in(random, 0, 1) == 1;
    plan_fixture_init(fixture, &spec, mixed, dtypes[plan_random_in(random, 0, 4)]);
}

/* Regions lie one behind the other, aligned, inside the arena; all of it under the cap. */
static void check_arena(
    const struct lam_plan_request *request, const struct lam_plan *plan, uint32_t d)
{
    const struct lam_plan_arena *arena = &plan->arenas[d];
    bool cpu = request->devices[d].kind == LAM_DEVICE_CPU;
    uint64_t cap = cpu ? request->host.ram_bytes : request->devices[d].cap_bytes;
    uint64_t pool = cpu ? plan->pool.pool_bytes : 0;
    uint64_t end = 0;

    for (uint32_t r = 0; r < LAM_REGIONS; r++) {
        assert(arena->regions[r].offset == end);
        assert(end % LAM_PLAN_ALIGN == 0);
        end += arena->regions[r].bytes;
    }
    assert(end <= arena->arena_bytes);
    assert(arena->total_bytes == arena->context_bytes + arena->arena_bytes);
    assert(arena->total_bytes + pool <= cap);
    assert(!arena->used || arena->minimum_bytes <= cap);
    assert(arena->regions[LAM_REGION_KV].bytes >=
           2 * arena->n_layers * plan->kv_page_bytes * plan->n_pages);
    assert(arena->regions[LAM_REGION_SLOTS].bytes == arena->n_slots * arena->slot_bytes);
    assert(arena->regions[LAM_REGION_EMBEDDING].bytes == 0 || arena->n_slots == 0);
}

/* Spans of the pieces cover every tensor of every unit exactly once, and nothing else. */
static void check_coverage(const struct lam_plan_request *request, const struct lam_plan *plan)
{
    uint32_t p = 0;

    for (uint32_t u = 0; u < plan->n_units; u++) {
        const struct lam_unit *unit = &request->manifest->units[u];
        uint64_t tensor_bytes = 0, found = 0, covered = 0;
        uint32_t first = p;
        for (uint32_t t = 0; t < unit->n_tensors; t++)
            tensor_bytes += unit->tensors[t].bytes;
        for (; p < plan->n_pieces && plan->pieces[p].unit == u; p++)
            covered += plan->pieces[p].bytes;
        assert(covered >= tensor_bytes && covered <= unit->bytes);
        for (uint32_t t = 0; t < unit->n_tensors && unit->kind == LAM_UNIT_LAYER; t++)
            for (uint32_t i = first; i < p; i++) {
                uint64_t offset;
                if (!lam_plan_tensor_offset(&plan->pieces[i], &unit->tensors[t], &offset))
                    continue;
                assert(offset + unit->tensors[t].bytes <= plan->pieces[i].device_bytes);
                found++;
            }
        assert(unit->kind != LAM_UNIT_LAYER || found == unit->n_tensors);
    }
    assert(p == plan->n_pieces);
}

/* Residents do not overlap and fill their region; of the others any two fit into the slots. */
static void check_places(const struct lam_plan *plan, bool cpu)
{
    uint64_t resident[LAM_PLAN_DEVICES_MAX], streamed[LAM_PLAN_DEVICES_MAX] = {0};
    uint32_t n_streamed[LAM_PLAN_DEVICES_MAX] = {0};

    for (uint32_t d = 0; d < plan->n_devices; d++)
        resident[d] = plan->arenas[d].regions[LAM_REGION_RESIDENT].offset;
    for (uint32_t p = 0; p < plan->n_pieces; p++) {
        const struct lam_plan_piece *piece = &plan->pieces[p];
        uint32_t d = piece->device;
        assert(d < plan->n_devices && plan->arenas[d].used);
        if (piece->tier == LAM_TIER_DEVICE) {
            assert(piece->offset == resident[d]);
            resident[d] += piece->device_bytes;
            continue;
        }
        assert((piece->tier == LAM_TIER_RAM) == plan->pool.kept[piece->unit]);
        assert(piece->offset == 0);
        if (cpu)
            continue; /* in place */
        assert(2 * piece->device_bytes <= plan->arenas[d].regions[LAM_REGION_SLOTS].bytes);
        streamed[d] += piece->bytes;
        n_streamed[d]++;
    }
    for (uint32_t d = 0; d < plan->n_devices; d++) {
        const struct lam_plan_region *region = &plan->arenas[d].regions[LAM_REGION_RESIDENT];
        assert(resident[d] == region->offset + region->bytes);
        assert(streamed[d] == plan->arenas[d].streamed_bytes);
        assert(n_streamed[d] == plan->arenas[d].n_streamed);
    }
}

/* The pool's kept units lie behind the slots without a gap, all inside the budget. */
static void check_pool(const struct lam_plan_request *request, const struct lam_plan *plan)
{
    const struct lam_plan_pool *pool = &plan->pool;
    uint64_t last = pool->n_lanes * pool->lane_bytes + pool->part_bytes;
    uint32_t n_kept = 0;

    assert(pool->pool_bytes <= pool->budget_bytes);
    assert(pool->budget_bytes <= request->host.ram_bytes);
    for (uint32_t u = 0; u < plan->n_units; u++) {
        n_kept += pool->kept[u];
        assert(!pool->kept[u] || pool->offsets[u] >= last);
        assert(!pool->kept[u] ||
               pool->offsets[u] + request->manifest->units[u].bytes <= pool->pool_bytes);
        if (pool->kept[u])
            last = pool->offsets[u] + request->manifest->units[u].bytes;
    }
    assert(n_kept == pool->n_kept);
}

void plan_check(const struct lam_plan_request *request, const struct lam_plan *plan)
{
    uint32_t n_layers = 0;
    uint32_t n_kv[LAM_PLAN_DEVICES_MAX] = {0};

    assert(plan->fits && plan->pass_seconds > 0 && plan->tokens_per_second > 0);
    for (uint32_t d = 0; d < plan->n_devices; d++) {
        check_arena(request, plan, d);
        n_layers += plan->arenas[d].n_layers;
        assert(plan->arenas[d].n_layers_resident <= plan->arenas[d].n_layers);
    }
    assert(n_layers == request->spec->n_layers);
    for (uint32_t l = 0; l < plan->n_layers; l++)
        assert(plan->layers[l].kv_index == n_kv[plan->layers[l].device]++);
    check_coverage(request, plan);
    check_places(plan, request->devices[0].kind == LAM_DEVICE_CPU);
    check_pool(request, plan);
}
