/*
 * engine: see engine.h. Here: memory, sequences, checks of a step, sampling. The arithmetic is in
 * forward.c.
 *
 * A step is checked completely, then pages are taken, then it runs: a refused step leaves no trace.
 * Slots advance only after the pass has succeeded.
 */
#include "worker/engine.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "worker/forward.h"

#define ENGINE_CTX_DEFAULT_MAX 8192u
#define ENGINE_HEAD_DIM_MAX 256u /* kernels/ops.h */
#define ENGINE_ALIGN 64u

static struct lam_engine_slot *slots_of(const struct lam_engine *engine)
{
    return lam_engine_at(engine, engine->layout.slots);
}

static int32_t *history_of(const struct lam_engine *engine, uint32_t seq)
{
    int32_t *history = lam_engine_at(engine, engine->layout.history);

    return history + (uint64_t)seq * engine->config.n_ctx;
}

static enum lam_status resolve_config(const struct lam_engine_config *asked,
    const struct lam_spec *spec, struct lam_engine_config *ret_config, struct lam_err *err)
{
    struct lam_engine_config config = *asked;

    assert(config.ops && config.max_seqs > 0 && config.max_logit_rows >= config.max_seqs);
    assert(config.kv_dtype == LAM_F16 || config.kv_dtype == LAM_F32);
    assert(config.page_tokens > 0 && (config.page_tokens & (config.page_tokens - 1)) == 0);
    if (spec->head_dim > ENGINE_HEAD_DIM_MAX)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the model has attention heads of %u values; this build runs models of up to %u",
            spec->head_dim, ENGINE_HEAD_DIM_MAX);
    if (config.max_rows < config.max_seqs)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%u rows in a step cannot serve %u sequences: raise --prefill-chunk or lower --batch",
            config.max_rows, config.max_seqs);
    if (config.n_ctx == 0)
        config.n_ctx =
            spec->n_ctx_train < ENGINE_CTX_DEFAULT_MAX ? spec->n_ctx_train : ENGINE_CTX_DEFAULT_MAX;
    if (config.n_ctx == 0 || config.n_ctx > spec->n_ctx_train)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "a context of %u tokens is outside of 1..%u, which this model was trained for: "
            "change --ctx",
            config.n_ctx, spec->n_ctx_train);
    if (config.kv_pages == 0) {
        uint64_t pages = (uint64_t)config.n_ctx / config.page_tokens;
        pages = (pages + (config.n_ctx % config.page_tokens != 0)) * config.max_seqs;
        if (pages > UINT32_MAX)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "%u sequences of %u tokens are too many: lower --batch or --ctx", config.max_seqs,
                config.n_ctx);
        config.kv_pages = (uint32_t)pages;
    }
    *ret_config = config;
    return LAM_OK;
}

static enum lam_status take_block(struct lam_engine *engine, struct lam_err *err)
{
    char text[24];
    uint64_t bytes = engine->layout.total_bytes;

    /* Zeroed pages of a large block are given by the system on first touch: an idle slot costs
     * nothing. */
    if (bytes <= SIZE_MAX - ENGINE_ALIGN)
        engine->block = lam_calloc(bytes + ENGINE_ALIGN, 1);
    if (!engine->block)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for the engine: a context of %u tokens, %u sequences and %u rows need %s: "
            "lower --ctx, --batch or --prefill-chunk",
            engine->config.n_ctx, engine->config.max_seqs, engine->config.max_rows,
            lam_size_format(bytes, text, sizeof text));
    engine->base = (unsigned char *)lam_align_up((uint64_t)(uintptr_t)engine->block, ENGINE_ALIGN);
    return LAM_OK;
}

static enum lam_status start_kernels(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_spec *spec = &engine->model->spec;
    uint32_t q_cols = spec->n_heads * spec->head_dim;
    struct lam_kernel_config config = {
        .n_threads = engine->config.n_threads,
        .max_rows = engine->config.max_rows,
        .max_cols = spec->n_ff > spec->n_embd ? spec->n_ff : spec->n_embd,
        .max_seqs = engine->config.max_seqs,
        .max_ctx = engine->config.n_ctx,
        .n_heads = spec->n_heads,
        .head_dim = spec->head_dim,
    };

    if (q_cols > config.max_cols)
        config.max_cols = q_cols;
    return engine->config.ops->create(&config, &engine->kernels, err);
}

static enum lam_status read_vectors(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_manifest *manifest = &engine->model->manifest;
    enum lam_status status = lam_units_read_extent(engine->units, &manifest->output_norm,
        lam_engine_at(engine, engine->layout.output_norm), err);

    if (status != LAM_OK || manifest->rope_freqs.bytes == 0)
        return status;
    return lam_units_read_extent(engine->units, &manifest->rope_freqs,
        lam_engine_at(engine, engine->layout.rope_factors), err);
}

enum lam_status lam_engine_create(const struct lam_engine_config *config, struct lam_units *units,
    struct lam_engine **ret_engine, struct lam_err *err)
{
    const struct lam_model *model = lam_units_model(units);
    struct lam_engine *engine = lam_calloc(1, sizeof *engine);
    struct lam_kv_config kv;
    enum lam_status status;

