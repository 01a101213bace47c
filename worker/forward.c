/*
 * forward: one pass of a llama model through the table of operations.
 *
 *     x = embedding rows
 *     for each layer:
 *         x += out(attention(rope(q), rope(k), v))     q, k, v of norm(x)
 *         x += down(silu(gate) * up)                   gate, up of norm(x)
 *     logits = head(norm(wanted rows of x)), tile by tile
 *
 * It walks the pieces of the plan: a layer is one piece, or attention, gate with up, and down one
 * by one. A piece's weights are used where their source has them (weights.h), between acquire and
 * release; nothing of them is kept. Every piece is acquired, also the head's when nobody wants
 * logits: sources go round.
 */
#include "worker/forward.h"

#include <assert.h>
#include <math.h>

#include "worker/embedding.h"

/* A piece, where it is right now. */
struct part {
    const struct lam_plan_piece *piece;
    const struct lam_unit *unit;
    const unsigned char *base;
    uint32_t arranged; /* bits of roles */
};

static const void *weight_at(const struct part *part, const struct lam_unit_tensor *tensor)
{
    uint64_t offset = 0;
    bool here = tensor && lam_plan_tensor_offset(part->piece, tensor, &offset);

    assert(here); /* lam_manifest_build has checked that the layer has it, the plan cuts by role */
    return part->base + offset;
}

/* A vector of floats that is read in place. */
static const float *floats_at(const struct part *part, enum lam_tensor_role role)
{
    const struct lam_unit_tensor *tensor = lam_unit_find(part->unit, role);
    const void *weight = weight_at(part, tensor);

    assert(tensor->dtype == LAM_F32);
    assert((uintptr_t)weight % sizeof(float) == 0);
    return weight;
}

static struct lam_matmul_mat mat_at(
    const struct part *part, enum lam_tensor_role role, float *out, uint64_t out_stride)
{
    const struct lam_unit_tensor *tensor = lam_unit_find(part->unit, role);
    const void *weight = weight_at(part, tensor);

    assert(tensor->n_rows <= UINT32_MAX);
    return (struct lam_matmul_mat){
        .weight = weight,
        .dtype = tensor->dtype,
        .n_out = (uint32_t)tensor->n_rows,
        .out = out,
        .out_stride = out_stride,
        .arranged = (part->arranged >> role & 1) != 0,
    };
}

static void norm_rows(const struct lam_engine *engine, const float *x, const float *weight,
    float *out, uint32_t n_rows, bool product_only)
{
    struct lam_rms_norm_args norm = {
        .x = x,
        .weight = weight,
        .out = out,
        .n_rows = n_rows,
        .n_cols = engine->model->spec.n_embd,
        .eps = engine->model->spec.norm_eps,
        .product_only = product_only,
    };

    engine->config.ops->rms_norm(engine->kernels, &norm);
}

/* The angles depend on positions alone: one table serves all layers of the pass. */
static void fill_rope_table(const struct lam_engine *engine, uint32_t n_rows)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    bool has_factors = engine->model->manifest.rope_freqs.bytes > 0;
    struct lam_rope_table_args table = {
        .positions = lam_engine_at(engine, buffers->arrival),
        .n_rows = n_rows,
        .rope_dim = spec->rope_dim,
        .base = spec->rope_base,
        .scale = spec->rope_scale,
        .factors = has_factors ? lam_engine_at(engine, buffers->rope_factors) : NULL,
        .table = lam_engine_at(engine, buffers->rope),
    };

    engine->config.ops->rope_table(engine->kernels, &table);
}

static void rotate(const struct lam_engine *engine, float *x, uint32_t n_rows, uint32_t n_heads)
{
    struct lam_rope_args rope = {
        .x = x,
        .table = lam_engine_at(engine, lam_engine_buffers(engine)->rope),
        .n_rows = n_rows,
        .n_heads = n_heads,
        .head_dim = engine->model->spec.head_dim,
        .rope_dim = engine->model->spec.rope_dim,
        .pairing = LAM_ROPE_ADJACENT,
    };

    engine->config.ops->rope(engine->kernels, &rope);
}

static struct lam_kv_layer kv_of_layer(const struct lam_engine *engine, uint32_t layer)
{
    const struct lam_plan *plan = &engine->plan;
    const struct lam_plan_arena *arena = &plan->arenas[0];
    const struct lam_plan_region *region = &arena->regions[LAM_REGION_KV];
    uint64_t layer_bytes = region->bytes / arena->n_layers;
    unsigned char *k =
        lam_engine_at(engine, region->offset + plan->layers[layer].kv_index * layer_bytes);

