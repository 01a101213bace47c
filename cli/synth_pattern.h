/*
 * synth_pattern: random weights of a given type and scale, as a stretch of blocks that is repeated.
 *
 * The number of blocks is a prime that is larger than any matrix of the model has rows, so no two
 * rows of a matrix are the same. Blocks are made in their packed form, with scales in the range
 * that files have, not quantised from floats.
 */
#ifndef LAMINAR_CLI_SYNTH_PATTERN_H
#define LAMINAR_CLI_SYNTH_PATTERN_H

#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"

struct lam_synth_pattern {
    enum lam_dtype dtype;
    float std; /* standard deviation of the weights; their mean is 0 */
    uint64_t bytes;
    uint8_t *blocks; /* [bytes] */
};

/*
 * rows_max: the most rows of a matrix that is filled from it. The same arguments give the same
 * bytes. Errors: LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_synth_pattern_init(struct lam_synth_pattern *pattern,
    enum lam_dtype dtype, float std, uint64_t rows_max, uint64_t seed, struct lam_err *err);

/* Bytes [at, at + n) of the endless repetition. [any thread] */
void lam_synth_pattern_copy(
    const struct lam_synth_pattern *pattern, uint64_t at, uint8_t *out, uint64_t n);

void lam_synth_pattern_done(struct lam_synth_pattern *pattern); /* a zeroed struct is allowed */

/* splitmix64: the next number of a sequence whose state is one word. */
uint64_t lam_synth_random(uint64_t *state);

#endif
