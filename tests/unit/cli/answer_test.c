/* answer_test: flags of a generation become a request; what is absent is left to the service. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/answer.h"

/* Parses "-p x" and up to four more words. */
static enum lam_status parse(struct lam_answer_options *options, char *const more[4])
{
    struct lam_flag flags[LAM_ANSWER_FLAGS + 1] = {0};
    const struct lam_flag_program program = {.usage = "", .summary = "", .flags = flags};
    static char name[] = "run";
    static char p[] = "-p";
    static char x[] = "x";
    char *argv[] = {name, p, x, more[0], more[1], more[2], more[3], NULL};
    struct lam_err err = {0};
    size_t n_operands = 0;
    enum lam_flag_ask ask;
    int argc = 3;

    for (int i = 0; i < 4 && more[i]; i++)
        argc++;
    *options = lam_answer_defaults();
    lam_answer_add_flags(options, flags);
    if (lam_flag_parse(&program, argc, argv, NULL, 0, &n_operands, &ask, &err))
        return err.status;
    return lam_answer_check(options, &err);
}

static void test_absent_flags_are_absent(void **state)
{
    struct lam_answer_options options;
    struct lam_client_request request;

    (void)state;
    assert_int_equal(parse(&options, (char *[4]){0}), LAM_OK);
    request = lam_answer_request(&options);
    assert_null(request.max_tokens);
    assert_null(request.sampling.top_k);
    assert_null(request.sampling.top_p);
    assert_null(request.sampling.seed);
    assert_non_null(request.sampling.temperature); /* ours: greedy, not the service's 1 */
    assert_true(*request.sampling.temperature == 0);
}

static void test_given_flags_are_present(void **state)
{
    static char seed[] = "--seed=0";
    static char top_p[] = "--top-p=0.5";
    static char n[] = "-n";
    static char seven[] = "7";
    struct lam_answer_options options;
    struct lam_client_request request;

    (void)state;
    assert_int_equal(parse(&options, (char *[4]){seed, top_p, n, seven}), LAM_OK);
    request = lam_answer_request(&options);
    assert_int_equal(*request.sampling.seed, 0);
    assert_true(*request.sampling.top_p == 0.5);
    assert_int_equal(*request.max_tokens, 7);
}

static void test_what_contradicts_is_refused(void **state)
{
    static char chat[] = "--chat";
    static char raw[] = "--raw";
    static char system_flag[] = "--system=be kind";
    static char bad_stop[] = "--stop=\xff";
    struct lam_answer_options options;

    (void)state;
    assert_int_equal(parse(&options, (char *[4]){chat}), LAM_OK);
    assert_int_equal(parse(&options, (char *[4]){chat, raw}), LAM_INVALID_ARGUMENT);
    assert_int_equal(parse(&options, (char *[4]){system_flag}), LAM_OK);
    assert_int_equal(parse(&options, (char *[4]){raw, system_flag}), LAM_INVALID_ARGUMENT);
    assert_int_equal(parse(&options, (char *[4]){bad_stop}), LAM_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_flags_are_absent),
        cmocka_unit_test(test_given_flags_are_present),
        cmocka_unit_test(test_what_contradicts_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
