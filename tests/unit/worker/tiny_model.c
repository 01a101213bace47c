/* tiny_model: see tiny_model.h. */
#include "tests/unit/worker/tiny_model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/unit/model/gguf_builder.h"

#define MAX_POSITIONS 64
#define MAX_WIDTH 512

/* Uniform in [-1, 1), from a counter. */
static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

static void fill_weights(struct tiny_model *tiny)
{
    uint32_t state = 42;

    for (uint64_t i = 0; i < lam_gguf_n_tensors(tiny->model.gguf); i++) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(tiny->model.gguf, i);
        bool is_vector = tensor->dims[1] == 1;
        float scale = is_vector ? 0.25f : 1.5f / sqrtf((float)tensor->dims[0]);

        assert(tensor->dtype == LAM_F32);
        for (uint64_t k = 0; k < tensor->bytes / sizeof(float); k++) {
            float value = (is_vector ? 1.0f : 0.0f) + scale * noise(&state);
            memcpy(tiny->image + tensor->offset + k * sizeof value, &value, sizeof value);
        }
    }
}

struct lam_spec tiny_model_shape(uint32_t n_layers, uint32_t n_vocab, bool tied_head)
{
    return (struct lam_spec){.n_layers = n_layers,
        .n_embd = 128,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 32,
        .n_ff = 384,
        .n_vocab = n_vocab,
        .n_ctx_train = 128,
        .rope_dim = 32,
        .rope_base = 10000,
        .rope_scale = 1,
        .norm_eps = 1e-5f,
        .tied_head = tied_head};
}

void tiny_model_make(struct tiny_model *tiny, bool rope_freqs)
{
    struct lam_spec shape = gguf_builder_small_spec();

    tiny_model_make_of(tiny, &shape, rope_freqs);
}

void tiny_model_make_of(struct tiny_model *tiny, const struct lam_spec *shape, bool rope_freqs)
{
    struct lam_spec spec = *shape;
    struct gguf_builder *builder = lam_calloc(1, sizeof *builder);
    struct lam_buf header = LAM_BUF((size_t)1 << 22);
    struct lam_model *model = &tiny->model;
    struct lam_err err = {0};
    enum lam_status status;

    assert(builder);
    *tiny = (struct tiny_model){0};
    gguf_builder_init(builder);
    gguf_builder_llama(builder, &spec, LAM_F32);
    if (rope_freqs)
        gguf_builder_tensor(builder, "rope_freqs.weight", LAM_F32, spec.rope_dim / 2, 0);
    gguf_builder_header(builder, &header);
    tiny->image = lam_calloc(builder->file_bytes, 1);
    assert(tiny->image);
    memcpy(tiny->image, header.data, header.size);
    model->header = tiny->image;
    model->header_bytes = header.size;
    model->file_bytes = builder->file_bytes;
    status = lam_gguf_parse(tiny->image, header.size, builder->file_bytes, &model->gguf, &err);
    if (status == LAM_OK)
        status = lam_spec_read(model->gguf, &model->spec, &err);
    if (status == LAM_OK)
        status = lam_manifest_build(model->gguf, &model->spec, &model->manifest, &err);
    if (status != LAM_OK)
        fprintf(stderr, "tiny_model: %s\n", err.text);
    assert(status == LAM_OK);
    assert((model->manifest.rope_freqs.bytes > 0) == rope_freqs);
    fill_weights(tiny);
    lam_buf_done(&header);
    gguf_builder_done(builder);
    lam_free(builder);
}

void tiny_model_done(struct tiny_model *tiny)
{
    lam_manifest_done(&tiny->model.manifest);
    lam_gguf_destroy(tiny->model.gguf);
    lam_free(tiny->image);
}

/* Weight [row, col] of a named tensor. */
static double at(const struct tiny_model *tiny, const char *name, uint64_t row, uint64_t col)
{
    int64_t index = lam_gguf_find_tensor(tiny->model.gguf, name);
    const struct lam_gguf_tensor *tensor;
    float value;

    assert(index >= 0);
    tensor = lam_gguf_tensor(tiny->model.gguf, (uint64_t)index);
    memcpy(&value, tiny->image + tensor->offset + (row * tensor->dims[0] + col) * sizeof value,
        sizeof value);
    return (double)value;
}

static void multiply(const struct tiny_model *tiny, const char *name, const double *x,
    uint32_t n_in, double *out, uint32_t n_out)
{
    for (uint32_t n = 0; n < n_out; n++) {
        out[n] = 0;
        for (uint32_t k = 0; k < n_in; k++)
            out[n] += x[k] * at(tiny, name, n, k);
    }
}

static void normalise(const struct tiny_model *tiny, const char *name, const double *x, double *out)
{
    uint32_t n = tiny->model.spec.n_embd;
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] / sqrt(sum / n + (double)tiny->model.spec.norm_eps) * at(tiny, name, 0, i);
}

