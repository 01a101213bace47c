/*
 * prefix: the candidates of a row of logits in the order (logit down, id up), as sums of prefixes,
 * without bringing them into that order. Where a hundred thousand candidates weigh about the same,
 * a filter keeps most of them, and ordering those is most of the time of a draw.
 *
 * Candidates fall into bins of equal width, and a search opens those bins only whose end it might
 * not reach: few candidates are ordered, more are put into bins again by the bits of their logits,
 * three times at most. So its time is linear in the row. Weights are added in double precision in
 * an order that depends on the logits alone: the same row gives the same sums everywhere; a sum in
 * the candidates' own order differs in its last bits.
 *
 * Candidates of weight 0 (model/softmax.h) do not count. Pure; one thread.
 */
#ifndef LAMINAR_MODEL_PREFIX_H
#define LAMINAR_MODEL_PREFIX_H

#include <stdint.h>

#include "model/softmax.h"

#define LAM_PREFIX_BINS 2048u

/* From the largest logit down. */
struct lam_prefix_bins {
    uint32_t counts[LAM_PREFIX_BINS];
    double sums[LAM_PREFIX_BINS];
};

struct lam_prefix {
    const float *logits;   /* [n] */
    const double *weights; /* [n] */
    uint32_t n;
    struct lam_softmax softmax;
    float scale; /* bins for each unit of a logit; the last bin has all that lie lower */
    double sum;  /* of all weights */
    struct lam_prefix_bins bins;
};

/* logits, weights: [n], n > 0, kept while the prefix is used; weights are filled in. At least one
 * logit is above minus infinity. */
void lam_prefix_init(struct lam_prefix *prefix, const struct lam_softmax *softmax,
    const float *logits, uint32_t n, double *weights);

/* Where a search ends: at the first candidate for which one of these holds. */
struct lam_prefix_stop {
    uint32_t index;  /* it has so many before it */
    double weight;   /* it weighs less; 0: never */
    double sum;      /* those before it weigh that much, or more; INFINITY: never */
    double sum_with; /* they weigh more together with it; INFINITY: never */
};

struct lam_prefix_found {
    int32_t id;     /* -1: behind all of them */
    uint32_t index; /* candidates before it */
    double sum;     /* that they weigh */
};

struct lam_prefix_found lam_prefix_find(
    const struct lam_prefix *prefix, const struct lam_prefix_stop *stop);

#endif
