/*
 * forward: one pass of a llama model through the table of operations.
 *
 *     x = embedding rows
 *     for each layer:
 *         x += out(attention(rope(q), rope(k), v))     q, k, v of norm(x)
 *         x += down(silu(gate) * up)                   gate, up of norm(x)
 *     logits = head(norm(wanted rows of x)), tile by tile
 *
 * A layer's weights are used where the loader put them, between acquire and release of its unit;
 * nothing of them is copied or kept. Every acquired unit is released, also the head's when nobody
 * wants logits: units come in cyclic order.
 */
#include "worker/forward.h"

#include <assert.h>
#include <math.h>

/* A tensor of the unit under `base`. lam_manifest_build has checked that it is there. */
static const void *weight_at(
    const struct lam_unit *unit, const unsigned char *base, enum lam_tensor_role role)
{
    const struct lam_unit_tensor *tensor = lam_unit_find(unit, role);

    assert(tensor);
    return base + tensor->offset;
}

/* The same, for a vector of floats that is read in place. */
static const float *floats_at(
    const struct lam_unit *unit, const unsigned char *base, enum lam_tensor_role role)
{
    const void *weight = weight_at(unit, base, role);

    assert(lam_unit_find(unit, role)->dtype == LAM_F32);
    assert((uintptr_t)weight % sizeof(float) == 0);
    return weight;
}

static struct lam_matmul_mat mat_at(const struct lam_unit *unit, const unsigned char *base,
    enum lam_tensor_role role, float *out, uint64_t out_stride)
{
    const struct lam_unit_tensor *tensor = lam_unit_find(unit, role);

    assert(tensor && tensor->n_rows <= UINT32_MAX);
    return (struct lam_matmul_mat){
        .weight = base + tensor->offset,
        .dtype = tensor->dtype,
        .n_out = (uint32_t)tensor->n_rows,
        .out = out,
        .out_stride = out_stride,
    };
}

static void norm_rows(const struct lam_engine *engine, const float *x, const float *weight,
    float *out, uint32_t n_rows)
{
    struct lam_rms_norm_args norm = {
        .x = x,
        .weight = weight,
        .out = out,
        .n_rows = n_rows,
        .n_cols = engine->model->spec.n_embd,
        .eps = engine->model->spec.norm_eps,
    };

    engine->config.ops->rms_norm(engine->kernels, &norm);
}

static enum lam_status embed(
    const struct lam_engine *engine, const struct lam_pass *pass, struct lam_err *err)
{
    const void **rows = lam_engine_at(engine, engine->layout.rows);
    struct lam_dequant_args dequant = {
        .rows = rows,
        .dtype = engine->model->manifest.embedding.dtype,
        .n_rows = pass->n_rows,
        .n_cols = engine->model->spec.n_embd,
        .out = lam_engine_at(engine, engine->layout.x),
    };
    enum lam_status status = lam_units_embedding_rows(
        engine->units, lam_engine_at(engine, engine->layout.ids), pass->n_rows, rows, err);

    if (status == LAM_OK)
        engine->config.ops->dequant(engine->kernels, &dequant);
    return status;
}

/* The angles depend on positions alone: one table serves all layers of the pass. */
static void fill_rope_table(const struct lam_engine *engine, uint32_t n_rows)
{
    const struct lam_spec *spec = &engine->model->spec;
    bool has_factors = engine->model->manifest.rope_freqs.bytes > 0;
    struct lam_rope_table_args table = {
        .positions = lam_engine_at(engine, engine->layout.positions),
        .n_rows = n_rows,
        .rope_dim = spec->rope_dim,
        .base = spec->rope_base,
        .scale = spec->rope_scale,
        .factors = has_factors ? lam_engine_at(engine, engine->layout.rope_factors) : NULL,
        .table = lam_engine_at(engine, engine->layout.rope_table),
    };

    engine->config.ops->rope_table(engine->kernels, &table);
}

