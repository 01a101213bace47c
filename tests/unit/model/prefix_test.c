/* Searches among the candidates of a row, against the candidates in their order: rows of all
 * shapes, flat ones above all, and stops of all kinds. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "model/prefix.h"
#include "model/sample.h"

#define N_MAX 20000u
#define SEARCHES 12u
#define ROUNDING 1e-11 /* of sums, whose order is not ours */

enum shape { NOISE, EQUAL, TIES, OUTLIER, SPREAD, SPECIAL, SHAPES };

static float logits[N_MAX];
static double weights[N_MAX], sums[N_MAX + 1]; /* sums[k]: of the first k in order */
static uint32_t order[N_MAX];
static struct lam_prefix prefix;

static float logit_for(enum shape shape, uint64_t row, uint32_t i)
{
    static const float special[] = {
        INFINITY, FLT_MAX, -FLT_MAX, -INFINITY, NAN, 0.0f, -0.0f, 1e-40f, -1e-40f, FLT_MIN};
    double a = lam_sample_uniform(row, 2 * (uint64_t)i), b = lam_sample_uniform(row, 2 * i + 1ull);
    double noise = sqrt(-2 * log(a + DBL_MIN)) * cos(6.283185307179586 * b);

    switch (shape) {
    case EQUAL:
        return -3.25f;
    case TIES:
        return (float)(int)(a * 9) / 4;
    case OUTLIER: /* far above the others, which differ little */
        return i == 777 ? 12 : (float)(noise * 1e-3);
    case SPREAD: /* each some 2^-k */
        return (float)((b < 0.5 ? -1 : 1) * exp2(-140 * a));
    case SPECIAL:
        return a < 0.3 ? special[(size_t)(b * 10)] : (float)noise;
    default:
        return (float)noise;
    }
}

static float cleaned(uint32_t i)
{
    return logits[i] > FLT_MAX ? FLT_MAX : logits[i];
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (cleaned(x) < cleaned(y) || cleaned(x) > cleaned(y))
        return cleaned(x) > cleaned(y) ? -1 : 1;
    return (x > y) - (x < y);
}

/* Candidates in their order, and their sums. Returns how many there are. */
static uint32_t put_in_order(const struct lam_softmax *softmax, uint32_t n)
{
    uint32_t n_candidates = 0;

    for (uint32_t i = 0; i < n; i++)
        if (lam_softmax_weight(softmax, logits[i]) > 0)
            order[n_candidates++] = i;
    qsort(order, n_candidates, sizeof *order, compare);
    for (uint32_t k = 0; k < n_candidates; k++)
        sums[k + 1] = sums[k] + lam_softmax_weight(softmax, logits[order[k]]);
    return n_candidates;
}

static void check_found(const struct lam_prefix_stop *stop, const struct lam_prefix_found *found,
    const struct lam_softmax *softmax, uint32_t n_candidates)
{
    uint32_t k = found->index;

    assert_true(k <= n_candidates && k <= stop->index);
    assert_true(fabs(found->sum - sums[k]) <= ROUNDING * sums[k]);
    if (k > 0) { /* it was right to go past the one before */
        assert_true(sums[k - 1] < stop->sum * (1 + ROUNDING));
        assert_true(sums[k] <= stop->sum_with * (1 + ROUNDING));
        assert_true(lam_softmax_weight(softmax, logits[order[k - 1]]) >= stop->weight);
    }
    if (found->id < 0) {
        assert_int_equal(k, n_candidates);
        return;
    }
    assert_int_equal(found->id, order[k]);
    assert_true(k == stop->index || sums[k] >= stop->sum * (1 - ROUNDING) ||
                sums[k + 1] > stop->sum_with * (1 - ROUNDING) ||
                lam_softmax_weight(softmax, logits[order[k]]) < stop->weight);
}

static void check_row(enum shape shape, uint64_t row, uint32_t n, float temperature)
{
    struct lam_softmax softmax;
    uint32_t n_candidates;
    float top = -FLT_MAX;

    for (uint32_t i = 0; i < n; i++) {
        logits[i] = logit_for(shape, row, i);
        top = cleaned(i) > top ? cleaned(i) : top;
    }
    softmax = lam_softmax_make(top, temperature);
    n_candidates = put_in_order(&softmax, n);
    lam_prefix_init(&prefix, &softmax, logits, n, weights);
    assert_true(fabs(prefix.sum - sums[n_candidates]) <= ROUNDING * prefix.sum);
    for (uint64_t s = 0; s < SEARCHES; s++) {
        double u = lam_sample_uniform(row, ~s), v = lam_sample_uniform(~row, s);
        struct lam_prefix_stop stop = {
            .index = s % 3 == 0 ? (uint32_t)(u * n) : n, .sum = INFINITY, .sum_with = INFINITY};
        struct lam_prefix_found found;

        if (s % 4 == 1)
            stop.sum = u * prefix.sum;
        if (s % 4 == 2)
            stop.sum_with = v * prefix.sum;
        if (s % 4 == 3)
            stop.weight = v * v;
        found = lam_prefix_find(&prefix, &stop);
        check_found(&stop, &found, &softmax, n_candidates);
    }
}

static void test_what_is_found_is_next_in_order(void **state)
{
    static const uint32_t sizes[] = {1, 2, 15, 16, 17, 300, 5000, N_MAX};
    static const float temperatures[] = {0.01f, 0.7f, 1, 100};

    (void)state;
    for (int shape = 0; shape < SHAPES; shape++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t t = 0; t < sizeof temperatures / sizeof *temperatures; t++)
                check_row((enum shape)shape, 1 + i * 7 + t, sizes[i], temperatures[t]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_found_is_next_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
