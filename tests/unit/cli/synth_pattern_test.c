/* synth_pattern: weights of every type have the scale that was asked for and a mean of 0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "cli/synth_pattern.h"
#include "common/fault.h"
#include "kernels/ref/dequant.h"

#define COLS 256u

static const enum lam_dtype types[] = {LAM_F32, LAM_F16, LAM_BF16, LAM_Q4_0, LAM_Q4_1, LAM_Q5_0,
    LAM_Q5_1, LAM_Q8_0, LAM_Q4_K, LAM_Q5_K, LAM_Q6_K};

#define N_TYPES (sizeof types / sizeof types[0])

static void test_deviation_and_mean(void **state)
{
    const float std = 0.0125F;

    (void)state;
    for (size_t t = 0; t < N_TYPES; t++) {
        struct lam_synth_pattern pattern;
        struct lam_err err = {0};
        uint64_t row_bytes = 0;
        double sum = 0;
        double squares = 0;
        double n = 0;
        assert_int_equal(lam_synth_pattern_init(&pattern, types[t], std, 100, 1, &err), LAM_OK);
        assert_true(lam_dtype_row_bytes(types[t], COLS, &row_bytes));
        for (uint64_t at = 0; at + row_bytes <= pattern.bytes && n < 1e5; at += row_bytes) {
            float row[COLS];
            lam_dequant_row(types[t], pattern.blocks + at, COLS, row);
            for (uint32_t i = 0; i < COLS; i++) {
                assert_true(isfinite(row[i]));
                sum += (double)row[i];
                squares += (double)row[i] * (double)row[i];
                n++;
            }
        }
        assert_true(fabs(sqrt(squares / n) / (double)std - 1) < 0.02);
        assert_true(fabs(sum / n) < 0.02 * (double)std);
        lam_synth_pattern_done(&pattern);
    }
}

/* A prime number of blocks, more than there are rows: rows of a matrix differ. */
static void test_more_blocks_than_rows(void **state)
{
    struct lam_synth_pattern pattern;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_synth_pattern_init(&pattern, LAM_Q4_K, 0.1F, 128256, 1, &err), LAM_OK);
    assert_int_equal(pattern.bytes % 144, 0);
    assert_int_equal(pattern.bytes / 144, 128257); /* which is a prime */
    lam_synth_pattern_done(&pattern);
}

static void test_copies_go_around_the_end(void **state)
{
    struct lam_synth_pattern pattern;
    struct lam_err err = {0};
    uint8_t out[64];

    (void)state;
    assert_int_equal(lam_synth_pattern_init(&pattern, LAM_Q8_0, 0.1F, 10, 1, &err), LAM_OK);
    lam_synth_pattern_copy(&pattern, 5 * pattern.bytes - 20, out, sizeof out);
    assert_memory_equal(out, pattern.blocks + pattern.bytes - 20, 20);
    assert_memory_equal(out + 20, pattern.blocks, 44);
    lam_synth_pattern_done(&pattern);
}

static void test_seed_decides(void **state)
{
    struct lam_synth_pattern one, same, other;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_synth_pattern_init(&one, LAM_Q4_0, 0.1F, 10, 1, &err), LAM_OK);
    assert_int_equal(lam_synth_pattern_init(&same, LAM_Q4_0, 0.1F, 10, 1, &err), LAM_OK);
    assert_int_equal(lam_synth_pattern_init(&other, LAM_Q4_0, 0.1F, 10, 2, &err), LAM_OK);
    assert_memory_equal(one.blocks, same.blocks, one.bytes);
    assert_memory_not_equal(one.blocks, other.blocks, one.bytes);
    lam_synth_pattern_done(&one);
    lam_synth_pattern_done(&same);
    lam_synth_pattern_done(&other);
}

static void test_without_memory(void **state)
{
    struct lam_synth_pattern pattern;
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_int_equal(
        lam_synth_pattern_init(&pattern, LAM_F32, 1, 10, 1, &err), LAM_RESOURCE_EXHAUSTED);
    lam_fault_arm("alloc", 0);
    lam_synth_pattern_done(&pattern);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deviation_and_mean),
        cmocka_unit_test(test_more_blocks_than_rows),
        cmocka_unit_test(test_copies_go_around_the_end),
        cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
