/* buf: growth up to the maximum and not beyond, termination, failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/buf.h"
#include "common/fault.h"

static void test_append(void **state)
{
    struct lam_buf buf = LAM_BUF(1000);

    (void)state;
    assert_null(buf.data);
    assert_true(lam_buf_append(&buf, "ab\0c", 4));
    assert_int_equal(buf.size, 4);
    assert_memory_equal(buf.data, "ab\0c", 5); /* and its terminator */
    assert_true(lam_buf_text(&buf, "def"));
    assert_true(lam_buf_printf(&buf, "-%d-%s", 7, "x"));
    assert_int_equal(buf.size, 11);
    assert_memory_equal(buf.data, "ab\0cdef-7-x", 12);
    assert_true(lam_buf_append(&buf, NULL, 0));
    assert_int_equal(buf.size, 11);
    lam_buf_done(&buf);
    assert_null(buf.data);
    assert_true(lam_buf_text(&buf, "again"));
    assert_string_equal(buf.data, "again");
    lam_buf_done(&buf);
}

static void test_grows(void **state)
{
    struct lam_buf buf = LAM_BUF(100000);

    (void)state;
    for (int i = 0; i < 100000; i++)
        assert_true(lam_buf_append(&buf, &(char){(char)('a' + i % 26)}, 1));
    assert_int_equal(buf.size, 100000);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buf.data[i], 'a' + i % 26);
    assert_int_equal(buf.data[100000], 0);
    lam_buf_done(&buf);
}

/* At the maximum nothing more goes in, and what is inside stays. */
static void test_max(void **state)
{
    struct lam_buf buf = LAM_BUF(5);

    (void)state;
    assert_true(lam_buf_text(&buf, "12345"));
    assert_false(lam_buf_append(&buf, "6", 1));
    assert_false(lam_buf_printf(&buf, "%d", 6));
    assert_true(lam_buf_append(&buf, "", 0));
    assert_string_equal(buf.data, "12345");
    lam_buf_clear(&buf);
    assert_string_equal(buf.data, "");
    assert_false(lam_buf_text(&buf, "123456"));
    assert_int_equal(buf.size, 0);
    assert_true(lam_buf_text(&buf, "abcd"));
    assert_false(lam_buf_append(&buf, "xy", 2));
    assert_false(lam_buf_append(&buf, "x", SIZE_MAX)); /* refused before a byte is read */
    assert_string_equal(buf.data, "abcd");
    lam_buf_done(&buf);
    assert_int_equal(buf.max, 5);
}

static void test_drop_front(void **state)
{
    struct lam_buf buf = LAM_BUF(100);

    (void)state;
    lam_buf_drop_front(&buf, 0); /* never grown */
    assert_true(lam_buf_text(&buf, "abcdef"));
    lam_buf_drop_front(&buf, 2);
    assert_string_equal(buf.data, "cdef");
    lam_buf_drop_front(&buf, 4);
    assert_string_equal(buf.data, "");
    assert_int_equal(buf.size, 0);
    lam_buf_done(&buf);
}

static void test_no_memory(void **state)
{
    struct lam_buf buf = LAM_BUF(1000);
    char text[200];

    (void)state;
    memset(text, 'x', sizeof text);
    lam_fault_arm("alloc", 1);
    assert_false(lam_buf_text(&buf, "a"));
    assert_true(lam_buf_text(&buf, "a"));
    lam_fault_arm("alloc", 1);
    assert_false(lam_buf_append(&buf, text, sizeof text));
    assert_string_equal(buf.data, "a");
    lam_fault_arm("alloc", 1);
    assert_false(lam_buf_printf(&buf, "%200s", "x"));
    assert_string_equal(buf.data, "a");
    lam_fault_arm("alloc", 0);
    lam_buf_done(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_grows),
        cmocka_unit_test(test_max),
        cmocka_unit_test(test_drop_front),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