static void rotate(const struct lam_engine *engine, float *x, uint32_t n_rows, uint32_t n_heads)
{
    struct lam_rope_args rope = {
        .x = x,
        .table = lam_engine_at(engine, engine->layout.rope_table),
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
    unsigned char *k = lam_engine_at(engine, engine->layout.kv_data);

    k += (uint64_t)layer * 2 * engine->layout.kv_side_bytes;
    return (struct lam_kv_layer){
        .k = k,
        .v = k + engine->layout.kv_side_bytes,
        .dtype = engine->config.kv_dtype,
        .n_kv_heads = engine->model->spec.n_kv_heads,
        .head_dim = engine->model->spec.head_dim,
        .page_tokens = engine->config.page_tokens,
    };
}

static void attend(const struct lam_engine *engine, const struct lam_pass *pass, uint32_t layer)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_engine_layout *layout = &engine->layout;
    float *q = lam_engine_at(engine, layout->q);
    float *k = lam_engine_at(engine, layout->k);
    struct lam_kv_layer kv = kv_of_layer(engine, layer);
    struct lam_kv_write_args write = {
        .k = k,
        .v = lam_engine_at(engine, layout->v),
        .kv = kv,
        .seqs = lam_engine_at(engine, layout->seqs),
        .n_seqs = pass->n_seqs,
    };
    struct lam_attention_args attention = {
        .q = q,
        .out = lam_engine_at(engine, layout->attended),
        .n_heads = spec->n_heads,
        .scale = 1.0f / sqrtf((float)spec->head_dim),
        .kv = kv,
        .seqs = lam_engine_at(engine, layout->seqs),
        .n_seqs = pass->n_seqs,
    };

    rotate(engine, q, pass->n_rows, spec->n_heads);
    rotate(engine, k, pass->n_rows, spec->n_kv_heads);
    engine->config.ops->kv_write(engine->kernels, &write);
    engine->config.ops->attention(engine->kernels, &attention);
}

/* x += out(attention(norm(x))) */
static void attention_block(const struct lam_engine *engine, const struct lam_pass *pass,
    const struct lam_unit *unit, const unsigned char *base)
{
    const struct lam_kernel_ops *ops = engine->config.ops;
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_engine_layout *layout = &engine->layout;
    uint32_t q_cols = spec->n_heads * spec->head_dim;
    uint32_t kv_cols = spec->n_kv_heads * spec->head_dim;
    float *x = lam_engine_at(engine, layout->x);
    float *normed = lam_engine_at(engine, layout->normed);
    float *q = lam_engine_at(engine, layout->q);
    float *k = lam_engine_at(engine, layout->k);
    float *v = lam_engine_at(engine, layout->v);
    struct lam_matmul_args qkv = {
        .x = normed,
        .n_rows = pass->n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 3,
        .mats = {mat_at(unit, base, LAM_T_ATTN_Q, q, q_cols),
            mat_at(unit, base, LAM_T_ATTN_K, k, kv_cols),
            mat_at(unit, base, LAM_T_ATTN_V, v, kv_cols)},
    };
    struct lam_matmul_args out = {
        .x = lam_engine_at(engine, layout->attended),
        .n_rows = pass->n_rows,
        .n_cols = q_cols,
        .accumulate = true,
        .n_mats = 1,
        .mats = {mat_at(unit, base, LAM_T_ATTN_OUT, x, spec->n_embd)},
    };

    norm_rows(engine, x, floats_at(unit, base, LAM_T_ATTN_NORM), normed, pass->n_rows);
    ops->matmul(engine->kernels, &qkv);
    attend(engine, pass, unit->layer);
    ops->matmul(engine->kernels, &out);
}

