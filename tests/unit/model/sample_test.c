/* Tests of model/sample.h: against a naive sampler, against probabilities, and at the edges. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "model/sample.h"

#define VOCAB_MAX 600u

static _Alignas(16) unsigned char scratch[VOCAB_MAX * 12];

static int32_t sample(
    const struct lam_sample_params *params, const float *logits, uint32_t n, uint64_t position)
{
    assert_true(n <= VOCAB_MAX && lam_sample_scratch_bytes(n) <= sizeof scratch);
    memset(scratch, 0xa5, sizeof scratch);
    return lam_sample(params, logits, n, NULL, 0, 0, position, scratch);
}

static void fields_have_ranges(void **state)
{
    static const struct {
        const char *field;
        size_t offset;
        float bad[4];
        float good[2];
    } rows[] = {
#define FIELD(name) #name, offsetof(struct lam_sample_params, name)
        {FIELD(temperature), {-0.1f, 100.1f, NAN, INFINITY}, {0, 100}},
        {FIELD(top_p), {0, 1.1f, NAN, -INFINITY}, {1e-6f, 1}},
        {FIELD(min_p), {-0.1f, 1.1f, NAN, INFINITY}, {0, 1}},
        {FIELD(repetition_penalty), {0, -1, NAN, INFINITY}, {0.1f, 10}},
        {FIELD(presence_penalty), {-2.1f, 2.1f, NAN, INFINITY}, {-2, 2}},
        {FIELD(frequency_penalty), {-2.1f, 2.1f, NAN, INFINITY}, {-2, 2}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct lam_sample_params params = lam_sample_defaults();
        struct lam_err err = {0};
        float *value = (float *)((char *)&params + rows[i].offset);
        assert_int_equal(lam_sample_check(&params, &err), LAM_OK);
        for (size_t j = 0; j < 4; j++) {
            *value = rows[i].bad[j];
            assert_int_equal(lam_sample_check(&params, &err), LAM_INVALID_ARGUMENT);
            assert_non_null(strstr(err.text, rows[i].field));
        }
        for (size_t j = 0; j < 2; j++) {
            *value = rows[i].good[j];
            assert_int_equal(lam_sample_check(&params, &err), LAM_OK);
        }
    }
}

static void greedy_takes_the_lowest_of_equals(void **state)
{
    struct lam_sample_params params = {.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    const float ties[] = {1, 3, -2, 3, 3};
    const float holes[] = {NAN, -INFINITY, -5, NAN};
    const float infinite[] = {1, INFINITY, 2, INFINITY};

    (void)state;
    assert_int_equal(sample(&params, ties, 5, 0), 1);
    assert_int_equal(sample(&params, holes, 4, 0), 2);
    assert_int_equal(sample(&params, infinite, 4, 0), 1);
    assert_int_equal(sample(&params, ties, 1, 0), 0);
}

/* Lanes and what is left behind them: every place of the largest, with equals behind it. */
static void greedy_finds_every_place(void **state)
{
    struct lam_sample_params params = {.temperature = 0, .top_p = 1, .repetition_penalty = 1};
    float logits[VOCAB_MAX];

    (void)state;
    for (uint32_t n = 1; n < 50; n++)
        for (uint32_t at = 0; at < n; at++) {
            for (uint32_t i = 0; i < n; i++)
                logits[i] = i < at ? -1.0f - (float)i : i % 3 == at % 3 ? 2.0f : NAN;
            assert_int_equal(sample(&params, logits, n, 0), at);
        }
}

/* A worker whose activations overflowed must still answer something that is a token. */
/* What is left to whoever has the logits must be their argmax whatever else the parameters say. */
static void argmax_is_greedy_without_penalties(void **state)
{
    static const int32_t history[] = {1, 1};
    const float logits[] = {0, 3, 1, 3, 2.5f};
    struct lam_sample_params params = lam_sample_defaults();
    float *penalties[] = {
        &params.repetition_penalty, &params.presence_penalty, &params.frequency_penalty};

    (void)state;
    assert_false(lam_sample_is_argmax(&params));
    params.temperature = 0;
    params.top_k = 3;
    params.top_p = 0.5f;
    params.min_p = 0.25f;
    for (params.seed = 0; params.seed < 50; params.seed++) {
        assert_true(lam_sample_is_argmax(&params));
        assert_int_equal(
            lam_sample(&params, logits, 5, history, 2, 0, params.seed + 2, scratch), 1);
    }
    for (size_t i = 0; i < 3; i++) {
        float off = *penalties[i];
        *penalties[i] = 1.5f;
        assert_false(lam_sample_is_argmax(&params));
        assert_int_equal(lam_sample(&params, logits, 5, history, 2, 0, 2, scratch), 3);
        *penalties[i] = off;
    }
}

