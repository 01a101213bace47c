/* Tokens to text: cut anywhere, the same text comes out, and no byte of a stop string. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/fault.h"
#include "common/utf8.h"
#include "gateway/emit.h"
#include "tests/unit/gateway/tiny_model.h"

static struct lam_served *served;

static int setup(void **state)
{
    (void)state;
    served = tiny_served(false);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lam_served_destroy(served);
    return 0;
}

static void begin(struct lam_emit *emit, const char *const *stops, size_t n_stops, bool ignore_eos)
{
    struct lam_stop copies[LAM_STOPS_MAX];
    struct lam_emit_config config = {.tokenizer = served->tokenizer,
        .stops = copies,
        .n_stops = n_stops,
        .ignore_eos = ignore_eos};

    for (size_t i = 0; i < n_stops; i++) {
        copies[i].size = strlen(stops[i]);
        memcpy(copies[i].text, stops[i], copies[i].size);
    }
    lam_emit_init(emit, &config);
}

/* Pushes text byte by byte; what may leave after each byte goes to out, and is whole UTF-8. */
static void push_text(struct lam_emit *emit, const char *text, bool last, struct lam_buf *out)
{
    struct lam_err err = {0};

    for (size_t i = 0; text[i] && emit->finish == LAM_FINISH_NOT; i++) {
        assert_int_equal(
            lam_emit_push(emit, TINY_BYTE(text[i]), last && !text[i + 1], &err), LAM_OK);
        if (emit->n_ready == 0)
            continue;
        assert_true(lam_utf8_valid(emit->text.data, emit->n_ready));
        assert_true(lam_buf_append(out, emit->text.data, emit->n_ready));
        lam_emit_taken(emit);
    }
}

struct stop_case {
    const char *text;
    const char *stops[3];
    const char *out;     /* all that comes out */
    const char *matched; /* NULL: the text ends by length */
};

