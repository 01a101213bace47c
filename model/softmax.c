/*
 * softmax: see softmax.h.
 *
 * exp(x) = 2^k exp(r) with k the whole number next to x / ln 2, and a polynomial for exp(r). The
 * vectors are the compiler's: it makes them of what the function that they stand in may use. Every
 * product and every sum is rounded by itself, so that all of these give the same results: products
 * and sums stand in statements of their own, which no compiler of ours puts together.
 */
#include "model/softmax.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 8u

typedef float lanes_f32 __attribute__((vector_size(LANES * sizeof(float))));
typedef double lanes_f64 __attribute__((vector_size(LANES * sizeof(double))));
typedef int32_t lanes_i32 __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef int64_t lanes_i64 __attribute__((vector_size(LANES * sizeof(int64_t))));

#define INLINE static inline __attribute__((always_inline))

/* Below, exp is less than the smallest normal number, and counts as 0. */
#define LEAST (-708.0)
#define LOG2_E 0x1.71547652b82fep+0
/* ln 2 in two parts; a whole number below 2^11 times the first is exact. */
#define LN2_HIGH 0x1.62e42fefa38p-1
#define LN2_LOW 0x1.ef35793c7673p-45
/* Added to a double below 2^51 it leaves the nearest whole number in the low bits. */
#define ROUND 0x1.8p52
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52

/* The next term of the polynomial, from the highest power down: 1 / k! of them. */
#define TERM(sum, r, factorial)                                                                    \
    do {                                                                                           \
        (sum) *= (r);                                                                              \
        (sum) += 1.0 / (factorial);                                                                \
    } while (0)

/* exp of |r| <= ln 2 / 2: the first power that is left out is below 2^-57 of it. */
INLINE void polynomial(const lanes_f64 *r, lanes_f64 *ret)
{
    lanes_f64 sum = *r / 6227020800;

    sum += 1.0 / 479001600;
    TERM(sum, *r, 39916800);
    TERM(sum, *r, 3628800);
    TERM(sum, *r, 362880);
    TERM(sum, *r, 40320);
    TERM(sum, *r, 5040);
    TERM(sum, *r, 720);
    TERM(sum, *r, 120);
    TERM(sum, *r, 24);
    TERM(sum, *r, 6);
    TERM(sum, *r, 2);
    TERM(sum, *r, 1);
    TERM(sum, *r, 1);
    *ret = sum;
}

INLINE void weights(const struct lam_softmax *softmax, const float *logits, lanes_f64 *ret)
{
    const lanes_f32 zero = {0};
    lanes_f32 packed;
    lanes_i32 counts, below, taken;
    lanes_f64 x, k, part, sum;
    lanes_i64 power;

    memcpy(&packed, logits, sizeof packed);
    counts = packed >= zero + softmax->least; /* not NaN */
    below = counts & (packed < zero + softmax->top);
    taken = (below & (lanes_i32)packed) | (~below & (lanes_i32)(zero + softmax->top));
    x = __builtin_convertvector((lanes_f32)taken, lanes_f64);
    x -= (double)softmax->top;
    x *= softmax->rate;
    k = x * LOG2_E;
    k += ROUND;
    power = ((lanes_i64)k + EXPONENT_BIAS) << MANTISSA_BITS;
    k -= ROUND;
    part = k * LN2_HIGH;
    x -= part;
    part = k * LN2_LOW;
    x -= part;
    polynomial(&x, &sum);
    sum *= (lanes_f64)power;
    *ret = (lanes_f64)((lanes_i64)sum & __builtin_convertvector(counts, lanes_i64));
}

/* The last lanes, filled up with logits of no weight. */
INLINE void weights_of_few(
    const struct lam_softmax *softmax, const float *logits, uint32_t n, lanes_f64 *ret)
{
    float few[LANES];

    for (uint32_t i = 0; i < LANES; i++)
        few[i] = i < n ? logits[i] : -INFINITY;
    weights(softmax, few, ret);
}

/* ret: [n], or NULL. */
INLINE double sum_of(
    const struct lam_softmax *softmax, const float *logits, uint32_t n, double *ret)
{
    lanes_f64 sum = {0}, more;
    uint32_t i = 0;

    for (; n - i >= LANES; i += LANES) {
        weights(softmax, logits + i, &more);
        sum += more;
        if (ret)
            memcpy(ret + i, &more, sizeof more);
    }
    if (i < n) {
        weights_of_few(softmax, logits + i, n - i, &more);
        sum += more;
        if (ret)
            memcpy(ret + i, &more, (n - i) * sizeof *ret);
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

#define FOR_PROCESSOR(name, attributes)                                                            \
    attributes static double sum_##name(                                                           \
        const struct lam_softmax *softmax, const float *logits, uint32_t n)                        \
    {                                                                                              \
        return sum_of(softmax, logits, n, NULL);                                                   \
    }                                                                                              \
    attributes static double weights_##name(                                                       \
        const struct lam_softmax *softmax, const float *logits, uint32_t n, double *ret)           \
    {                                                                                              \
        return sum_of(softmax, logits, n, ret);                                                    \
    }

FOR_PROCESSOR(avx512, __attribute__((target("avx512f"))))
FOR_PROCESSOR(avx2, __attribute__((target("avx2"))))
FOR_PROCESSOR(plain, )

struct lam_softmax lam_softmax_make(float top, float temperature)
{
    double least = (double)top + LEAST * (double)temperature;
    struct lam_softmax softmax = {.top = top, .least = -FLT_MAX, .rate = 1 / (double)temperature};

    if (least > -FLT_MAX)
        softmax.least = (float)least;
    if ((double)softmax.least < least) /* it was rounded down */
        softmax.least = nextafterf(softmax.least, INFINITY);
    return softmax;
}

double lam_softmax_weight(const struct lam_softmax *softmax, float logit)
{
    lanes_f64 one;

    weights_of_few(softmax, &logit, 1, &one);
    return one[0];
}

double lam_softmax_sum(const struct lam_softmax *softmax, const float *logits, uint32_t n)
{
    if (__builtin_cpu_supports("avx512f"))
        return sum_avx512(softmax, logits, n);
    if (__builtin_cpu_supports("avx2"))
        return sum_avx2(softmax, logits, n);
    return sum_plain(softmax, logits, n);
}

double lam_softmax_weights(
    const struct lam_softmax *softmax, const float *logits, uint32_t n, double *ret_weights)
{
    if (__builtin_cpu_supports("avx512f"))
        return weights_avx512(softmax, logits, n, ret_weights);
    if (__builtin_cpu_supports("avx2"))
        return weights_avx2(softmax, logits, n, ret_weights);
    return weights_plain(softmax, logits, n, ret_weights);
}
