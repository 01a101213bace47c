/* layout: see layout.h. */
#include "worker/layout.h"

#include "common/size.h"
#include "kernels/ops.h"

#define LAYOUT_ALIGN 64u

/* A running total that remembers an overflow, so that the layout below reads as a list. */
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

enum lam_status lam_engine_layout_make(const struct lam_plan *plan, const struct lam_kv_config *kv,
    uint32_t n_rows, uint32_t n_vocab, uint32_t n_samplers, uint64_t packed_row_bytes,
    struct lam_engine_layout *ret_layout, struct lam_err *err)
{
    struct tally tally = {0};
    struct lam_engine_layout layout = {0};

    layout.ids = take(&tally, n_rows, sizeof(int32_t));
    layout.rows = take(&tally, n_rows, sizeof(void *));
    layout.seqs = take(&tally, plan->n_seqs, sizeof(struct lam_seq_rows));
    layout.slots = take(&tally, plan->n_seqs, sizeof(struct lam_engine_slot));
    layout.kv_words = take(&tally, lam_kv_words(kv), sizeof(uint32_t));
    layout.tables = take(&tally, (uint64_t)plan->n_seqs * kv->pages_per_slot, sizeof(uint32_t));
    layout.history = take(&tally, (uint64_t)plan->n_seqs * plan->n_ctx, sizeof(int32_t));
    layout.sampler_bytes = lam_align_up(lam_sample_scratch_bytes(n_vocab), LAYOUT_ALIGN);
    layout.sampler = take(&tally, n_samplers, layout.sampler_bytes);
    layout.arrival = take(&tally, n_rows, sizeof(int32_t) + packed_row_bytes);
    take(&tally, 1, LAM_PLAN_ALIGN); /* between its positions and rows */
    if (tally.overflow)
        return lam_fail_no_fit(err,
            "a context of %u tokens, %u sequences and %u rows need more memory than can "
            "be counted: lower --ctx, --batch or --prefill-chunk",
            plan->n_ctx, plan->n_seqs, n_rows);
    layout.total_bytes = tally.bytes;
    *ret_layout = layout;
    return LAM_OK;
}