    return (struct lam_kv_layer){
        .k = k,
        .v = k + plan->n_pages * plan->kv_page_bytes,
        .dtype = plan->kv_dtype,
        .n_kv_heads = engine->model->spec.n_kv_heads,
        .head_dim = engine->model->spec.head_dim,
        .page_tokens = plan->page_tokens,
    };
}

static void attend(const struct lam_engine *engine, const struct lam_pass *pass, uint32_t layer)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    float *q = lam_engine_at(engine, buffers->q);
    float *k = lam_engine_at(engine, buffers->k);
    struct lam_kv_layer kv = kv_of_layer(engine, layer);
    struct lam_kv_write_args write = {
        .k = k,
        .v = lam_engine_at(engine, buffers->v),
        .kv = kv,
        .seqs = lam_engine_host(engine, engine->layout.seqs),
        .n_seqs = pass->n_seqs,
    };
    struct lam_attention_args attention = {
        .q = q,
        .out = lam_engine_at(engine, buffers->attended),
        .n_heads = spec->n_heads,
        .scale = 1.0f / sqrtf((float)spec->head_dim),
        .kv = kv,
        .seqs = lam_engine_host(engine, engine->layout.seqs),
        .n_seqs = pass->n_seqs,
        .product_only = true,
    };

    rotate(engine, q, pass->n_rows, spec->n_heads);
    rotate(engine, k, pass->n_rows, spec->n_kv_heads);
    engine->config.ops->kv_write(engine->kernels, &write);
    engine->config.ops->attention(engine->kernels, &attention);
}

/* x += out(attention(norm(x))) */
static void attention_block(
    const struct lam_engine *engine, const struct lam_pass *pass, const struct part *part)
{
    const struct lam_kernel_ops *ops = engine->config.ops;
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    uint32_t q_cols = spec->n_heads * spec->head_dim;
    uint32_t kv_cols = spec->n_kv_heads * spec->head_dim;
    float *x = lam_engine_at(engine, buffers->residual);
    float *normed = lam_engine_at(engine, buffers->normed);
    float *q = lam_engine_at(engine, buffers->q);
    float *k = lam_engine_at(engine, buffers->k);
    float *v = lam_engine_at(engine, buffers->v);
    struct lam_matmul_args qkv = {
        .x = normed,
        .n_rows = pass->n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 3,
        .mats = {mat_at(part, LAM_T_ATTN_Q, q, q_cols), mat_at(part, LAM_T_ATTN_K, k, kv_cols),
            mat_at(part, LAM_T_ATTN_V, v, kv_cols)},
    };
    struct lam_matmul_args out = {
        .x = lam_engine_at(engine, buffers->attended),
        .n_rows = pass->n_rows,
        .n_cols = q_cols,
        .accumulate = true,
        .n_mats = 1,
        .mats = {mat_at(part, LAM_T_ATTN_OUT, x, spec->n_embd)},
    };

    norm_rows(engine, x, floats_at(part, LAM_T_ATTN_NORM), normed, pass->n_rows, true);
    ops->matmul(engine->kernels, &qkv);
    attend(engine, pass, part->unit->layer);
    ops->matmul(engine->kernels, &out);
}

/* gate = silu(gate(norm(x))) * up(norm(x)) */
static void gate_up_block(
    const struct lam_engine *engine, const struct lam_pass *pass, const struct part *part)
{
    const struct lam_kernel_ops *ops = engine->config.ops;
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    float *normed = lam_engine_at(engine, buffers->normed);
    float *gate = lam_engine_at(engine, buffers->gate);
    float *up = lam_engine_at(engine, buffers->up);
    struct lam_matmul_args gate_up = {
        .x = normed,
        .n_rows = pass->n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 2,
        .mats = {mat_at(part, LAM_T_FFN_GATE, gate, spec->n_ff),
            mat_at(part, LAM_T_FFN_UP, up, spec->n_ff)},
    };
    struct lam_swiglu_args swiglu = {
        .gate = gate,
        .up = up,
        .out = gate,
        .n = (uint64_t)pass->n_rows * spec->n_ff,
        .product_cols = spec->n_ff,
    };

    norm_rows(engine, lam_engine_at(engine, buffers->residual), floats_at(part, LAM_T_FFN_NORM),
        normed, pass->n_rows, true);
    ops->matmul(engine->kernels, &gate_up);
    ops->swiglu(engine->kernels, &swiglu);
}