/* x += down(silu(gate(norm(x))) * up(norm(x))) */
static void ffn_block(const struct lam_engine *engine, const struct lam_pass *pass,
    const struct lam_unit *unit, const unsigned char *base)
{
    const struct lam_kernel_ops *ops = engine->config.ops;
    const struct lam_spec *spec = &engine->model->spec;
    float *x = lam_engine_at(engine, engine->layout.x);
    float *normed = lam_engine_at(engine, engine->layout.normed);
    float *gate = lam_engine_at(engine, engine->layout.gate);
    float *up = lam_engine_at(engine, engine->layout.up);
    struct lam_matmul_args gate_up = {
        .x = normed,
        .n_rows = pass->n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 2,
        .mats = {mat_at(unit, base, LAM_T_FFN_GATE, gate, spec->n_ff),
            mat_at(unit, base, LAM_T_FFN_UP, up, spec->n_ff)},
    };
    struct lam_swiglu_args swiglu = {
        .gate = gate,
        .up = up,
        .out = gate,
        .n = (uint64_t)pass->n_rows * spec->n_ff,
    };
    struct lam_matmul_args down = {
        .x = gate,
        .n_rows = pass->n_rows,
        .n_cols = spec->n_ff,
        .accumulate = true,
        .n_mats = 1,
        .mats = {mat_at(unit, base, LAM_T_FFN_DOWN, x, spec->n_embd)},
    };

    norm_rows(engine, x, floats_at(unit, base, LAM_T_FFN_NORM), normed, pass->n_rows);
    ops->matmul(engine->kernels, &gate_up);
    ops->swiglu(engine->kernels, &swiglu);
    ops->matmul(engine->kernels, &down);
}

/* Norms the wanted rows into head_in, back to back; returns their number. */
static uint32_t collect_wanted(const struct lam_engine *engine, const struct lam_pass *pass)
{
    uint32_t n_embd = engine->model->spec.n_embd;
    const float *x = lam_engine_at(engine, engine->layout.x);
    const float *weight = lam_engine_at(engine, engine->layout.output_norm);
    float *head_in = lam_engine_at(engine, engine->layout.head_in);
    uint32_t n_collected = 0;
    uint64_t row_end = 0;

    for (uint32_t i = 0; i < pass->n_seqs; i++) {
        uint32_t n_wanted = lam_engine_wanted(&pass->rows[i]);

        row_end += pass->rows[i].n_tokens;
        if (n_wanted == 0)
            continue;
        norm_rows(engine, x + (row_end - n_wanted) * n_embd, weight,
            head_in + (uint64_t)n_collected * n_embd, n_wanted);
        n_collected += n_wanted;
    }
    return n_collected;
}

static void head_tile(const struct lam_engine *engine, const struct lam_unit *unit,
    const unsigned char *base, uint32_t n_rows)
{
    const struct lam_spec *spec = &engine->model->spec;
    const struct lam_unit_tensor *tile = lam_unit_find(unit, LAM_T_OUTPUT);
    float *logits = lam_engine_at(engine, engine->layout.logits);
    struct lam_matmul_args head = {
        .x = lam_engine_at(engine, engine->layout.head_in),
        .n_rows = n_rows,
        .n_cols = spec->n_embd,
        .n_mats = 1,
    };

    assert(tile && tile->row_begin + tile->n_rows <= spec->n_vocab);
    head.mats[0] = mat_at(unit, base, LAM_T_OUTPUT, logits + tile->row_begin, spec->n_vocab);
    engine->config.ops->matmul(engine->kernels, &head);
}

enum lam_status lam_forward(
    struct lam_engine *engine, const struct lam_pass *pass, struct lam_err *err)
{
    const struct lam_manifest *manifest = &engine->model->manifest;
    enum lam_status status = embed(engine, pass, err);
    bool collected = false;
    uint32_t n_wanted = 0;

    if (status != LAM_OK)
        return status;
    fill_rope_table(engine, pass->n_rows);
    for (uint32_t i = 0; i < manifest->n_units; i++) {
        const struct lam_unit *unit = &manifest->units[i];
        const void *base;

        status = lam_units_acquire(engine->units, i, &base, err);
        if (status != LAM_OK)
            return status;
        if (unit->kind == LAM_UNIT_LAYER) {
            attention_block(engine, pass, unit, base);
            ffn_block(engine, pass, unit, base);
        } else {
            if (!collected)
                n_wanted = collect_wanted(engine, pass);
            collected = true;
            if (n_wanted > 0)
                head_tile(engine, unit, base, n_wanted);
        }
        lam_units_release(engine->units, i);
    }
    return LAM_OK;
}
