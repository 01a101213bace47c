/*
 * engine: see engine.h. Here: sequences, checks of a step, sampling. Memory is in start.c, the
 * arithmetic in forward.c.
 *
 * Beside a device the logits of a step come to the host and are sampled there; where all that is
 * wanted is the largest one of each row, the device finds it and only ids come.
 *
 * A step is checked completely, then pages are taken, then it runs: a refused step leaves no trace.
 * Slots advance only after the pass has succeeded.
 */
#include "common/trace.h"
#include "worker/engine.h"

#include <assert.h>
#include <string.h>

#include "common/clock.h"
#include "worker/forward.h"

static struct lam_engine_slot *slots_of(const struct lam_engine *engine)
{
    return lam_engine_host(engine, engine->layout.slots);
}

static int32_t *history_of(const struct lam_engine *engine, uint32_t seq)
{
    int32_t *history = lam_engine_host(engine, engine->layout.history);

    return history + (uint64_t)seq * engine->config.n_ctx;
}

const struct lam_engine_config *lam_engine_config(const struct lam_engine *engine)
{
    return &engine->config;
}

const struct lam_plan *lam_engine_plan(const struct lam_engine *engine)
{
    return &engine->plan;
}

uint64_t lam_engine_cap_bytes(const struct lam_engine *engine)
{
    return engine->cap_bytes;
}

uint32_t lam_engine_kv_pages_used(const struct lam_engine *engine)
{
    return engine->kv.config.n_pages - engine->kv.n_free;
}

const char *lam_engine_backend(const struct lam_engine *engine)
{
    return engine->config.ops->describe(engine->kernels);
}

const struct lam_pass_profile *lam_engine_profile(const struct lam_engine *engine)
{
    return &engine->profile;
}

void lam_engine_on_begun(struct lam_engine *engine, void (*begun)(void *arg), void *arg)
{
    engine->begun = begun;
    engine->begun_arg = arg;
}

void lam_engine_free(struct lam_engine *engine, uint32_t seq)
{
    assert(seq < engine->config.max_seqs);
    lam_kv_release(&engine->kv, seq);
    slots_of(engine)[seq] = (struct lam_engine_slot){0};
}

/* [rows->n_tokens] */
static const int32_t *tokens_of(const struct lam_engine *engine, const struct lam_engine_rows *rows)
{
    return rows->sampled ? &slots_of(engine)[rows->seq].token : rows->tokens;
}

static enum lam_status check_tokens(
    const struct lam_engine *engine, const struct lam_engine_rows *rows, struct lam_err *err)
{
    uint32_t n_vocab = engine->model->spec.n_vocab;

    if (rows->sampled &&
        (rows->position == 0 || rows->n_tokens != 1 || !slots_of(engine)[rows->seq].drawn))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "sequence %u goes on at position %u with the token that was drawn, but none was",
            rows->seq, rows->position);
    if (rows->sampled)
        return LAM_OK;
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

/* Brings the page table of a pass's sequence to where its kernels read it, unless it is there: it
 * changes once in a page's tokens, or when other sequences are in the pass. Returns its address. */
static const uint32_t *send_table(struct lam_engine *engine, uint32_t index, uint32_t seq)
{
    uint64_t stride = engine->kv.config.pages_per_slot * sizeof(uint32_t);
    uint64_t bytes = lam_kv_owned(&engine->kv, seq) * sizeof(uint32_t);
    uint64_t offset = lam_engine_buffers(engine)->page_tables + index * stride;
    unsigned char *sent = lam_engine_host(engine, engine->layout.tables + index * stride);
    const uint32_t *table = lam_kv_table(&engine->kv, seq);

    if (memcmp(sent, table, bytes) != 0) {
        memcpy(sent, table, bytes);
        lam_engine_upload(engine, offset, table, bytes);
    }
    return lam_engine_at(engine, offset);
}