    if (!engine)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the engine");
    engine->units = units;
    engine->model = model;
    status = resolve_config(config, &model->spec, &engine->config, err);
    if (status != LAM_OK)
        goto fail;
    kv = (struct lam_kv_config){
        .n_slots = engine->config.max_seqs,
        .n_pages = engine->config.kv_pages,
        .page_tokens = engine->config.page_tokens,
        .pages_per_slot = (engine->config.n_ctx - 1) / engine->config.page_tokens + 1,
    };
    status = lam_engine_layout_plan(&model->spec, &engine->config, &kv, &engine->layout, err);
    if (status == LAM_OK)
        status = take_block(engine, err);
    if (status == LAM_OK)
        status = start_kernels(engine, err);
    if (status != LAM_OK)
        goto fail;
    lam_kv_init(&engine->kv, &kv, lam_engine_at(engine, engine->layout.kv_words));
    status = read_vectors(engine, err);
    if (status != LAM_OK)
        goto fail;
    *ret_engine = engine;
    return LAM_OK;

fail:
    lam_engine_destroy(engine);
    return status;
}

void lam_engine_destroy(struct lam_engine *engine)
{
    if (!engine)
        return;
    if (engine->kernels)
        engine->config.ops->destroy(engine->kernels);
    lam_free(engine->block);
    lam_free(engine);
}

const struct lam_engine_config *lam_engine_config(const struct lam_engine *engine)
{
    return &engine->config;
}

uint64_t lam_engine_arena_bytes(const struct lam_engine *engine)
{
    return engine->layout.total_bytes;
}

const char *lam_engine_backend(const struct lam_engine *engine)
{
    return engine->config.ops->describe(engine->kernels);
}

void lam_engine_free(struct lam_engine *engine, uint32_t seq)
{
    assert(seq < engine->config.max_seqs);
    lam_kv_release(&engine->kv, seq);
    slots_of(engine)[seq] = (struct lam_engine_slot){0};
}

static enum lam_status check_tokens(
    const struct lam_engine *engine, const struct lam_engine_rows *rows, struct lam_err *err)
{
    uint32_t n_vocab = engine->model->spec.n_vocab;

    for (uint32_t i = 0; i < rows->n_tokens; i++)
        if (rows->tokens[i] < 0 || (uint32_t)rows->tokens[i] >= n_vocab)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "token %d at position %u of sequence %u is outside of the vocabulary 0..%u",
                rows->tokens[i], rows->position + i, rows->seq, n_vocab - 1);
    return LAM_OK;
}

/* One sequence's rows, by themselves. */
static enum lam_status check_sequence(
    const struct lam_engine *engine, const struct lam_engine_rows *rows, struct lam_err *err)
{
    uint32_t n_ctx = engine->config.n_ctx;
    uint32_t n_held;

    if (rows->seq >= engine->config.max_seqs)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "sequence %u is not below %u, the slots of --batch", rows->seq,
            engine->config.max_seqs);
    n_held = slots_of(engine)[rows->seq].n_positions;
    if (rows->position != 0 && rows->position != n_held)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "sequence %u goes on at position %u, but the worker holds %u positions of it",
            rows->seq, rows->position, n_held);
    if (rows->n_tokens == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "sequence %u brings no tokens", rows->seq);
    if (rows->n_tokens > n_ctx || rows->position > n_ctx - rows->n_tokens)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "sequence %u: %u tokens at position %u go beyond the context of %u tokens", rows->seq,
            rows->n_tokens, rows->position, n_ctx);
    if (rows->logit_rows > rows->n_tokens)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "sequence %u asks for logits of %u rows and brings %u", rows->seq, rows->logit_rows,
            rows->n_tokens);
    if (rows->position == 0) {
        enum lam_status status = lam_sample_check(&rows->params, err);
        if (status != LAM_OK)
            return status;
        if (rows->n_prompt > n_ctx)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "sequence %u: a prompt of %u tokens is longer than the context of %u", rows->seq,
                rows->n_prompt, n_ctx);
    }
    return check_tokens(engine, rows, err);
}

static bool is_repeated(const struct lam_engine_rows *rows, uint32_t n, uint32_t seq)
{
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].seq == seq)
            return true;
    return false;
}

static enum lam_status check_step(const struct lam_engine *engine,
    const struct lam_engine_rows *rows, uint32_t n, struct lam_err *err)
{
    uint64_t n_rows = 0;
    uint64_t n_wanted = 0;

    for (uint32_t i = 0; i < n; i++) {
        enum lam_status status = check_sequence(engine, &rows[i], err);
        if (status != LAM_OK)
            return status;
        if (is_repeated(rows, i, rows[i].seq))
            return lam_fail(
                err, LAM_INVALID_ARGUMENT, "sequence %u stands twice in one step", rows[i].seq);
        n_rows += rows[i].n_tokens;
        n_wanted += lam_engine_wanted(&rows[i]);
    }
    if (n_rows > engine->config.max_rows)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "a step of %llu rows is over the limit of %u",
            (unsigned long long)n_rows, engine->config.max_rows);
    if (n_wanted > engine->config.max_logit_rows)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "a step with logits of %llu rows is over the limit of %u", (unsigned long long)n_wanted,
            engine->config.max_logit_rows);
    return LAM_OK;
}

