/*
 * synth_model: see synth_model.h. Two walks over the tensors in file order: one adds them to the
 * header, which then knows its size, and one says where in the file each begins.
 */
#include "cli/synth_model.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "cli/synth_vocab.h"
#include "common/mem.h"
#include "common/size.h"
#include "model/gguf_write.h"
#include "model/layout.h"

struct file_type {
    const char *name;
    enum lam_dtype dtype;
    enum lam_dtype output; /* of the head: llama.cpp gives it 6 bits in the K types */
    bool mixed;            /* Q4_K_M: more bits for some value and down matrices */
    uint32_t number;       /* general.file_type */
};

static const struct file_type file_types[] = {
    {"f32", LAM_F32, LAM_F32, false, 0},
    {"f16", LAM_F16, LAM_F16, false, 1},
    {"bf16", LAM_BF16, LAM_BF16, false, 32},
    {"q8_0", LAM_Q8_0, LAM_Q8_0, false, 7},
    {"q4_0", LAM_Q4_0, LAM_Q4_0, false, 2},
    {"q4_1", LAM_Q4_1, LAM_Q4_1, false, 3},
    {"q5_0", LAM_Q5_0, LAM_Q5_0, false, 8},
    {"q5_1", LAM_Q5_1, LAM_Q5_1, false, 9},
    {"q4_k", LAM_Q4_K, LAM_Q6_K, false, 14},
    {"q5_k", LAM_Q5_K, LAM_Q6_K, false, 16},
    {"q6_k", LAM_Q6_K, LAM_Q6_K, false, 18},
    {"q4_k_m", LAM_Q4_K, LAM_Q6_K, true, 15},
};

static const struct file_type *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof file_types / sizeof file_types[0]; i++)
        if (strcmp(file_types[i].name, name) == 0)
            return &file_types[i];
    return NULL;
}

/* Called for every tensor, in file order. */
typedef enum lam_status tensor_fn(void *arg, enum lam_tensor_role role,
    const struct lam_layout_tensor *tensor, enum lam_dtype dtype, struct lam_err *err);

/* Which layers of a Q4_K_M file have more bits: the first and last eighth, and each third. */
static bool has_more_bits(uint32_t layer, uint32_t n_layers)
{
    uint32_t eighth = n_layers / 8;

    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

static enum lam_dtype dtype_of(const struct file_type *type, const struct lam_spec *spec,
    enum lam_tensor_role role, uint32_t layer, bool is_vector)
{
    if (is_vector)
        return LAM_F32;
    if (role == LAM_T_OUTPUT || (role == LAM_T_EMBEDDING && spec->tied_head))
        return type->output;
    if (type->mixed && (role == LAM_T_ATTN_V || role == LAM_T_FFN_DOWN) &&
        has_more_bits(layer, spec->n_layers))
        return LAM_Q6_K;
    return type->dtype;
}

static enum lam_status walk(const struct lam_synth_request *request, const struct lam_spec *spec,
    tensor_fn *on_tensor, void *arg, struct lam_err *err)
{
    static const enum lam_tensor_role ends[] = {LAM_T_OUTPUT_NORM, LAM_T_OUTPUT, LAM_T_ROPE_FREQS};
    const struct file_type *type = find_type(request->type);
    struct lam_layout_tensor tensor = lam_layout_tensor(spec, LAM_T_EMBEDDING, 0);
    enum lam_status status = on_tensor(
        arg, LAM_T_EMBEDDING, &tensor, dtype_of(type, spec, LAM_T_EMBEDDING, 0, false), err);

    for (uint32_t layer = 0; layer < spec->n_layers; layer++)
        for (uint32_t i = 0; i < LAM_LAYER_ROLES && !status; i++) {
            enum lam_tensor_role role = (enum lam_tensor_role)i;
            tensor = lam_layout_tensor(spec, role, layer);
            status = on_tensor(
                arg, role, &tensor, dtype_of(type, spec, role, layer, tensor.is_vector), err);
        }
    for (size_t i = 0; i < sizeof ends / sizeof ends[0] && !status; i++) {
        enum lam_tensor_role role = ends[i];
        if ((role == LAM_T_OUTPUT && spec->tied_head) ||
            (role == LAM_T_ROPE_FREQS && !(request->preset->rope_factor > 0)))
            continue;
        tensor = lam_layout_tensor(spec, role, 0);
        status =
            on_tensor(arg, role, &tensor, dtype_of(type, spec, role, 0, tensor.is_vector), err);
    }
    return status;
}

static enum lam_status add_to_header(void *arg, enum lam_tensor_role role,
    const struct lam_layout_tensor *tensor, enum lam_dtype dtype, struct lam_err *err)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);

    (void)role;
    if (tensor->n_cols % info->block_elems != 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "rows of '%s' have %" PRIu64 " weights, which is no multiple of the %" PRIu32
            " of a %s block; choose another --type or --preset",
            tensor->name, tensor->n_cols, info->block_elems, info->name);
    lam_gguf_put_tensor(
        arg, tensor->name, dtype, tensor->n_cols, tensor->is_vector ? 0 : tensor->n_rows);
    return LAM_OK;
}

