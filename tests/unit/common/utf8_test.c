/* utf8: every scalar value, every way to be no UTF-8, and text cut anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/utf8.h"

/* Encode, decode, decode every prefix: for all 1,112,064 scalar values. */
static void test_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char bytes[4];
        uint32_t decoded = UINT32_MAX;
        size_t length;

        if (code == 0xd800)
            code = 0xe000;
        length = lam_utf8_encode(code, bytes);
        if (lam_utf8_decode(bytes, length, &decoded) != (int)length || decoded != code)
            fail_msg("U+%04X", code);
        for (size_t n = 1; n < length; n++)
            if (lam_utf8_decode(bytes, n, &decoded) != -1)
                fail_msg("U+%04X cut at %zu", code, n);
    }
}

/* By brute force over all three-byte texts: valid means that encoding what was decoded gives the
 * bytes. */
static void test_all_short_texts(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 1u << 24; bits++) {
        char text[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
        char again[4];
        uint32_t code = 0;
        int length = lam_utf8_decode(text, sizeof text, &code);

        if (length <= 0)
            continue;
        if (length != (int)lam_utf8_encode(code, again) ||
            memcmp(text, again, (size_t)length) != 0 || (code >= 0xd800 && code < 0xe000))
            fail_msg("%06x", bits);
    }
}

static void test_invalid(void **state)
{
    static const struct {
        const char *what;
        const char *text;
    } cases[] = {
        {"continuation alone", "\x80"},
        {"0xff", "\xff"},
        {"0xc0 0x80: overlong 0", "\xc0\x80"},
        {"overlong 2", "\xc1\xbf"},
        {"overlong 3", "\xe0\x80\x80"},
        {"overlong 3, highest", "\xe0\x9f\xbf"},
        {"overlong 4", "\xf0\x80\x80\x80"},
        {"overlong 4, highest", "\xf0\x8f\xbf\xbf"},
        {"surrogate", "\xed\xa0\x80"},
        {"last surrogate", "\xed\xbf\xbf"},
        {"U+110000", "\xf4\x90\x80\x80"},
        {"lead 0xf5", "\xf5\x80\x80\x80"},
        {"2 then ASCII", "\xc3q"},
        {"3 then ASCII", "\xe2\x82q"},
        {"4 then ASCII", "\xf0\x9f\x98q"},
        {"5-byte form", "\xf8\x88\x80\x80\x80"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t code;
        if (lam_utf8_decode(cases[i].text, strlen(cases[i].text), &code) != 0)
            fail_msg("%s", cases[i].what);
        assert_false(lam_utf8_valid(cases[i].text, strlen(cases[i].text)));
    }
}

static void test_valid(void **state)
{
    static const char text[] = "a\0\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";

    (void)state;
    assert_true(lam_utf8_valid(text, sizeof text - 1));
    assert_true(lam_utf8_valid("", 0));
    assert_false(lam_utf8_valid("a\xc3", 2)); /* cut is not valid */
    assert_false(lam_utf8_valid("\xe2\x82", 2));
    assert_false(lam_utf8_valid("ok\xffok", 5));
}

static void test_complete_prefix(void **state)
{
    static const struct {
        const char *text;
        size_t prefix;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"ab\xc3", 2},
        {"ab\xe2\x82", 2},
        {"ab\xf0\x9f\x98", 2},
        {"\xf0\x9f\x98", 0},
        {"\xf0", 0},
        {"ab\xf0\x9f\x98\x80", 6},
        {"\xc3\xa9\xc3", 2},
        {"ab\x80", 3},     /* can never become UTF-8: complete */
        {"ab\xe0\x80", 4}, /* likewise: overlong */
        {"ab\xed\xa0", 4}, /* likewise: surrogate */
        {"ab\xff", 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(
            lam_utf8_complete_prefix(cases[i].text, strlen(cases[i].text)), cases[i].prefix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_all_short_texts),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_complete_prefix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
