/* dtype: ids, names and sizes are the file format's; rows that are no whole blocks are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/dtype.h"

static void test_table(void **state)
{
    static const struct {
        uint32_t id;
        const char *name;
        uint32_t block_elems;
        uint32_t block_bytes;
    } wanted[] = {
        {0, "F32", 1, 4},
        {1, "F16", 1, 2},
        {2, "Q4_0", 32, 2 + 16},
        {3, "Q4_1", 32, 2 + 2 + 16},
        {6, "Q5_0", 32, 2 + 4 + 16},
        {7, "Q5_1", 32, 2 + 2 + 4 + 16},
        {8, "Q8_0", 32, 2 + 32},
        {12, "Q4_K", 256, 2 + 2 + 12 + 128},
        {13, "Q5_K", 256, 2 + 2 + 12 + 32 + 128},
        {14, "Q6_K", 256, 128 + 64 + 16 + 2},
        {30, "BF16", 1, 2},
    };
    size_t n_known = 0;

    (void)state;
    for (uint32_t id = 0; id < 1000; id++)
        n_known += lam_dtype_known(id);
    assert_int_equal(n_known, sizeof wanted / sizeof wanted[0]);
    assert_false(lam_dtype_known(UINT32_MAX));
    for (size_t i = 0; i < n_known; i++) {
        const struct lam_dtype_info *info;
        assert_true(lam_dtype_known(wanted[i].id));
        info = lam_dtype_info((enum lam_dtype)wanted[i].id);
        assert_string_equal(info->name, wanted[i].name);
        assert_int_equal(info->block_elems, wanted[i].block_elems);
        assert_int_equal(info->block_bytes, wanted[i].block_bytes);
    }
}

static void test_names(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < 1000; id++)
        if (lam_dtype_known(id))
            assert_string_equal(lam_dtype_name(id), lam_dtype_info((enum lam_dtype)id)->name);
    assert_string_equal(lam_dtype_name(20), "IQ4_NL"); /* known by name only */
    assert_false(lam_dtype_known(20));
    assert_null(lam_dtype_name(4)); /* Q4_2 once; gone from the format */
    assert_null(lam_dtype_name(UINT32_MAX));
}

static void test_rows(void **state)
{
    uint64_t bytes = 7;

    (void)state;
    assert_true(lam_dtype_row_bytes(LAM_Q4_1, 576, &bytes));
    assert_int_equal(bytes, 360);
    assert_true(lam_dtype_row_bytes(LAM_F32, 0, &bytes));
    assert_int_equal(bytes, 0);
    bytes = 7;
    assert_false(lam_dtype_row_bytes(LAM_Q4_1, 577, &bytes));
    assert_false(lam_dtype_row_bytes(LAM_Q6_K, 128, &bytes));
    assert_false(lam_dtype_row_bytes(LAM_F32, (uint64_t)1 << 62, &bytes));
    assert_false(lam_dtype_row_bytes(LAM_Q8_0, UINT64_MAX - 31, &bytes));
    assert_int_equal(bytes, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
