/*
 * spec: see spec.h.
 *
 * Everything that would change the arithmetic is either computed or refused by name: a key that is
 * ignored is a model that answers nonsense. So are tensors: each one in the file has to have a
 * place in the forward pass. Source of the keys: ggml's docs/gguf.md and the files that its
 * converters write.
 */
#include "model/spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "common/utf8.h"
#include "model/layout.h"

#define EMBD_MAX (1u << 18)
#define FF_MAX (1u << 20)
#define HEADS_MAX 4096u
#define HEAD_DIM_MAX 256u /* kernels/ops.h */
#define CTX_MAX (1u << 27)
#define VOCAB_MAX (1u << 22)

/* Keys that change the arithmetic, and the value at which they do not. */
static const struct {
    const char *suffix;
    double neutral;
    const char *what;
} refused_keys[] = {
    {"expert_count", 0, "mixture of experts"},
    {"attention.sliding_window", 0, "sliding-window attention"},
    {"attention.max_alibi_bias", 0, "ALiBi positions"},
    {"attention.clamp_kqv", 0, "clamped attention inputs"},
    {"attention.scale", 0, "an attention scale of its own"},
    {"attn_logit_softcapping", 0, "soft-capped attention"},
    {"final_logit_softcapping", 0, "soft-capped logits"},
    {"logit_scale", 1, "scaled logits"},
    {"embedding_scale", 1, "scaled embeddings"},
    {"residual_scale", 1, "scaled residuals"},
    {"rope.scaling.attn_factor", 1, "a rope attention factor"},
};

/* A missing value of an optional key is no error: the target keeps its default. */
enum need { OPTIONAL, REQUIRED };

struct reader {
    const struct lam_gguf *gguf;
    struct lam_err *err;
    char key[96]; /* the key at hand */
};

static const char *llama_key(struct reader *reader, const char *suffix)
{
    snprintf(reader->key, sizeof reader->key, "llama.%s", suffix);
    return reader->key;
}

static enum lam_status missing(const struct reader *reader, enum need need)
{
    if (need == OPTIONAL)
        return LAM_OK;
    return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
        "the model file has no key '%s', which every llama model needs", reader->key);
}

static enum lam_status read_u32(struct reader *reader, const char *suffix, enum need need,
    uint32_t min, uint32_t max, uint32_t *ret)
{
    uint64_t value = 0;
    enum lam_status status =
        lam_gguf_u64(reader->gguf, llama_key(reader, suffix), &value, reader->err);

    if (status == LAM_NOT_FOUND)
        return missing(reader, need);
    if (status)
        return status;
    if (value < min || value > max)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "key '%s' is %" PRIu64 "; %" PRIu32 " to %" PRIu32 " is allowed", reader->key, value,
            min, max);
    *ret = (uint32_t)value;
    return LAM_OK;
}

static enum lam_status read_real(
    struct reader *reader, const char *suffix, enum need need, double min, double max, float *ret)
{
    double value = 0;
    enum lam_status status =
        lam_gguf_f64(reader->gguf, llama_key(reader, suffix), &value, reader->err);

    if (status == LAM_NOT_FOUND)
        return missing(reader, need);
    if (status)
        return status;
    if (!(value >= min && value <= max)) /* NaN too */
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT, "key '%s' is %g; %g to %g is allowed",
            reader->key, value, min, max);
    *ret = (float)value;
    return LAM_OK;
}

static bool str_is(struct lam_str str, const char *text)
{
    return str.size == strlen(text) && memcmp(str.data, text, str.size) == 0;
}

static enum lam_status read_architecture(struct reader *reader, struct lam_spec *spec)
{
    struct lam_str text = {0};
    enum lam_status status = lam_gguf_str(reader->gguf, "general.architecture", &text, reader->err);

