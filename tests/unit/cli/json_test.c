/* json_test: what a stranger's bytes become in our JSON, and that nothing leaks without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/json.h"
#include "common/fault.h"

static void expect_text(const char *bytes, size_t n, const char *expected)
{
    json_t *value = lam_json_text(bytes, n);

    assert_non_null(value);
    assert_string_equal(json_string_value(value), expected);
    json_decref(value);
}

static void test_text(void **state)
{
    (void)state;
    expect_text("", 0, "");
    expect_text("w\xc3\xb6rld", 6, "w\xc3\xb6rld");
    expect_text("a\xff\xfe"
                "b",
        4,
        "a\xef\xbf\xbd\xef\xbf\xbd"
        "b");
    expect_text("cut \xf0\x9f\x8d", 7, "cut \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void test_text_without_memory(void **state)
{
    json_t *value;

    (void)state;
    lam_fault_arm("alloc", 1);
    value = lam_json_text("text", 4);
    assert_true(lam_fault_fired());
    lam_fault_arm("alloc", 0);
    assert_null(value);
}

static void test_version_comes_first(void **state)
{
    const int32_t ids[] = {3, -1, 49151};
    json_t *object = lam_json_begin();
    char text[64] = "";

    (void)state;
    assert_int_equal(json_object_set_new(object, "a", lam_json_ids(ids, 3)), 0);
    assert_int_equal(json_dumpb(object, text, sizeof text - 1, JSON_COMPACT), 30);
    assert_string_equal(text, "{\"version\":1,\"a\":[3,-1,49151]}");
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_without_memory),
        cmocka_unit_test(test_version_comes_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