static void put_numbers(
    struct lam_gguf_writer *writer, const struct lam_spec *spec, const struct file_type *type)
{
    lam_gguf_put_str(writer, "general.architecture", "llama");
    lam_gguf_put_str(writer, "general.name", spec->name);
    lam_gguf_put_u32(writer, "general.file_type", type->number);
    lam_gguf_put_u32(writer, "llama.block_count", spec->n_layers);
    lam_gguf_put_u32(writer, "llama.context_length", spec->n_ctx_train);
    lam_gguf_put_u32(writer, "llama.embedding_length", spec->n_embd);
    lam_gguf_put_u32(writer, "llama.feed_forward_length", spec->n_ff);
    lam_gguf_put_u32(writer, "llama.attention.head_count", spec->n_heads);
    lam_gguf_put_u32(writer, "llama.attention.head_count_kv", spec->n_kv_heads);
    lam_gguf_put_u32(writer, "llama.attention.key_length", spec->head_dim);
    lam_gguf_put_u32(writer, "llama.attention.value_length", spec->head_dim);
    lam_gguf_put_f32(writer, "llama.attention.layer_norm_rms_epsilon", spec->norm_eps);
    lam_gguf_put_u32(writer, "llama.rope.dimension_count", spec->rope_dim);
    lam_gguf_put_f32(writer, "llama.rope.freq_base", spec->rope_base);
    lam_gguf_put_u32(writer, "llama.vocab_size", spec->n_vocab);
}

static enum lam_status make_header(
    struct lam_synth_model *model, const struct lam_synth_request *request, struct lam_err *err)
{
    struct lam_gguf_writer writer;
    enum lam_status status;

    lam_gguf_writer_init(&writer);
    put_numbers(&writer, &model->spec, find_type(request->type));
    lam_synth_vocab_put(&writer, model->spec.n_vocab);
    status = walk(request, &model->spec, add_to_header, &writer, err);
    model->n_parts = (uint32_t)writer.n_tensors;
    if (!status)
        status = lam_gguf_writer_finish(&writer, &model->header, &model->file_bytes, err);
    model->keys = writer.keys; /* now the model's */
    model->n_keys = writer.n_keys;
    writer.keys = LAM_BUF(0);
    lam_gguf_writer_done(&writer);
    return status;
}

/* The standard deviation that keeps activations near 1; see the header. */
static float std_of(
    const struct lam_spec *spec, enum lam_tensor_role role, const struct lam_layout_tensor *tensor)
{
    double std = 1 / sqrt((double)tensor->n_cols);

    if (role == LAM_T_OUTPUT || (role == LAM_T_EMBEDDING && spec->tied_head))
        return (float)(2 * std);
    return (float)(role == LAM_T_EMBEDDING ? 1 : std);
}

/* The pattern of this type and scale, made when it is the first to ask. */
static enum lam_status find_pattern(struct lam_synth_model *model, enum lam_dtype dtype, float std,
    uint64_t seed, const struct lam_synth_pattern **ret_pattern, struct lam_err *err)
{
    const struct lam_spec *spec = &model->spec;
    uint64_t rows_max = spec->n_vocab > spec->n_ff ? spec->n_vocab : spec->n_ff;
    uint32_t i = 0;

    while (i < model->n_patterns &&
           !(model->patterns[i].dtype == dtype && model->patterns[i].std == std))
        i++;
    if (i == model->n_patterns) {
        enum lam_status status;
        assert(i < LAM_SYNTH_PATTERNS_MAX); /* at most 2 types and 5 scales */
        status = lam_synth_pattern_init(&model->patterns[i], dtype, std, rows_max, seed, err);
        if (status)
            return status;
        model->n_patterns++;
    }
    *ret_pattern = &model->patterns[i];
    return LAM_OK;
}

/* The second walk. */
struct placing {
    struct lam_synth_model *model;
    uint64_t seed;
    uint64_t random;
    uint32_t n_placed;
    uint64_t next_offset;
};