static void logits_without_a_number_give_token_0(void **state)
{
    const float nothing[] = {NAN, -INFINITY, NAN};

    (void)state;
    for (int temperature = 0; temperature < 2; temperature++)
        for (uint32_t top_k = 0; top_k < 3; top_k++) {
            struct lam_sample_params params = lam_sample_defaults();
            params.temperature = (float)temperature;
            params.top_k = top_k;
            assert_int_equal(sample(&params, nothing, 3, 1), 0);
        }
}

static void impossible_tokens_are_never_drawn(void **state)
{
    const float logits[] = {-INFINITY, 0, NAN, 0.5f, -INFINITY};
    struct lam_sample_params params = lam_sample_defaults();

    (void)state;
    for (uint64_t position = 0; position < 4000; position++) {
        int32_t token;
        params.top_p = position % 2 ? 1 : 0.999f;
        token = sample(&params, logits, 5, position);
        assert_true(token == 1 || token == 3);
    }
}

static void the_draw_is_a_function_of_seed_and_position(void **state)
{
    struct lam_sample_params params = lam_sample_defaults();
    float logits[100] = {0};
    uint32_t n_other_seed = 0, n_other_position = 0;

    (void)state;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = sample(&params, logits, 100, i);
        assert_int_equal(sample(&params, logits, 100, i), token);
        params.seed = 1;
        n_other_seed += sample(&params, logits, 100, i) != token;
        params.seed = 0;
        n_other_position += sample(&params, logits, 100, i + 1) != token;
    }
    assert_true(n_other_seed > 180 && n_other_position > 180);
}

/* Known answers: a change of the generator changes what a seed means, which users would notice. */
static void uniform_numbers_are_fixed(void **state)
{
    char text[120];

    (void)state;
    snprintf(text, sizeof text, "%.17g %.17g %.17g", lam_sample_uniform(0, 0),
        lam_sample_uniform(42, 7), lam_sample_uniform(UINT64_MAX, UINT64_MAX));
    assert_string_equal(text, "0.38174350245208277 0.011932272491355977 0.092270013136824702");
}

/* Sum of (seen - wanted)^2 / wanted. */
static double chi_square(const uint32_t *seen, const double *share, uint32_t n, double total)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += (seen[i] - share[i] * total) * (seen[i] - share[i] * total) / (share[i] * total);
    return sum;
}

static void uniform_numbers_are_uniform(void **state)
{
    double share[64];

    (void)state;
    for (int i = 0; i < 64; i++)
        share[i] = 1.0 / 64;
    /* Along positions, along seeds, and pairs of neighbours: 63 degrees, 0.1 % point 103. */
    for (int kind = 0; kind < 3; kind++) {
        uint32_t seen[64] = {0};
        for (uint64_t i = 0; i < 64000; i++) {
            double a = kind == 1 ? lam_sample_uniform(i, 5) : lam_sample_uniform(9, i);
            double b = lam_sample_uniform(9, i + 1);
            assert_true(a >= 0 && a < 1);
            seen[kind == 2 ? (int)(a * 8) * 8 + (int)(b * 8) : (int)(a * 64)]++;
        }
        assert_true(chi_square(seen, share, 64, 64000) < 103);
    }
}

