/* Weights against exp of libm, at their edges, and in sums: the same bits in any kind of vector. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "model/sample.h"
#include "model/softmax.h"

#define N_MAX 70u
#define LANES 8u

static bool same(double a, double b)
{
    return !(a < b) && !(a > b);
}

static void test_weights_are_exp(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200000; i++) {
        float top = (float)(lam_sample_uniform(1, i) * 60 - 30);
        float temperature = (float)exp(lam_sample_uniform(2, i) * 9 - 5);
        float logit = top - (float)lam_sample_uniform(3, i) * 700 * temperature;
        struct lam_softmax softmax = lam_softmax_make(top, temperature);
        double x = ((double)logit - (double)top) / (double)temperature;
        double wanted = exp(x);
        double error = fabs(lam_softmax_weight(&softmax, logit) - wanted) / wanted;

        if (error > 0x1p-50 - 0x1p-52 * x)
            fail_msg("exp(%.17g) is off by %g", x, error);
    }
}

static void test_edges(void **state)
{
    static const float temperatures[] = {1e-30f, 0.01f, 1, 100};
    static const float tops[] = {-FLT_MAX, -1e10f, 0, 3, 1e10f, FLT_MAX};

    (void)state;
    for (size_t t = 0; t < sizeof temperatures / sizeof *temperatures; t++)
        for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
            struct lam_softmax softmax = lam_softmax_make(tops[i], temperatures[t]);
            double last = 1;

            assert_true(same(lam_softmax_weight(&softmax, tops[i]), 1));
            assert_true(same(lam_softmax_weight(&softmax, INFINITY), 1));
            assert_true(same(lam_softmax_weight(&softmax, -INFINITY), 0));
            assert_true(same(lam_softmax_weight(&softmax, NAN), 0));
            assert_true(same(lam_softmax_weight(&softmax, -NAN), 0));
            /* Down through the least that has a weight, in the smallest steps there. */
            for (float logit = softmax.least; logit > -FLT_MAX && last > 0;
                 logit = nextafterf(logit, -INFINITY)) {
                double weight = lam_softmax_weight(&softmax, logit);
                assert_true(weight >= 0 && weight <= last);
                last = weight;
            }
        }
}

/* Lane by lane, as the sums are defined, from weights that are computed alone. */
static void test_sums_have_the_bits_of_the_weights(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= N_MAX; n++) {
        struct lam_softmax softmax = lam_softmax_make(5, 0.7f);
        float logits[N_MAX];
        double lanes[LANES] = {0};

        for (uint32_t i = 0; i < n; i++) {
            logits[i] = 5 - (float)(lam_sample_uniform(n, i) * (i % 9 ? 20 : 600));
            if (i % 13 == 12)
                logits[i] = i % 2 ? NAN : -INFINITY;
            lanes[i % LANES] += lam_softmax_weight(&softmax, logits[i]);
        }
        assert_true(same(lam_softmax_sum(&softmax, logits, n),
            ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_exp),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_sums_have_the_bits_of_the_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