/* Gives every sequence its pages, or none of them any. */
static enum lam_status take_pages(
    struct lam_engine *engine, const struct lam_engine_rows *rows, uint32_t n, struct lam_err *err)
{
    uint64_t n_needed = 0;
    uint64_t n_owned = 0;

    for (uint32_t i = 0; i < n; i++) {
        n_needed += lam_kv_pages_for(&engine->kv, rows[i].position + rows[i].n_tokens);
        n_owned += lam_kv_owned(&engine->kv, rows[i].seq);
    }
    if (n_needed > n_owned + engine->kv.n_free)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no free KV page: the step needs %llu pages, %llu are there (%u in all): finish other "
            "sequences or raise --kv-tokens",
            (unsigned long long)n_needed, (unsigned long long)(n_owned + engine->kv.n_free),
            engine->config.kv_pages);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].position == 0)
            lam_engine_free(engine, rows[i].seq);
    for (uint32_t i = 0; i < n; i++) {
        bool reserved =
            lam_kv_reserve(&engine->kv, rows[i].seq, rows[i].position + rows[i].n_tokens);
        assert(reserved);
    }
    return LAM_OK;
}

/* Writes what the pass reads: ids, positions, page tables; the slots' parameters, history. */
static uint32_t fill_pass(struct lam_engine *engine, const struct lam_engine_rows *rows, uint32_t n)
{
    int32_t *ids = lam_engine_at(engine, engine->layout.ids);
    int32_t *positions = lam_engine_at(engine, engine->layout.positions);
    struct lam_seq_rows *seqs = lam_engine_at(engine, engine->layout.seqs);
    uint32_t row = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct lam_engine_slot *slot = &slots_of(engine)[rows[i].seq];

        if (rows[i].position == 0) {
            slot->params = rows[i].params;
            slot->n_prompt = rows[i].n_prompt;
        }
        memcpy(history_of(engine, rows[i].seq) + rows[i].position, rows[i].tokens,
            rows[i].n_tokens * sizeof *rows[i].tokens);
        seqs[i] = (struct lam_seq_rows){
            .row_begin = row,
            .n_rows = rows[i].n_tokens,
            .pos_begin = rows[i].position,
            .pages = lam_kv_table(&engine->kv, rows[i].seq),
        };
        for (uint32_t t = 0; t < rows[i].n_tokens; t++, row++) {
            ids[row] = rows[i].tokens[t];
            positions[row] = (int32_t)(rows[i].position + t);
        }
    }
    return row;
}

/* logits: the row to draw from; left as it is, because the caller may want it. */
static int32_t draw(const struct lam_engine *engine, uint32_t seq, const float *logits)
{
    const struct lam_engine_slot *slot = &slots_of(engine)[seq];
    uint32_t n_vocab = engine->model->spec.n_vocab;
    float *penalised = lam_engine_at(engine, engine->layout.penalised);
    uint32_t n_prompt = slot->n_prompt < slot->n_positions ? slot->n_prompt : slot->n_positions;

    memcpy(penalised, logits, n_vocab * sizeof *logits);
    return lam_sample(&slot->params, penalised, n_vocab, history_of(engine, seq), slot->n_positions,
        n_prompt, slot->n_positions, lam_engine_at(engine, engine->layout.sampler));
}

enum lam_status lam_engine_step(struct lam_engine *engine, const struct lam_engine_rows *rows,
    uint32_t n, struct lam_engine_result *results, struct lam_err *err)
{
    const float *logits = lam_engine_at(engine, engine->layout.logits);
    uint32_t n_vocab = engine->model->spec.n_vocab;
    struct lam_pass pass = {.rows = rows, .n_seqs = n};
    enum lam_status status;

    assert(!engine->broken);
    status = check_step(engine, rows, n, err);
    if (status == LAM_OK)
        status = take_pages(engine, rows, n, err);
    if (status != LAM_OK || n == 0)
        return status;
    pass.n_rows = fill_pass(engine, rows, n);
    status = lam_forward(engine, &pass, err);
    engine->broken = status != LAM_OK;
    if (status != LAM_OK)
        return status;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_wanted = lam_engine_wanted(&rows[i]);

        slots_of(engine)[rows[i].seq].n_positions = rows[i].position + rows[i].n_tokens;
        results[i].logits = rows[i].logit_rows > 0 ? logits : NULL;
        logits += (uint64_t)n_wanted * n_vocab;
        results[i].token = rows[i].sample ? draw(engine, rows[i].seq, logits - n_vocab) : -1;
    }
    return LAM_OK;
}

bool lam_engine_usable(const struct lam_engine *engine)
{
    return !engine->broken;
}