/* Writes what the pass reads: ids, positions, page tables; the slots' parameters, history. */
static uint32_t fill_pass(struct lam_engine *engine, const struct lam_engine_rows *rows, uint32_t n)
{
    int32_t *ids = lam_engine_host(engine, engine->layout.ids);
    int32_t *positions = lam_engine_host(engine, engine->layout.arrival);
    struct lam_seq_rows *seqs = lam_engine_host(engine, engine->layout.seqs);
    uint32_t row = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct lam_engine_slot *slot = &slots_of(engine)[rows[i].seq];
        const int32_t *tokens = tokens_of(engine, &rows[i]);

        if (rows[i].position == 0) {
            slot->params = rows[i].params;
            slot->n_prompt = rows[i].n_prompt;
        }
        memcpy(history_of(engine, rows[i].seq) + rows[i].position, tokens,
            rows[i].n_tokens * sizeof *tokens);
        seqs[i] = (struct lam_seq_rows){
            .row_begin = row,
            .n_rows = rows[i].n_tokens,
            .pos_begin = rows[i].position,
            .pages = send_table(engine, i, rows[i].seq),
        };
        for (uint32_t t = 0; t < rows[i].n_tokens; t++, row++) {
            ids[row] = tokens[t];
            positions[row] = (int32_t)(rows[i].position + t);
        }
    }
    return row;
}

/* The draws of a step. */
struct draws {
    const struct lam_engine *engine;
    const struct lam_engine_rows *rows;
};

/* One of them; sampler: whose scratch. */
static void draw(void *arg, uint32_t index, uint32_t sampler)
{
    const struct draws *draws = arg;
    const struct lam_engine *engine = draws->engine;
    uint32_t seq = draws->rows[index].seq;
    struct lam_engine_slot *slot = &slots_of(engine)[seq];
    uint32_t n_prompt = slot->n_prompt < slot->n_positions ? slot->n_prompt : slot->n_positions;

    if (slot->logits)
        slot->token = lam_sample(&slot->params, slot->logits, engine->model->spec.n_vocab,
            history_of(engine, seq), slot->n_positions, n_prompt, slot->n_positions,
            lam_engine_host(
                engine, engine->layout.sampler + sampler * engine->layout.sampler_bytes));
}