/* x += down(gate) */
static void down_block(
    const struct lam_engine *engine, const struct lam_pass *pass, const struct part *part)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    struct lam_matmul_args down = {
        .x = lam_engine_at(engine, buffers->gate),
        .n_rows = pass->n_rows,
        .n_cols = spec->n_ff,
        .accumulate = true,
        .n_mats = 1,
        .mats = {mat_at(
            part, LAM_T_FFN_DOWN, lam_engine_at(engine, buffers->residual), spec->n_embd)},
    };

    engine->config.ops->matmul(engine->kernels, &down);
}

/* Norms the wanted rows into head_in, back to back; returns their number. */
static uint32_t collect_wanted(const struct lam_engine *engine, const struct lam_pass *pass)
{
    uint32_t n_embd = engine->model->spec.n_embd;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    const float *x = lam_engine_at(engine, buffers->residual);
    const float *weight = lam_engine_at(engine, buffers->output_norm);
    float *head_in = lam_engine_at(engine, buffers->head_in);
    uint32_t n_collected = 0;
    uint64_t row_end = 0;

    for (uint32_t i = 0; i < pass->n_seqs; i++) {
        uint32_t n_wanted = lam_engine_wanted(&pass->rows[i]);

        row_end += pass->rows[i].n_tokens;
        if (n_wanted == 0)
            continue;
        norm_rows(engine, x + (row_end - n_wanted) * n_embd, weight,
            head_in + (uint64_t)n_collected * n_embd, n_wanted, false);
        n_collected += n_wanted;
    }
    return n_collected;
}

static void head_tile(const struct lam_engine *engine, const struct part *part, uint32_t n_rows)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    const struct lam_unit_tensor *tile = lam_unit_find(part->unit, LAM_T_OUTPUT);
    float *logits = lam_engine_at(engine, buffers->logits);
    struct lam_matmul_args head = {
        .x = lam_engine_at(engine, buffers->head_in),
        .n_rows = n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 1,
    };

    assert(tile && tile->row_begin + tile->n_rows <= spec->n_vocab);
    head.mats[0] = mat_at(
        part, LAM_T_OUTPUT, logits + tile->row_begin + part->piece->row_begin, spec->n_vocab);
    if (part->piece->kind == LAM_PIECE_HEAD)
        head.mats[0].n_out = (uint32_t)part->piece->n_rows;
    engine->config.ops->matmul(engine->kernels, &head);
}

static void layer_piece(
    const struct lam_engine *engine, const struct lam_pass *pass, const struct part *part)
{
    enum lam_piece_kind kind = part->piece->kind;

    if (kind == LAM_PIECE_UNIT || kind == LAM_PIECE_ATTENTION)
        attention_block(engine, pass, part);
    if (kind == LAM_PIECE_UNIT || kind == LAM_PIECE_GATE_UP)
        gate_up_block(engine, pass, part);
    if (kind == LAM_PIECE_UNIT || kind == LAM_PIECE_DOWN)
        down_block(engine, pass, part);
}

enum lam_status lam_forward(struct lam_engine *engine, const struct lam_pass *pass,
    uint32_t *ret_n_wanted, struct lam_err *err)
{
    const struct lam_plan *plan = &engine->plan;
    struct lam_weights *weights = engine->weights;
    enum lam_status status = lam_embedding_gather(engine, pass->n_rows, err);
    bool collected = false;
    uint32_t n_wanted = 0;

    if (status != LAM_OK)
        return status;
    fill_rope_table(engine, pass->n_rows);
    for (uint32_t p = 0; p < plan->n_pieces; p++) {
        struct part part = {.piece = &plan->pieces[p]};

        part.unit = &engine->model->manifest.units[part.piece->unit];
        part.arranged = engine->arranged ? engine->arranged[p] : 0;
        if (p > 0 || !engine->config.device || !weights->ops->find(weights, p))
            lam_engine_tell_begun(engine);
        status = weights->ops->acquire(weights, p, &part.base, err);
        if (status != LAM_OK)
            return status;
        if (part.unit->kind == LAM_UNIT_LAYER) {
            layer_piece(engine, pass, &part);
        } else {
            if (!collected)
                n_wanted = collect_wanted(engine, pass);
            collected = true;
            if (n_wanted > 0)
                head_tile(engine, &part, n_wanted);
        }
        weights->ops->release(weights, p);
    }
    *ret_n_wanted = n_wanted;
    return LAM_OK;
}
