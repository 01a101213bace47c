/*
 * sample: logits to a token. The host algorithm and its counter-based random numbers.
 *
 * The random number of a step is a pure function of (seed, position): no state, so a sequence that
 * is replayed on another worker, or batched with others, draws the same numbers.
 *
 * Order: logit penalties, then temperature, top-k, top-p, min-p, draw. temperature 0 is greedy:
 * the largest logit after penalties, the lowest id among equals.
 *
 * NaN counts as minus infinity. A token of minus infinity is never drawn, unless all are: then
 * token 0.
 */
#ifndef LAMINAR_MODEL_SAMPLE_H
#define LAMINAR_MODEL_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct lam_sample_params {
    float temperature;        /* 0 .. 100; 0: greedy */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* 0 < p <= 1; 1: off */
    float min_p;              /* 0 .. 1; 0: off */
    float repetition_penalty; /* > 0; 1: off */
    float presence_penalty;   /* -2 .. 2; 0: off */
    float frequency_penalty;  /* -2 .. 2; 0: off */
    uint64_t seed;
};

/* Temperature 1, everything else off, seed 0. */
struct lam_sample_params lam_sample_defaults(void);

/* Errors: LAM_INVALID_ARGUMENT names the field, the value and the range. NaN is never valid. */
LAM_MUST_USE enum lam_status lam_sample_check(
    const struct lam_sample_params *params, struct lam_err *err);

/*
 * Chooses a token.
 * params: valid by lam_sample_check.
 * logits: [n_vocab] f32, n_vocab > 0. NaN is never chosen, infinity counts as the largest number.
 * history: the sequence so far, prompt included, ids below n_vocab, for the penalties: repetition
 *   covers all of it, presence and frequency only history[n_prompt..].
 * position: index that the chosen token will have in the sequence.
 * scratch: lam_sample_scratch_bytes(n_vocab) bytes, 16-byte aligned; contents do not matter.
 */
int32_t lam_sample(const struct lam_sample_params *params, const float *logits, uint32_t n_vocab,
    const int32_t *history, uint32_t n_history, uint32_t n_prompt, uint64_t position,
    void *scratch);

/* Whether that token is the argmax of the logits as they are (lam_argmax_args in kernels/ops.h),
 * whatever the history and the position. */
bool lam_sample_is_argmax(const struct lam_sample_params *params);

uint64_t lam_sample_scratch_bytes(uint32_t n_vocab);

/* Uniform in [0, 1) from (seed, position). */
double lam_sample_uniform(uint64_t seed, uint64_t position);

#endif