static void draw_all(struct lam_engine *engine, const struct lam_engine_rows *rows, uint32_t n)
{
    struct draws draws = {.engine = engine, .rows = rows};
    uint64_t begin_ns = lam_trace_begin();

    if (engine->samplers)
        lam_pool_run(engine->samplers, draw, &draws, n);
    for (uint32_t i = 0; i < n && !engine->samplers; i++)
        draw(&draws, i, 0);
    lam_trace_end(LAM_TRACE_SAMPLE, "sample", begin_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
}

/* Whether all that a step wants of its logits is which of a row's is the largest, and a device has
 * them. (On a CPU they lie where lam_sample reads them.) The slots' parameters are filled. */
static bool is_argmax(const struct lam_engine *engine, const struct lam_pass *pass)
{
    bool all = engine->argmaxes != NULL;

    for (uint32_t i = 0; i < pass->n_seqs; i++) {
        const struct lam_engine_rows *rows = &pass->rows[i];
        if (lam_engine_wanted(rows) > 0)
            all = all && rows->logit_rows == 0 &&
                  lam_sample_is_argmax(&slots_of(engine)[rows->seq].params);
    }
    return all;
}

/* Queues the way of the device's logits to the host, or of what is wanted of them. The ids lie in
 * head_in, which has at least as much room: the head has read it, and nothing writes it before the
 * next pass, whose head is behind this on the queue. */
static void fetch(const struct lam_engine *engine, bool argmax, uint32_t n_wanted)
{
    const struct lam_device_ops *device = engine->config.device;
    const struct lam_plan_buffers *buffers = lam_engine_buffers(engine);
    uint32_t n_vocab = engine->model->spec.n_vocab;
    struct lam_argmax_args args = {
        .x = lam_engine_at(engine, buffers->logits),
        .out = lam_engine_at(engine, buffers->head_in),
        .n_rows = n_wanted,
        .n_cols = n_vocab,
    };

    if (argmax) {
        engine->config.ops->argmax(engine->kernels, &args);
        device->download(
            engine->kernels, engine->argmaxes, args.out, n_wanted * sizeof *engine->argmaxes);
    } else {
        device->download(engine->kernels, engine->logits, args.x,
            (uint64_t)n_wanted * n_vocab * sizeof *engine->logits);
    }
}

/* Runs the pass and brings the logits, or their argmaxes, to the host. */
static enum lam_status run_pass(
    struct lam_engine *engine, struct lam_pass *pass, struct lam_err *err)
{
    struct lam_weights *weights = engine->weights;
    struct lam_pass_profile profile = {.begin_ns = lam_now_ns()};
    uint32_t n_wanted = 0;
    enum lam_status status;

    engine->told = false;
    weights->ops->begin(weights);
    pass->n_rows = fill_pass(engine, pass->rows, pass->n_seqs);
    pass->argmax = is_argmax(engine, pass);
    status = lam_forward(engine, pass, &n_wanted, err);
    if (status == LAM_OK && engine->config.device && n_wanted > 0)
        fetch(engine, pass->argmax, n_wanted);
    if (status == LAM_OK)
        status = weights->ops->finish(weights, &profile, err);
    profile.wall_ns = lam_now_ns() - profile.begin_ns;
    profile.n_rows = pass->n_rows;
    profile.floor_ns = engine->floor_ns;
    engine->profile = profile;
    lam_trace_end(LAM_TRACE_PASS, "pass", profile.begin_ns, LAM_TRACE_NONE, LAM_TRACE_NONE,
        profile.link_bytes + profile.resident_bytes);
    return status;
}

/* The slots as the pass has left them; their tokens, where it has chosen them. */
static void advance(
    struct lam_engine *engine, const struct lam_pass *pass, struct lam_engine_result *results)
{
    uint32_t n_vocab = engine->model->spec.n_vocab;
    const float *logits = engine->logits;
    const int32_t *argmax = engine->argmaxes;

    for (uint32_t i = 0; i < pass->n_seqs; i++) {
        const struct lam_engine_rows *rows = &pass->rows[i];
        struct lam_engine_slot *slot = &slots_of(engine)[rows->seq];

        slot->n_positions = rows->position + rows->n_tokens;
        slot->drawn = rows->sample;
        slot->token = -1;
        slot->logits = NULL;
        results[i].logits = rows->logit_rows > 0 ? logits : NULL;
        if (pass->argmax && rows->sample) {
            slot->token = *argmax++;
            assert(slot->token >= 0 && (uint32_t)slot->token < n_vocab);
        } else if (!pass->argmax) {
            logits += (uint64_t)lam_engine_wanted(rows) * n_vocab;
            slot->logits = rows->sample ? logits - n_vocab : NULL; /* of the last row */
        }
    }
}

enum lam_status lam_engine_step(struct lam_engine *engine, const struct lam_engine_rows *rows,
    uint32_t n, struct lam_engine_result *results, struct lam_err *err)
{
    struct lam_pass pass = {.rows = rows, .n_seqs = n};
    enum lam_status status;

    assert(!engine->broken);
    status = check_step(engine, rows, n, err);
    if (status == LAM_OK)
        status = take_pages(engine, rows, n, err);
    if (status != LAM_OK || n == 0)
        return status;
    status = run_pass(engine, &pass, err);
    engine->broken = status != LAM_OK;
    if (status != LAM_OK)
        return status;
    advance(engine, &pass, results);
    if (!pass.argmax)
        draw_all(engine, rows, n);
    for (uint32_t i = 0; i < n; i++)
        results[i].token = slots_of(engine)[rows[i].seq].token;
    return LAM_OK;
}

bool lam_engine_usable(const struct lam_engine *engine)
{
    return !engine->broken;
}