    if (status == LAM_NOT_FOUND)
        return lam_fail(
            reader->err, LAM_INVALID_ARGUMENT, "the model file has no key 'general.architecture'");
    if (status)
        return status;
    if (!lam_utf8_valid(text.data, text.size) || !str_is(text, "llama"))
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "architecture '%.*s' is not supported; this build runs: llama",
            text.size < 32 ? (int)text.size : 32, text.data);
    memcpy(spec->architecture, "llama", sizeof "llama");
    if (lam_gguf_str(reader->gguf, "general.type", &text, NULL) == LAM_OK && !str_is(text, "model"))
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "general.type is '%.*s'; this build runs files of type 'model'",
            text.size < 32 ? (int)text.size : 32, text.data);
    return LAM_OK;
}

/* For people only: what does not fit or is no text is left out. */
static void read_name(const struct reader *reader, struct lam_spec *spec)
{
    struct lam_str text = {0};
    size_t size;

    if (lam_gguf_str(reader->gguf, "general.name", &text, NULL) != LAM_OK)
        return;
    size = text.size < sizeof spec->name ? (size_t)text.size : sizeof spec->name - 1;
    size = lam_utf8_complete_prefix(text.data, size);
    if (!lam_utf8_valid(text.data, size))
        return;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text.data[i];
        spec->name[i] = c < ' ' || c == 0x7f ? ' ' : text.data[i];
    }
}

static enum lam_status refuse_features(struct reader *reader)
{
    bool causal = true;
    enum lam_status status;

    for (size_t i = 0; i < sizeof refused_keys / sizeof refused_keys[0]; i++) {
        const char *key = llama_key(reader, refused_keys[i].suffix);
        uint64_t integer = 0;
        double value = 0;
        status = lam_gguf_f64(reader->gguf, key, &value, NULL);
        if (status == LAM_INVALID_ARGUMENT) {
            status = lam_gguf_u64(reader->gguf, key, &integer, reader->err);
            value = (double)integer;
        }
        if (status == LAM_NOT_FOUND || (status == LAM_OK && value == refused_keys[i].neutral))
            continue;
        if (status)
            return status;
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "key '%s' is %g: the model uses %s, which this build does not run", key, value,
            refused_keys[i].what);
    }
    status =
        lam_gguf_bool(reader->gguf, llama_key(reader, "attention.causal"), &causal, reader->err);
    if (status && status != LAM_NOT_FOUND)
        return status;
    if (!causal)
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "key '%s' is false: the model does not generate text", reader->key);
    return LAM_OK;
}

static enum lam_status read_heads(struct reader *reader, struct lam_spec *spec)
{
    uint32_t value_dim;
    enum lam_status status =
        read_u32(reader, "attention.head_count", REQUIRED, 1, HEADS_MAX, &spec->n_heads);

    if (status)
        return status;
    spec->n_kv_heads = spec->n_heads;
    status =
        read_u32(reader, "attention.head_count_kv", OPTIONAL, 1, spec->n_heads, &spec->n_kv_heads);
    if (status)
        return status;
    if (spec->n_heads % spec->n_kv_heads != 0)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "%" PRIu32 " query heads are no multiple of %" PRIu32
            " key/value heads (llama.attention.head_count, .head_count_kv)",
            spec->n_heads, spec->n_kv_heads);
    spec->head_dim = spec->n_embd % spec->n_heads == 0 ? spec->n_embd / spec->n_heads : 0;
    status = read_u32(reader, "attention.key_length", OPTIONAL, 2, HEAD_DIM_MAX, &spec->head_dim);
    if (status)
        return status;
    if (spec->head_dim < 2 || spec->head_dim > HEAD_DIM_MAX || spec->head_dim % 2 != 0)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "a width of %" PRIu32 " over %" PRIu32
            " heads gives no head size that is even and at most %u "
            "(llama.embedding_length, .attention.head_count, .attention.key_length)",
            spec->n_embd, spec->n_heads, HEAD_DIM_MAX);
    value_dim = spec->head_dim;
    return read_u32(
        reader, "attention.value_length", OPTIONAL, spec->head_dim, spec->head_dim, &value_dim);
}

/* Files without a type but with a factor mean linear scaling; the factor has had two names. */
static enum lam_status read_rope_scaling(struct reader *reader, struct lam_spec *spec)
{
    struct lam_str type = {0};
    float factor = 0;
    enum lam_status status =
        lam_gguf_str(reader->gguf, llama_key(reader, "rope.scaling.type"), &type, reader->err);

