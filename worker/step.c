/* step: see step.h. */
#include "worker/step.h"

#include <inttypes.h>

static struct lam_sample_params params_of(const Laminar__V1__SamplingParams *sampling)
{
    if (!sampling)
        return lam_sample_defaults();
    return (struct lam_sample_params){
        .temperature = sampling->temperature,
        .top_k = sampling->top_k,
        .top_p = sampling->top_p,
        .min_p = sampling->min_p,
        .repetition_penalty = sampling->repetition_penalty,
        .presence_penalty = sampling->presence_penalty,
        .frequency_penalty = sampling->frequency_penalty,
        .seed = sampling->seed,
    };
}

static enum lam_status check_rows(const Laminar__V1__SequenceRows *rows,
    const struct lam_step_limits *limits, const uint32_t *epochs, struct lam_err *err)
{
    if (rows->seq >= limits->max_seqs)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the step names slot %" PRIu32 "; this worker has %" PRIu32, rows->seq,
            limits->max_seqs);
    if (rows->n_tokens > limits->max_rows)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the step brings %zu rows for slot %" PRIu32 "; this worker takes %" PRIu32,
            rows->n_tokens, rows->seq, limits->max_rows);
    if (rows->sampled && rows->n_tokens > 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the step brings %zu tokens for slot %" PRIu32 ", which goes on with the one drawn",
            rows->n_tokens, rows->seq);
    if (rows->position != 0 && rows->epoch != epochs[rows->seq])
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "slot %" PRIu32 " belongs to epoch %" PRIu32 ", the step goes on with epoch %" PRIu32,
            rows->seq, epochs[rows->seq], rows->epoch);
    return LAM_OK;
}

enum lam_status lam_step_read(const Laminar__V1__Step *step, const struct lam_step_limits *limits,
    const uint32_t *epochs, struct lam_engine_rows *ret_rows, struct lam_err *err)
{
    if (step->n_rows > limits->max_seqs)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the step has rows of %zu sequences; this worker has %" PRIu32 " slots", step->n_rows,
            limits->max_seqs);
    for (size_t i = 0; i < step->n_free; i++)
        if (step->free[i] >= limits->max_seqs)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the step frees slot %" PRIu32 "; this worker has %" PRIu32, step->free[i],
                limits->max_seqs);
    for (size_t i = 0; i < step->n_rows; i++) {
        const Laminar__V1__SequenceRows *rows = step->rows[i];
        enum lam_status status = check_rows(rows, limits, epochs, err);

        if (status != LAM_OK)
            return status;
        ret_rows[i] = (struct lam_engine_rows){
            .seq = rows->seq,
            .position = rows->position,
            .tokens = rows->tokens,
            .n_tokens = rows->sampled ? 1 : (uint32_t)rows->n_tokens,
            .sampled = rows->sampled,
            .sample = rows->sample,
            .params = params_of(rows->sampling),
            .n_prompt = rows->prompt_tokens,
        };
    }
    return LAM_OK;
}
