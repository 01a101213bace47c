/*
 * softmax: the weights that tokens are drawn by: exp((logit - top) / temperature), 1 for the
 * largest logit, 0 for minus infinity, for NaN, and where it would be below 2^-1021. Logits above
 * top, which only infinity is, count as top.
 *
 * In double precision with an exp of its own, several at a time: relative errors are below 2^-50 +
 * 2^-52 |x|, x what exp is taken of, and the bits are the same on every machine, of a weight alone
 * and within a sum.
 */
#ifndef LAMINAR_MODEL_SOFTMAX_H
#define LAMINAR_MODEL_SOFTMAX_H

#include <stdint.h>

struct lam_softmax {
    float top;
    float least; /* that has a weight */
    double rate; /* 1 / temperature */
};

/* top: the largest logit, finite. temperature > 0. */
struct lam_softmax lam_softmax_make(float top, float temperature);

double lam_softmax_weight(const struct lam_softmax *softmax, float logit);

/* The sum of the weights of logits[0, n), in an order that depends on n alone. */
double lam_softmax_sum(const struct lam_softmax *softmax, const float *logits, uint32_t n);

/* The same, with the weights in ret_weights[0, n). */
double lam_softmax_weights(
    const struct lam_softmax *softmax, const float *logits, uint32_t n, double *ret_weights);

#endif
