/*
 * tiny_model: a small llama model with weights, in memory, for tests of the engine; and its logits
 * by an implementation that shares nothing with the engine: double precision, one sequence,
 * everything recomputed for every position.
 */
#ifndef LAMINAR_TESTS_UNIT_WORKER_TINY_MODEL_H
#define LAMINAR_TESTS_UNIT_WORKER_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/units.h"

struct tiny_model {
    unsigned char *image; /* the whole file */
    struct lam_model model;
};

/* Of a model that is large enough to be cut into pieces for a device, and small enough to be
 * computed by the reference: 128 wide. */
struct lam_spec tiny_model_shape(uint32_t n_layers, uint32_t n_vocab, bool tied_head);

/* All weights f32, from a fixed seed. rope_freqs: with frequency factors. */
void tiny_model_make(struct tiny_model *tiny, bool rope_freqs);

/* The same of another shape: at most 8 layers, 512 wide. */
void tiny_model_make_of(struct tiny_model *tiny, const struct lam_spec *shape, bool rope_freqs);
void tiny_model_done(struct tiny_model *tiny);

/* out: [T, V] */
void tiny_model_logits(
    const struct tiny_model *tiny, const int32_t *ids, uint32_t n_ids, double *out);

#endif