    if (status && status != LAM_NOT_FOUND)
        return status;
    if (status == LAM_OK && str_is(type, "none"))
        return LAM_OK;
    if (status == LAM_OK && !str_is(type, "linear"))
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "rope scaling '%.*s' is not supported; this build runs: none, linear, and Llama 3 "
            "factors (rope_freqs.weight)",
            type.size < 32 ? (int)type.size : 32, type.data);
    status = read_real(reader, "rope.scale_linear", OPTIONAL, 1e-3, 1e6, &factor);
    if (!status)
        status = read_real(reader, "rope.scaling.factor",
            type.data && !(factor > 0) ? REQUIRED : OPTIONAL, 1e-3, 1e6, &factor);
    if (status)
        return status;
    if (factor > 0)
        spec->rope_scale = factor;
    return LAM_OK;
}

static enum lam_status read_rope(struct reader *reader, struct lam_spec *spec)
{
    enum lam_status status;

    spec->rope_dim = spec->head_dim;
    spec->rope_base = 10000;
    spec->rope_scale = 1;
    status = read_u32(reader, "rope.dimension_count", OPTIONAL, 2, spec->head_dim, &spec->rope_dim);
    if (status)
        return status;
    if (spec->rope_dim % 2 != 0)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "key 'llama.rope.dimension_count' is %" PRIu32 "; it has to be even", spec->rope_dim);
    status = read_real(reader, "rope.freq_base", OPTIONAL, 1, 1e12, &spec->rope_base);
    if (status)
        return status;
    return read_rope_scaling(reader, spec);
}

/* The vocabulary is what the embedding has rows for; the tokenizer may not disagree. */
static enum lam_status read_vocab(struct reader *reader, struct lam_spec *spec)
{
    struct lam_gguf_strings tokens = {0};
    int64_t index = lam_gguf_find_tensor(reader->gguf, "token_embd.weight");
    uint64_t n_rows;
    enum lam_status status;

    if (index < 0)
        return lam_fail(
            reader->err, LAM_INVALID_ARGUMENT, "the model file has no tensor 'token_embd.weight'");
    n_rows = lam_gguf_tensor(reader->gguf, (uint64_t)index)->dims[1];
    if (n_rows > VOCAB_MAX)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "tensor 'token_embd.weight' has %" PRIu64 " rows; at most %u are allowed", n_rows,
            VOCAB_MAX);
    spec->n_vocab = (uint32_t)n_rows;
    spec->tied_head = lam_gguf_find_tensor(reader->gguf, "output.weight") < 0;
    status = lam_gguf_strings(reader->gguf, "tokenizer.ggml.tokens", &tokens, reader->err);
    if (status)
        return status == LAM_NOT_FOUND ? LAM_OK : status;
    if (tokens.n != n_rows)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "the tokenizer has %" PRIu64 " tokens, but 'token_embd.weight' has %" PRIu64 " rows",
            tokens.n, n_rows);
    return LAM_OK;
}

static enum lam_status read_numbers(struct reader *reader, struct lam_spec *spec)
{
    enum lam_status status =
        read_u32(reader, "block_count", REQUIRED, 1, LAM_LAYERS_MAX, &spec->n_layers);

    if (!status)
        status = read_u32(reader, "embedding_length", REQUIRED, 1, EMBD_MAX, &spec->n_embd);
    if (!status)
        status = read_u32(reader, "feed_forward_length", REQUIRED, 1, FF_MAX, &spec->n_ff);
    if (!status)
        status = read_u32(reader, "context_length", REQUIRED, 1, CTX_MAX, &spec->n_ctx_train);
    if (!status)
        status = read_real(
            reader, "attention.layer_norm_rms_epsilon", REQUIRED, 1e-30, 1, &spec->norm_eps);
    if (!status)
        status = read_heads(reader, spec);
    if (!status)
        status = read_rope(reader, spec);
    if (!status)
        status = read_vocab(reader, spec);
    return status;
}