static enum lam_status place(void *arg, enum lam_tensor_role role,
    const struct lam_layout_tensor *tensor, enum lam_dtype dtype, struct lam_err *err)
{
    struct placing *placing = arg;
    struct lam_synth_model *model = placing->model;
    struct lam_synth_part *part = &model->parts[placing->n_placed++];
    enum lam_status status = LAM_OK;

    if (!lam_dtype_row_bytes(dtype, tensor->n_cols, &part->bytes) ||
        !lam_size_mul(part->bytes, tensor->n_rows, &part->bytes))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "'%s' is too large", tensor->name);
    model->n_weights += tensor->n_cols * tensor->n_rows;
    part->offset = placing->next_offset;
    placing->next_offset = lam_align_up(part->offset + part->bytes, LAM_GGUF_WRITE_ALIGNMENT);
    if (role == LAM_T_ROPE_FREQS) {
        part->given = model->rope_freqs;
        part->given_bytes = part->bytes;
    } else if (tensor->is_vector) {
        part->given = &model->one;
        part->given_bytes = sizeof model->one;
    } else {
        uint64_t block_bytes = lam_dtype_info(dtype)->block_bytes;
        status = find_pattern(
            model, dtype, std_of(&model->spec, role, tensor), placing->seed, &part->pattern, err);
        if (!status)
            part->phase = lam_synth_random(&placing->random) %
                          (part->pattern->bytes / block_bytes) * block_bytes;
    }
    return status;
}

static enum lam_status place_all(
    struct lam_synth_model *model, const struct lam_synth_request *request, struct lam_err *err)
{
    struct placing placing = {.model = model,
        .seed = request->seed,
        .random = request->seed,
        .next_offset = model->header.size};
    uint32_t n_freqs = request->preset->rope_factor > 0 ? model->spec.rope_dim / 2 : 0;
    enum lam_status status;

    model->one = 1;
    model->parts = lam_calloc(model->n_parts, sizeof *model->parts);
    model->rope_freqs = lam_calloc(n_freqs + 1, sizeof *model->rope_freqs);
    if (!model->parts || !model->rope_freqs)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of tensors");
    for (uint32_t i = 0; i < n_freqs; i++)
        model->rope_freqs[i] = lam_preset_rope_freq(request->preset, i);
    status = walk(request, &model->spec, place, &placing, err);
    assert(status || placing.next_offset == model->file_bytes);
    return status;
}

enum lam_status lam_synth_model_init(
    struct lam_synth_model *model, const struct lam_synth_request *request, struct lam_err *err)
{
    enum lam_status status;

    assert(find_type(request->type));
    *model = (struct lam_synth_model){
        .spec = request->preset->spec, .header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX)};
    if (request->n_layers > 0)
        model->spec.n_layers = request->n_layers;
    status = make_header(model, request, err);
    if (!status)
        status = place_all(model, request, err);
    return status;
}

void lam_synth_model_done(struct lam_synth_model *model)
{
    for (uint32_t i = 0; i < model->n_patterns; i++)
        lam_synth_pattern_done(&model->patterns[i]);
    lam_free(model->parts);
    lam_free(model->rope_freqs);
    lam_buf_done(&model->header);
    lam_buf_done(&model->keys);
    *model = (struct lam_synth_model){0};
}

static void read_part(const struct lam_synth_part *part, uint64_t at, uint8_t *out, uint64_t n)
{
    const uint8_t *given = (const uint8_t *)part->given;

    if (part->pattern) {
        lam_synth_pattern_copy(part->pattern, part->phase + at, out, n);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        out[i] = given[(at + i) % part->given_bytes];
}

/* The first part that ends behind `at`; n_parts for none. */
static uint32_t first_part(const struct lam_synth_model *model, uint64_t at)
{
    uint32_t low = 0;
    uint32_t high = model->n_parts;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (model->parts[middle].offset + model->parts[middle].bytes > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void lam_synth_model_read(
    const struct lam_synth_model *model, uint64_t at, uint8_t *out, uint64_t n)
{
    uint64_t end = at + n;

    memset(out, 0, n); /* what is between parts and behind them */
    if (at < model->header.size)
        memcpy(out, model->header.data + at,
            n < model->header.size - at ? n : model->header.size - at);
    for (uint32_t i = first_part(model, at); i < model->n_parts; i++) {
        const struct lam_synth_part *part = &model->parts[i];
        uint64_t begin = part->offset > at ? part->offset : at;
        uint64_t stop = part->offset + part->bytes < end ? part->offset + part->bytes : end;
        if (begin >= end)
            break;
        read_part(part, begin - part->offset, out + (begin - at), stop - begin);
    }
}