static void tokens_come_with_their_probability(void **state)
{
    const float logits[] = {0, 1, -1, 2, 0.5f, -0.5f, 1.5f, 0.25f};

    (void)state;
    /* 7 degrees of freedom: 0.1 % point 24.3. */
    for (int kind = 0; kind < 4; kind++) {
        struct lam_sample_params params = lam_sample_defaults();
        double share[8], total = 0;
        uint32_t seen[8] = {0};
        params.temperature = kind & 1 ? 0.5f : 2;
        params.top_p = kind & 2 ? 0.99999f : 1; /* keeps all: the path through bins */
        for (int i = 0; i < 8; i++)
            total += share[i] = exp((double)logits[i] / (double)params.temperature);
        for (int i = 0; i < 8; i++)
            share[i] /= total;
        for (uint64_t position = 0; position < 40000; position++)
            seen[sample(&params, logits, 8, position)]++;
        assert_true(chi_square(seen, share, 8, 40000) < 24.3);
    }
}

/* Sorts, filters and draws in the obvious way. */
static int32_t naive(
    const struct lam_sample_params *params, const float *logits, uint32_t n, uint64_t position)
{
    int32_t ids[VOCAB_MAX] = {0};
    double weights[VOCAB_MAX], total = 0, mass = 0, sum = 0, target;
    uint32_t n_kept;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && logits[ids[at - 1]] < logits[i]; at--)
            ids[at] = ids[at - 1];
        ids[at] = (int32_t)i;
    }
    if (params->top_k && params->top_k < n)
        n = params->top_k;
    for (uint32_t i = 0; i < n; i++)
        total += weights[i] =
            exp(((double)logits[ids[i]] - (double)logits[ids[0]]) / (double)params->temperature);
    for (n_kept = 0; n_kept < n; n_kept++) {
        bool full = params->top_p < 1 && mass >= (double)params->top_p * total;
        if (n_kept && (full || weights[n_kept] < (double)params->min_p))
            break;
        mass += weights[n_kept];
    }
    target = lam_sample_uniform(params->seed, position) * mass;
    for (uint32_t i = 0; i < n_kept; i++)
        if (target < (sum += weights[i]))
            return ids[i];
    return ids[0];
}

static void filters_agree_with_the_naive_sampler(void **state)
{
    float logits[VOCAB_MAX];

    (void)state;
    for (uint64_t i = 0; i < 3000; i++) {
        struct lam_sample_params params = lam_sample_defaults();
        uint32_t n = 1 + (uint32_t)(lam_sample_uniform(1, i) * (i % 10 ? 40 : VOCAB_MAX));
        for (uint32_t j = 0; j < n; j++) /* coarse, so that many are equal */
            logits[j] = (float)(int)(lam_sample_uniform(i, j) * 12) / 2;
        params.seed = i;
        params.temperature = 0.3f + (float)lam_sample_uniform(2, i);
        params.top_k = (uint32_t)(lam_sample_uniform(3, i) * 12);
        params.top_p = i % 3 ? 1 - (float)lam_sample_uniform(4, i) : 1;
        params.min_p = i % 2 ? (float)lam_sample_uniform(5, i) / 2 : 0;
        if (!params.top_k && params.top_p >= 1 && params.min_p <= 0)
            params.top_k = 1;
        assert_int_equal(sample(&params, logits, n, i), naive(&params, logits, n, i));
    }
}

/* Most of a large vocabulary is kept, and nothing is brought into order: the tokens are those of a
 * sampler that did order them all, and took 16 ms where this one takes one. */
static void flat_rows_draw_what_they_always_drew(void **state)
{
    static const int32_t wanted[] = {24063, 5496, 20194, 29428, 16891, 19235, 18443, 9457};
    uint32_t n = 30000;
    float *logits = lam_calloc(n, sizeof *logits);
    void *work = lam_aligned_calloc(16, lam_sample_scratch_bytes(n));

    (void)state;
    assert_true(logits && work);
    for (uint64_t row = 0; row < sizeof wanted / sizeof *wanted; row++) {
        struct lam_sample_params params = lam_sample_defaults();

        for (uint32_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < 4; k++)
                sum += lam_sample_uniform(row, 4 * (uint64_t)i + k);
            logits[i] = (float)sum;
        }
        params.seed = row;
        params.top_p = row % 2 ? 0.95f : 1;
        params.top_k = row % 4 == 2 ? 9000 : 0;
        params.min_p = row % 4 == 0 ? 0.2f : 0;
        assert_int_equal(lam_sample(&params, logits, n, NULL, 0, 0, row, work), wanted[row]);
    }
    lam_free(logits);
    lam_free(work);
}

