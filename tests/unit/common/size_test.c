/* size: checked arithmetic at its edges; sizes as people write and read them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/size.h"

static void test_arithmetic(void **state)
{
    uint64_t value = 7;

    (void)state;
    assert_true(lam_size_add(UINT64_MAX - 1, 1, &value));
    assert_int_equal(value, UINT64_MAX);
    value = 7;
    assert_false(lam_size_add(UINT64_MAX, 1, &value));
    assert_false(lam_size_mul((uint64_t)1 << 32, (uint64_t)1 << 32, &value));
    assert_false(lam_size_mul(UINT64_MAX, 2, &value));
    assert_int_equal(value, 7); /* untouched on failure */
    assert_true(lam_size_mul((uint64_t)1 << 32, ((uint64_t)1 << 32) - 1, &value));
    assert_int_equal(value, 0xFFFFFFFF00000000u);
    assert_true(lam_size_mul(UINT64_MAX, 0, &value));
    assert_int_equal(value, 0);
}

static void test_align(void **state)
{
    uint64_t value = 7;

    (void)state;
    assert_true(lam_size_align_up(0, 32, &value));
    assert_int_equal(value, 0);
    assert_true(lam_size_align_up(33, 32, &value));
    assert_int_equal(value, 64);
    assert_true(lam_size_align_up(64, 32, &value));
    assert_int_equal(value, 64);
    assert_true(lam_size_align_up(UINT64_MAX - 31, 32, &value));
    assert_int_equal(value, UINT64_MAX - 31);
    value = 7;
    /* The rounding that wraps to 0: the hole in other readers. */
    assert_false(lam_size_align_up(UINT64_MAX - 30, 32, &value));
    assert_int_equal(value, 7);
    assert_int_equal(lam_align_up(4097, 4096), 8192);
    assert_int_equal(lam_align_down(8191, 4096), 4096);
}

static void test_ranges(void **state)
{
    (void)state;
    assert_true(lam_size_range_ok(0, 0, 0));
    assert_true(lam_size_range_ok(10, 0, 10));
    assert_true(lam_size_range_ok(3, 7, 10));
    assert_false(lam_size_range_ok(3, 8, 10));
    assert_false(lam_size_range_ok(11, 0, 10));
    assert_false(lam_size_range_ok(UINT64_MAX, 2, 10)); /* the sum wraps to 1 */
    assert_false(lam_size_range_ok(2, UINT64_MAX, 10));
}

static void test_parse(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"3GiB", 3 * LAM_GIB},
        {"3gib", 3 * LAM_GIB},
        {"3072MiB", 3 * LAM_GIB},
        {"512KiB", 512 * LAM_KIB},
        {"3.5", 3 * LAM_GIB + LAM_GIB / 2},
        {".5MiB", 512 * LAM_KIB},
        {"3GB", 3000000000u},
        {"7MB", 7000000u},
        {"9kB", 9000u},
        {"17B", 17},
        {"2TiB", 2048 * LAM_GIB},
        {"1TB", 1000000000000u},
        {"0", 0},
        {"75%", 750},
        {"100%", 1000},
        {"0.5%", 5},
    };
    static const char *const bad[] = {"", "GiB", "-1GiB", "+1GiB", "1e3", "0x10", " 1GiB", "1 GiB",
        "1GiBx", "101%", "nan", "inf", "1.2.3", ".", "9999999999TiB", "%"};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t bytes = 1;
        struct lam_err err = {0};
        if (lam_size_parse(cases[i].text, 1000, &bytes, &err) || bytes != cases[i].bytes)
            fail_msg("'%s' gave %llu %s", cases[i].text, (unsigned long long)bytes, err.text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes = 1;
        struct lam_err err = {0};
        if (lam_size_parse(bad[i], 1000, &bytes, &err) != LAM_INVALID_ARGUMENT)
            fail_msg("'%s' gave %llu", bad[i], (unsigned long long)bytes);
        assert_int_equal(bytes, 1);
        assert_non_null(strstr(err.text, "3GiB"));
        assert_non_null(strstr(err.text, "75%"));
    }
}

/* Where a percentage means nothing it is refused and not offered. */
static void test_parse_without_whole(void **state)
{
    struct lam_err err = {0};
    uint64_t bytes = 1;

    (void)state;
    assert_int_equal(lam_size_parse("75%", 0, &bytes, &err), LAM_INVALID_ARGUMENT);
    assert_null(strstr(err.text, "75%,"));
    assert_null(strstr(err.text + strlen("'75%'"), "75%"));
}

static void test_format(void **state)
{
    char buf[24];

    (void)state;
    assert_string_equal(lam_size_format(0, buf, sizeof buf), "0 B");
    assert_string_equal(lam_size_format(1023, buf, sizeof buf), "1023 B");
    assert_string_equal(lam_size_format(512 * LAM_KIB, buf, sizeof buf), "512.0 KiB");
    assert_string_equal(lam_size_format(LAM_MIB, buf, sizeof buf), "1.0 MiB");
    assert_string_equal(lam_size_format(3 * LAM_GIB + LAM_GIB / 2, buf, sizeof buf), "3.50 GiB");
    assert_string_equal(lam_size_format(UINT64_MAX, buf, sizeof buf), "17179869184.00 GiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_align),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_without_whole),
        cmocka_unit_test(test_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