static void test_stop_strings(void **state)
{
    const struct stop_case cases[] = {
        {"hello END world", {"END"}, "hello ", "END"},
        {"hello EN world", {"END"}, "hello EN world", NULL},
        {"hello EN", {"END"}, "hello EN", NULL}, /* held back, then released by the end */
        {"ENENEND", {"END"}, "ENEN", "END"},
        {"aaab", {"aab"}, "a", "aab"},
        {"xabcd", {"abcd", "bc"}, "xa", "bc"},   /* complete first */
        {"xabcd", {"bcd", "abcd"}, "x", "abcd"}, /* complete together: the longer one */
        {"END", {"END"}, "", "END"},
        {"one\n\ntwo", {"###", "\n\n"}, "one", "\n\n"},
        {"caf\xc3\xa9 \xe2\x82\xac!", {"\xe2\x82\xac"}, "caf\xc3\xa9 ", "\xe2\x82\xac"},
        {"\xf0\x9f\x98\x80\xf0\x9f\x98\x81", {"\xf0\x9f\x98\x81"}, "\xf0\x9f\x98\x80",
            "\xf0\x9f\x98\x81"},
        {"plain", {0}, "plain", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct stop_case *c = &cases[i];
        struct lam_buf out = LAM_BUF(1000);
        struct lam_emit emit;
        size_t n_stops = 0;
        while (n_stops < 3 && c->stops[n_stops])
            n_stops++;
        begin(&emit, c->stops, n_stops, false);
        push_text(&emit, c->text, true, &out);
        assert_string_equal(out.data ? out.data : "", c->out);
        if (c->matched) {
            assert_int_equal(emit.finish, LAM_FINISH_STOP);
            assert_memory_equal(emit.matched->text, c->matched, strlen(c->matched));
            assert_int_equal(emit.matched->size, strlen(c->matched));
        } else {
            assert_int_equal(emit.finish, LAM_FINISH_LENGTH);
            assert_null(emit.matched);
        }
        lam_emit_done(&emit);
        lam_buf_done(&out);
    }
}

/* Nothing is held back for longer than it can begin a stop string. */
static void test_holds_back_no_more_than_needed(void **state)
{
    const char *stops[] = {"abc", "cde"};
    struct lam_buf out = LAM_BUF(100);
    struct lam_emit emit;

    (void)state;
    begin(&emit, stops, 2, false);
    push_text(&emit, "xxab", false, &out);
    assert_string_equal(out.data, "xx");
    push_text(&emit, "x", false, &out);
    assert_string_equal(out.data, "xxabx");
    push_text(&emit, "abx", false, &out);
    assert_string_equal(out.data, "xxabxabx");
    lam_emit_done(&emit);
    lam_buf_done(&out);
}

/* All texts of length 7 over two letters, three stops: as a search in the whole text says. */
static void test_all_short_texts(void **state)
{
    const char *stops[] = {"aab", "bb", "abab"};

    (void)state;
    for (unsigned bits = 0; bits < 128; bits++) {
        struct lam_buf out = LAM_BUF(100);
        struct lam_emit emit;
        char text[8] = "";
        size_t best_begin = 7, best_end = 8;
        for (unsigned i = 0; i < 7; i++)
            text[i] = bits >> i & 1 ? 'a' : 'b';
        for (size_t s = 0; s < 3; s++) {
            const char *hit = strstr(text, stops[s]);
            size_t start = hit ? (size_t)(hit - text) : 0;
            size_t end = start + strlen(stops[s]);
            if (hit && (end < best_end || (end == best_end && start < best_begin))) {
                best_begin = start;
                best_end = end;
            }
        }
        begin(&emit, stops, 3, false);
        push_text(&emit, text, true, &out);
        text[best_begin] = '\0';
        assert_string_equal(out.data ? out.data : "", text);
        lam_emit_done(&emit);
        lam_buf_done(&out);
    }
}

static void test_end_token(void **state)
{
    struct lam_buf out = LAM_BUF(100);
    struct lam_err err = {0};
    struct lam_emit emit;
    const char *stops[] = {"world"};

    (void)state;
    begin(&emit, stops, 1, false);
    push_text(&emit, "hi wor", false, &out);
    assert_int_equal(lam_emit_push(&emit, TINY_EOS, false, &err), LAM_OK);
    assert_int_equal(emit.finish, LAM_FINISH_STOP);
    assert_null(emit.matched);
    assert_int_equal(emit.n_ready, 3); /* "wor" was held back for the stop string */
    lam_emit_done(&emit);

    begin(&emit, NULL, 0, true);
    assert_int_equal(lam_emit_push(&emit, TINY_EOS, false, &err), LAM_OK);
    assert_int_equal(emit.finish, LAM_FINISH_NOT);
    assert_int_equal(lam_emit_push(&emit, TINY_EOS, true, &err), LAM_OK);
    assert_int_equal(emit.finish, LAM_FINISH_LENGTH);
    lam_emit_done(&emit);
    lam_buf_done(&out);
}

/* A character that never becomes complete comes out as U+FFFD, and so does U+0000. */
static void test_what_is_no_text(void **state)
{
    struct lam_buf out = LAM_BUF(100);
    struct lam_err err = {0};
    struct lam_emit emit;

    (void)state;
    begin(&emit, NULL, 0, false);
    push_text(&emit, "a\xe2\x82", true, &out);
    assert_string_equal(out.data, "a\xef\xbf\xbd");
    lam_emit_done(&emit);

    begin(&emit, NULL, 0, false);
    assert_int_equal(lam_emit_push(&emit, TINY_BYTE(0), false, &err), LAM_OK);
    assert_int_equal(emit.n_ready, 3);
    assert_memory_equal(emit.text.data, "\xef\xbf\xbd", 3);
    assert_int_equal(lam_emit_push(&emit, TINY_VOCAB, false, &err), LAM_OUT_OF_RANGE);
    lam_emit_done(&emit);
    lam_buf_done(&out);
}

static void test_no_memory(void **state)
{
    const char *stops[] = {"lo w"};
    bool fired = true;

    (void)state;
    for (uint64_t nth = 1; fired; nth++) {
        struct lam_emit emit;
        struct lam_err err = {0};
        enum lam_status status = LAM_OK;
        const char *text = "hello world";
        begin(&emit, stops, 1, false);
        lam_fault_arm("alloc", nth);
        while (status == LAM_OK && emit.finish == LAM_FINISH_NOT)
            status = lam_emit_push(&emit, TINY_BYTE(*text++), false, &err);
        fired = lam_fault_fired();
        assert_int_equal(status, fired ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        lam_emit_done(&emit);
    }
    lam_fault_arm("alloc", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_holds_back_no_more_than_needed),
        cmocka_unit_test(test_all_short_texts),
        cmocka_unit_test(test_end_token),
        cmocka_unit_test(test_what_is_no_text),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