static uint64_t drawn(const struct lam_sample_params *params, const float *logits, uint32_t n)
{
    uint64_t set = 0;

    for (uint64_t position = 0; position < 3000; position++)
        set |= (uint64_t)1 << sample(params, logits, n, position);
    return set;
}

static void filters_keep_what_they_say(void **state)
{
    const float ties[] = {1, 1, 1, 1};
    /* Shares 0.5, 0.25, 0.125, 0.125. */
    const float halves[] = {
        (float)-0.69314718, (float)-1.38629436, (float)-2.07944154, (float)-2.07944154};
    struct lam_sample_params params = lam_sample_defaults();

    (void)state;
    params.top_k = 2;
    assert_int_equal(drawn(&params, ties, 4), 0x3); /* the lowest ids among equals */
    params.top_k = 100;
    assert_int_equal(drawn(&params, ties, 4), 0xf);
    params.top_k = 0;
    params.top_p = 1e-6f;
    assert_int_equal(drawn(&params, halves, 4), 0x1);
    params.top_p = 0.51f;
    assert_int_equal(drawn(&params, halves, 4), 0x3);
    params.top_p = 0.76f;
    assert_int_equal(drawn(&params, halves, 4), 0x7);
    params.top_k = 3; /* shares among these three: 4/7, 2/7, 1/7 */
    params.top_p = 0.85f;
    assert_int_equal(drawn(&params, halves, 4), 0x3);
    params = lam_sample_defaults();
    params.min_p = 0.4f;
    assert_int_equal(drawn(&params, halves, 4), 0x3);
    params.min_p = 1;
    assert_int_equal(drawn(&params, halves, 4), 0x1);
}

/* That a token of the history with this logit stands just where `becomes` says, beside token 3,
 * which is not in the history. The logits themselves are the caller's and stay. */
static void assert_penalised(const struct lam_sample_params *params, int32_t token, float logit,
    uint32_t n_prompt, float becomes)
{
    static const int32_t history[] = {0, 1, 1, 2, 2, 2};
    float logits[4] = {-INFINITY, NAN, -INFINITY, 0};
    float before[4];

    logits[token] = logit;
    for (int above = 0; above < 2; above++) {
        logits[3] = becomes + (above ? 1e-3f : -1e-3f);
        memcpy(before, logits, sizeof before);
        assert_int_equal(
            lam_sample(params, logits, 4, history, 6, n_prompt, 6, scratch), above ? 3 : token);
        assert_memory_equal(logits, before, sizeof before);
    }
}

static void penalties_change_logits(void **state)
{
    struct lam_sample_params params = {.temperature = 0, .top_p = 1, .repetition_penalty = 1};

    (void)state;
    params.repetition_penalty = 2; /* all of the history, once per token, away from good */
    assert_penalised(&params, 0, 4, 3, 2);
    assert_penalised(&params, 1, -4, 3, -8);
    assert_penalised(&params, 2, 1, 3, 0.5f);

    params.repetition_penalty = 1;
    params.presence_penalty = 0.5f; /* only what was generated: 2 2 2 */
    params.frequency_penalty = 0.25f;
    assert_penalised(&params, 0, 1, 3, 1);
    assert_penalised(&params, 1, 1, 3, 1);
    assert_penalised(&params, 2, 2, 3, 0.75f);

    params.frequency_penalty = -2; /* a token that is said again gains */
    assert_penalised(&params, 1, 1, 0, 4.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_have_ranges),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(greedy_finds_every_place),
        cmocka_unit_test(argmax_is_greedy_without_penalties),
        cmocka_unit_test(logits_without_a_number_give_token_0),
        cmocka_unit_test(impossible_tokens_are_never_drawn),
        cmocka_unit_test(the_draw_is_a_function_of_seed_and_position),
        cmocka_unit_test(uniform_numbers_are_fixed),
        cmocka_unit_test(uniform_numbers_are_uniform),
        cmocka_unit_test(tokens_come_with_their_probability),
        cmocka_unit_test(filters_agree_with_the_naive_sampler),
        cmocka_unit_test(flat_rows_draw_what_they_always_drew),
        cmocka_unit_test(filters_keep_what_they_say),
        cmocka_unit_test(penalties_change_logits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
