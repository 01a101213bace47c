/*
 * dequant against the Python package `gguf`, bit for bit: tests/data/dequant.bin holds packed
 * blocks of every format (zeros, extremes, subnormal, infinite and NaN scales, random) and the
 * values that package gives.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/half.h"
#include "kernels/ref/dequant.h"
#include "tests/kernels/twin.h"

enum { FILE_MAX = 1 << 20 };

struct golden {
    uint8_t *bytes;
    size_t n_bytes;
};

static void load_golden(struct golden *golden)
{
    FILE *file = fopen("tests/data/dequant.bin", "rb");

    assert_non_null(file);
    golden->bytes = lam_calloc(FILE_MAX, 1);
    assert_non_null(golden->bytes);
    golden->n_bytes = fread(golden->bytes, 1, FILE_MAX, file);
    assert_in_range(golden->n_bytes, 1, FILE_MAX - 1);
    (void)fclose(file);
}

/* One record of the file; see make_dequant.py. */
struct record {
    enum lam_dtype dtype;
    uint32_t n_cols;
    const uint8_t *packed;
    const uint8_t *values; /* [n_cols] f32 bits */
};

/* Returns where the next record begins. */
static size_t read_record(const struct golden *golden, size_t at, struct record *ret_record)
{
    uint32_t packed_bytes = lam_load_u32(golden->bytes + at + 8);

    ret_record->dtype = (enum lam_dtype)lam_load_u32(golden->bytes + at);
    ret_record->n_cols = lam_load_u32(golden->bytes + at + 4);
    ret_record->packed = golden->bytes + at + 12;
    ret_record->values = ret_record->packed + packed_bytes;
    return at + 12 + packed_bytes + (size_t)ret_record->n_cols * 4;
}

static void test_same_bits_as_gguf(void **state)
{
    struct golden golden;
    uint32_t n_records = 0;

    (void)state;
    load_golden(&golden);
    for (size_t at = 0; at < golden.n_bytes; n_records++) {
        struct record record;
        at = read_record(&golden, at, &record);
        float *out = twin_floats(record.n_cols);
        lam_dequant_row(record.dtype, record.packed, record.n_cols, out);
        for (uint32_t i = 0; i < record.n_cols; i++) {
            if (lam_f32_to_bits(out[i]) != lam_load_u32(record.values + (size_t)i * 4))
                fail_msg("%s weight %u: %08x, not %08x", lam_dtype_info(record.dtype)->name, i,
                    lam_f32_to_bits(out[i]), lam_load_u32(record.values + (size_t)i * 4));
        }
        twin_free(out);
    }
    assert_int_equal(n_records, twin_n_dtypes);
    lam_free(golden.bytes);
}

/* The dequant operation gathers rows in any order; both backends give the row function's bits. */
static void test_gathers_rows(void **state)
{
    struct twin_set set;
    struct twin_rng rng = {.state = 3};

    (void)state;
    twin_set_init(&set, 3);
    for (size_t d = 0; d < twin_n_dtypes; d++) {
        uint64_t row_bytes;
        const void *rows[40];
        uint8_t *weights = twin_weights(&rng, twin_dtypes[d], 9, 512);
        float expected[512];
        assert_true(lam_dtype_row_bytes(twin_dtypes[d], 512, &row_bytes));
        for (size_t t = 0; t < 40; t++)
            rows[t] = weights + t * 5 % 9 * row_bytes;
        for (uint32_t b = 0; b <= set.n_fast; b++) {
            struct twin_backend *backend = b == 0 ? &set.ref : &set.fast[b - 1];
            float *out = twin_floats((size_t)40 * 512);
            struct lam_dequant_args args = {rows, twin_dtypes[d], 40, 512, out};
            backend->ops->dequant(backend->kernels, &args);
            for (size_t t = 0; t < 40; t++) {
                lam_dequant_row(twin_dtypes[d], rows[t], 512, expected);
                assert_memory_equal(out + t * 512, expected, sizeof(expected));
            }
            twin_free(out);
        }
        twin_weights_free(weights);
    }
    twin_set_done(&set);
}

/* Every f16 survives the way to f32 and back; values between two f16 go to the nearer one, ties to
 * even. */
static void test_half_round_trip(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) {
        float value = lam_f32_from_f16(half);
        uint32_t back = lam_f16_from_f32(value);
        if (isnan(value))
            assert_int_equal(back, half | 0x200);
        else
            assert_int_equal(back, half);
    }
    assert_int_equal(lam_f16_from_f32(65519.99f), 0x7BFF);
    assert_int_equal(lam_f16_from_f32(65520.0f), 0x7C00);
    assert_int_equal(lam_f16_from_f32(-1e30f), 0xFC00);
    assert_int_equal(lam_f16_from_f32(0x1.002p0f), 0x3C00);    /* tie: to even */
    assert_int_equal(lam_f16_from_f32(0x1.006p0f), 0x3C02);    /* tie: to even, upwards */
    assert_int_equal(lam_f16_from_f32(0x1.002002p0f), 0x3C01); /* above the tie */
    assert_int_equal(lam_f16_from_f32(0x1p-25f), 0);           /* tie at the smallest subnormal */
    assert_int_equal(lam_f16_from_f32(0x1.8p-24f), 2);         /* tie between subnormals */
    assert_int_equal(lam_f16_from_f32(-0x1.ff8p-15f), 0x83FF);
    assert_int_equal(lam_f16_from_f32(0x1.ffcp-15f), 0x0400); /* tie: to even, a normal number */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_as_gguf),
        cmocka_unit_test(test_gathers_rows),
        cmocka_unit_test(test_half_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