static void rotate(
    const struct tiny_model *tiny, double *heads, uint32_t n_heads, uint32_t position)
{
    const struct lam_spec *spec = &tiny->model.spec;

    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < spec->rope_dim / 2; i++) {
            double factor =
                tiny->model.manifest.rope_freqs.bytes ? at(tiny, "rope_freqs.weight", 0, i) : 1;
            double angle = position / (double)spec->rope_scale *
                           pow((double)spec->rope_base, -2.0 * i / spec->rope_dim) / factor;
            double *pair = heads + h * spec->head_dim + 2 * i;
            double x = pair[0];
            double y = pair[1];
            pair[0] = x * cos(angle) - y * sin(angle);
            pair[1] = x * sin(angle) + y * cos(angle);
        }
}

/* Keys and values of all layers and positions so far. */
struct cache {
    double k[8][MAX_POSITIONS][MAX_WIDTH];
    double v[8][MAX_POSITIONS][MAX_WIDTH];
};

static void attend(const struct lam_spec *spec, const struct cache *cache, uint32_t layer,
    uint32_t position, const double *q, double *out)
{
    for (uint32_t h = 0; h < spec->n_heads; h++) {
        uint32_t kv = h / (spec->n_heads / spec->n_kv_heads) * spec->head_dim;
        double weight[MAX_POSITIONS];
        double sum = 0;

        for (uint32_t p = 0; p <= position; p++) {
            double dot = 0;
            for (uint32_t i = 0; i < spec->head_dim; i++)
                dot += q[h * spec->head_dim + i] * cache->k[layer][p][kv + i];
            weight[p] = exp(dot / sqrt(spec->head_dim));
            sum += weight[p];
        }
        for (uint32_t i = 0; i < spec->head_dim; i++) {
            double mixed = 0;
            for (uint32_t p = 0; p <= position; p++)
                mixed += weight[p] / sum * cache->v[layer][p][kv + i];
            out[h * spec->head_dim + i] = mixed;
        }
    }
}

static void run_layer(const struct tiny_model *tiny, struct cache *cache, uint32_t layer,
    uint32_t position, double *x)
{
    const struct lam_spec *spec = &tiny->model.spec;
    const char *names[] = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
        "ffn_gate", "ffn_up", "ffn_down"};
    char name[9][48];
    double normed[MAX_WIDTH], q[MAX_WIDTH], mixed[MAX_WIDTH], up[MAX_WIDTH], out[MAX_WIDTH];
    double *k = cache->k[layer][position];
    double *v = cache->v[layer][position];
    uint32_t q_width = spec->n_heads * spec->head_dim;
    uint32_t kv_width = spec->n_kv_heads * spec->head_dim;

    for (int i = 0; i < 9; i++)
        snprintf(name[i], sizeof name[i], "blk.%u.%s.weight", layer, names[i]);
    normalise(tiny, name[0], x, normed);
    multiply(tiny, name[1], normed, spec->n_embd, q, q_width);
    multiply(tiny, name[2], normed, spec->n_embd, k, kv_width);
    multiply(tiny, name[3], normed, spec->n_embd, v, kv_width);
    rotate(tiny, q, spec->n_heads, position);
    rotate(tiny, k, spec->n_kv_heads, position);
    attend(spec, cache, layer, position, q, mixed);
    multiply(tiny, name[4], mixed, q_width, out, spec->n_embd);
    for (uint32_t i = 0; i < spec->n_embd; i++)
        x[i] += out[i];
    normalise(tiny, name[5], x, normed);
    multiply(tiny, name[6], normed, spec->n_embd, mixed, spec->n_ff);
    multiply(tiny, name[7], normed, spec->n_embd, up, spec->n_ff);
    for (uint32_t i = 0; i < spec->n_ff; i++)
        mixed[i] = mixed[i] / (1 + exp(-mixed[i])) * up[i];
    multiply(tiny, name[8], mixed, spec->n_ff, out, spec->n_embd);
    for (uint32_t i = 0; i < spec->n_embd; i++)
        x[i] += out[i];
}

void tiny_model_logits(
    const struct tiny_model *tiny, const int32_t *ids, uint32_t n_ids, double *out)
{
    const struct lam_spec *spec = &tiny->model.spec;
    struct cache *cache = lam_calloc(1, sizeof *cache);
    double x[MAX_WIDTH], normed[MAX_WIDTH];

    assert(cache && n_ids <= MAX_POSITIONS && spec->n_layers <= 8 && spec->n_ff <= MAX_WIDTH);
    for (uint32_t t = 0; t < n_ids; t++) {
        for (uint32_t i = 0; i < spec->n_embd; i++)
            x[i] = at(tiny, "token_embd.weight", (uint64_t)ids[t], i);
        for (uint32_t layer = 0; layer < spec->n_layers; layer++)
            run_layer(tiny, cache, layer, t, x);
        normalise(tiny, "output_norm.weight", x, normed);
        multiply(tiny, spec->tied_head ? "token_embd.weight" : "output.weight", normed,
            spec->n_embd, out + (uint64_t)t * spec->n_vocab, spec->n_vocab);
    }
    lam_free(cache);
}
