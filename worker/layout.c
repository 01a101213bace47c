/* layout: see layout.h. */
#include "worker/layout.h"

#include "common/size.h"
#include "kernels/ops.h"

#define LAYOUT_ALIGN 64u

/* A running total that remembers an overflow, so that the plan below reads as a list. */
struct tally {
    uint64_t bytes;
    bool overflow;
};

static uint64_t take(struct tally *tally, uint64_t count, uint64_t size)
{
    uint64_t offset = tally->bytes;
    uint64_t bytes;
    uint64_t end;

    if (!lam_size_mul(count, size, &bytes) || !lam_size_align_up(bytes, LAYOUT_ALIGN, &bytes) ||
        !lam_size_add(offset, bytes, &end)) {
        tally->overflow = true;
        return 0;
    }
    tally->bytes = end;
    return offset;
}

static uint64_t take_floats(struct tally *tally, uint32_t n_rows, uint64_t n_cols)
{
    uint64_t count;

    if (!lam_size_mul(n_rows, n_cols, &count)) {
        tally->overflow = true;
        return 0;
    }
    return take(tally, count, sizeof(float));
}

static void plan_activations(struct tally *tally, const struct lam_spec *spec,
    const struct lam_engine_config *config, struct lam_engine_layout *plan)
{
    uint32_t rows = config->max_rows;
    uint64_t q_cols = (uint64_t)spec->n_heads * spec->head_dim;
    uint64_t kv_cols = (uint64_t)spec->n_kv_heads * spec->head_dim;

    plan->x = take_floats(tally, rows, spec->n_embd);
    plan->normed = take_floats(tally, rows, spec->n_embd);
    plan->q = take_floats(tally, rows, q_cols);
    plan->k = take_floats(tally, rows, kv_cols);
    plan->v = take_floats(tally, rows, kv_cols);
    plan->attended = take_floats(tally, rows, q_cols);
    plan->gate = take_floats(tally, rows, spec->n_ff);
    plan->up = take_floats(tally, rows, spec->n_ff);
    plan->rope_table = take_floats(tally, rows, spec->rope_dim);
    plan->head_in = take_floats(tally, config->max_logit_rows, spec->n_embd);
    plan->logits = take_floats(tally, config->max_logit_rows, spec->n_vocab);
    plan->penalised = take_floats(tally, 1, spec->n_vocab);
    plan->sampler = take(tally, lam_sample_scratch_bytes(spec->n_vocab), 1);
    plan->output_norm = take_floats(tally, 1, spec->n_embd);
    plan->rope_factors = take_floats(tally, 1, spec->rope_dim / 2);
}

static void plan_sequences(struct tally *tally, const struct lam_spec *spec,
    const struct lam_engine_config *config, const struct lam_kv_config *kv,
    struct lam_engine_layout *plan)
{
    uint64_t elem_bytes = lam_dtype_info(config->kv_dtype)->block_bytes;
    uint64_t page_elems = (uint64_t)spec->n_kv_heads * spec->head_dim;

    plan->ids = take(tally, config->max_rows, sizeof(int32_t));
    plan->positions = take(tally, config->max_rows, sizeof(int32_t));
    plan->rows = take(tally, config->max_rows, sizeof(void *));
    plan->seqs = take(tally, config->max_seqs, sizeof(struct lam_seq_rows));
    plan->slots = take(tally, config->max_seqs, sizeof(struct lam_engine_slot));
    plan->history = take(tally, (uint64_t)config->max_seqs * config->n_ctx, sizeof(int32_t));
    plan->kv_words = take(tally, lam_kv_words(kv), sizeof(uint32_t));
    if (!lam_size_mul(page_elems, elem_bytes * config->page_tokens, &plan->kv_page_bytes) ||
        !lam_size_mul(plan->kv_page_bytes, config->kv_pages, &plan->kv_side_bytes)) {
        tally->overflow = true;
        return;
    }
    plan->kv_data = take(tally, (uint64_t)spec->n_layers * 2, plan->kv_side_bytes);
}

enum lam_status lam_engine_layout_plan(const struct lam_spec *spec,
    const struct lam_engine_config *config, const struct lam_kv_config *kv,
    struct lam_engine_layout *ret_layout, struct lam_err *err)
{
    struct tally tally = {0};
    struct lam_engine_layout plan = {0};

    plan_activations(&tally, spec, config, &plan);
    plan_sequences(&tally, spec, config, kv, &plan);
    if (tally.overflow)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "a context of %u tokens, %u sequences and %u rows need more memory than can be "
            "counted: "
            "lower --ctx, --batch or --prefill-chunk",
            config->n_ctx, config->max_seqs, config->max_rows);
    plan.total_bytes = tally.bytes;
    *ret_layout = plan;
    return LAM_OK;
}