/* Checks one tensor of the forward pass and ticks it off in used[n_tensors]. */
static enum lam_status check_tensor(const struct reader *reader, const struct lam_spec *spec,
    enum lam_tensor_role role, uint32_t layer, unsigned char *used)
{
    struct lam_layout_tensor wanted = lam_layout_tensor(spec, role, layer);
    int64_t index = lam_gguf_find_tensor(reader->gguf, wanted.name);
    const struct lam_gguf_tensor *tensor;

    if (index < 0 && role == LAM_T_ROPE_FREQS)
        return LAM_OK;
    if (index < 0)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "the model file has no tensor '%s', which every llama model needs", wanted.name);
    tensor = lam_gguf_tensor(reader->gguf, (uint64_t)index);
    if (tensor->dims[0] != wanted.n_cols || tensor->dims[1] != wanted.n_rows ||
        tensor->dims[2] != 1 || tensor->dims[3] != 1)
        return lam_fail(reader->err, LAM_INVALID_ARGUMENT,
            "tensor '%s' has the shape [%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64
            "]; the model's numbers ask for [%" PRIu64 ", %" PRIu64 "]",
            wanted.name, tensor->dims[0], tensor->dims[1], tensor->dims[2], tensor->dims[3],
            wanted.n_cols, wanted.n_rows);
    if (wanted.is_vector && tensor->dtype != LAM_F32)
        return lam_fail(reader->err, LAM_UNIMPLEMENTED,
            "tensor '%s' is of type %s; this build wants F32 there", wanted.name,
            lam_dtype_info(tensor->dtype)->name);
    used[index] = 1;
    return LAM_OK;
}

static enum lam_status check_all_tensors(
    const struct reader *reader, const struct lam_spec *spec, unsigned char *used)
{
    enum lam_status status = check_tensor(reader, spec, LAM_T_EMBEDDING, 0, used);

    for (uint32_t layer = 0; layer < spec->n_layers; layer++)
        for (uint32_t role = 0; role < LAM_LAYER_ROLES && !status; role++)
            status = check_tensor(reader, spec, (enum lam_tensor_role)role, layer, used);
    if (!status)
        status = check_tensor(reader, spec, LAM_T_OUTPUT_NORM, 0, used);
    if (!status && !spec->tied_head)
        status = check_tensor(reader, spec, LAM_T_OUTPUT, 0, used);
    if (!status)
        status = check_tensor(reader, spec, LAM_T_ROPE_FREQS, 0, used);
    for (uint64_t i = 0; i < lam_gguf_n_tensors(reader->gguf) && !status; i++)
        if (!used[i]) {
            struct lam_str name = lam_gguf_tensor(reader->gguf, i)->name;
            status = lam_fail(reader->err, LAM_UNIMPLEMENTED,
                "tensor '%.*s' has no place in the forward pass of this build (no biases, "
                "experts, adapters or query/key norms)",
                (int)name.size, name.data);
        }
    return status;
}

static enum lam_status check_tensors(const struct reader *reader, const struct lam_spec *spec)
{
    unsigned char *used = lam_calloc(lam_gguf_n_tensors(reader->gguf), 1);
    enum lam_status status;

    if (!used)
        return lam_fail(
            reader->err, LAM_RESOURCE_EXHAUSTED, "no memory to check the model's tensors");
    status = check_all_tensors(reader, spec, used);
    lam_free(used);
    return status;
}

enum lam_status lam_spec_read(
    const struct lam_gguf *gguf, struct lam_spec *ret_spec, struct lam_err *err)
{
    struct reader reader = {.gguf = gguf, .err = err};
    struct lam_spec spec = {0};
    enum lam_status status = read_architecture(&reader, &spec);

    if (!status)
        status = refuse_features(&reader);
    if (!status)
        status = read_numbers(&reader, &spec);
    if (!status)
        status = check_tensors(&reader, &spec);
    if (status)
        return status;
    read_name(&reader, &spec);
    *ret_spec = spec;
    return LAM_OK;
}
