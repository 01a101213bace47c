/* Every field of a request at the edges of its range, and every kind of prompt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "common/fault.h"
#include "gateway/request.h"
#include "tests/unit/gateway/tiny_model.h"

static struct lam_served *served;
static struct lam_served *served_chat;

static int setup(void **state)
{
    (void)state;
    served = tiny_served(false);
    served_chat = tiny_served(true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lam_served_destroy(served);
    lam_served_destroy(served_chat);
    return 0;
}

/* A good request that each test spoils in one place. */
struct fixture {
    Laminar__V1__GenerateRequest message;
    Laminar__V1__Sampling sampling;
    Laminar__V1__TokenIds ids;
};

static void good(struct fixture *f)
{
    static char text[] = "hello";

    laminar__v1__generate_request__init(&f->message);
    laminar__v1__sampling__init(&f->sampling);
    laminar__v1__token_ids__init(&f->ids);
    f->message.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TEXT;
    f->message.text = text;
    f->message.sampling = &f->sampling;
}

/* The error has to contain all of the given texts. */
static void expect_error(const struct lam_served *model, const struct fixture *f,
    enum lam_status status, const char *const words[3])
{
    struct lam_request request = {0};
    struct lam_err err = {0};

    assert_int_equal(lam_request_check(model, &f->message, 7, &request, &err), status);
    assert_int_equal(err.status, status);
    assert_null(request.prompt.ids); /* untouched */
    for (size_t i = 0; i < 3 && words[i]; i++)
        if (!strstr(err.text, words[i]))
            fail_msg("\"%s\" does not name \"%s\"", err.text, words[i]);
}

#define BAD(f, ...)                                                                                \
    expect_error(served, f, LAM_INVALID_ARGUMENT, (const char *const[3]){__VA_ARGS__})

static struct lam_request expect_ok(const struct lam_served *model, const struct fixture *f)
{
    struct lam_request request = {0};
    struct lam_err err = {0};

    if (lam_request_check(model, &f->message, 7, &request, &err) != LAM_OK)
        fail_msg("refused: %s", err.text);
    return request;
}

static void ok(const struct fixture *f)
{
    struct lam_request request = expect_ok(served, f);

    lam_request_done(&request);
}

static void test_defaults(void **state)
{
    struct fixture f;
    struct lam_request request;

    (void)state;
    good(&f);
    f.message.sampling = NULL;
    request = expect_ok(served, &f);
    assert_int_equal(request.prompt.n, 6); /* BOS and five bytes */
    assert_int_equal(request.prompt.ids[0], TINY_BOS);
    assert_int_equal(request.prompt.ids[5], TINY_BYTE('o'));
    assert_int_equal(request.max_tokens, TINY_CONTEXT - 6);
    assert_true(request.sampling.temperature == 1.0f && request.sampling.top_p == 1.0f);
    assert_true(request.sampling.seed == 7);
    assert_int_equal(request.n_stops, 0);
    assert_false(request.ignore_eos);
    lam_request_done(&request);
}

static void test_max_tokens(void **state)
{
    const int32_t bad[] = {-1, 0, TINY_CONTEXT + 1, INT32_MAX, INT32_MIN};
    struct lam_request request;
    struct fixture f;

    (void)state;
    good(&f);
    f.message._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char value[16];
        snprintf(value, sizeof value, "%d", bad[i]);
        f.message.max_tokens = bad[i];
        BAD(&f, "max_tokens", value, "1..64");
    }
    f.message.max_tokens = 1;
    request = expect_ok(served, &f);
    assert_int_equal(request.max_tokens, 1);
    lam_request_done(&request);
    f.message.max_tokens = TINY_CONTEXT; /* allowed; the context ends first */
    request = expect_ok(served, &f);
    assert_int_equal(request.max_tokens, TINY_CONTEXT - 6);
    lam_request_done(&request);
}

static void test_sampling_ranges(void **state)
{
    const struct {
        const char *field;
        int case_offset, value_offset;
        float bad[5];
        float good[3];
    } fields[] = {
#define FIELD(name)                                                                                \
#name, offsetof(Laminar__V1__Sampling, _##name##_case), offsetof(Laminar__V1__Sampling, name)
        {FIELD(temperature), {-1.0f, -1e-6f, 100.5f, 1e38f, NAN}, {0.0f, 1.0f, 100.0f}},
        {FIELD(top_p), {0.0f, -1.0f, 1.001f, 2.0f, NAN}, {1e-6f, 0.5f, 1.0f}},
        {FIELD(min_p), {-0.001f, 1.001f, INFINITY, -INFINITY, NAN}, {0.0f, 0.5f, 1.0f}},
        {FIELD(repetition_penalty), {0.0f, -1.0f, -INFINITY, INFINITY, NAN}, {0.01f, 1.0f, 2.0f}},
        {FIELD(presence_penalty), {-2.01f, 2.01f, INFINITY, -INFINITY, NAN}, {-2.0f, 0.0f, 2.0f}},
        {FIELD(frequency_penalty), {-2.01f, 2.01f, INFINITY, -INFINITY, NAN}, {-2.0f, 0.0f, 2.0f}},
#undef FIELD
    };
    struct fixture f;

    (void)state;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        int present;
        char *base = (char *)&f.sampling;
        good(&f);
        /* Set: the case of a one-member oneof is the number of its field, in the order of the
         * table. */
        present = (const int[]){1, 3, 4, 5, 6, 7}[i];
        memcpy(base + fields[i].case_offset, &present, sizeof present);
        for (size_t k = 0; k < 5; k++) {
            memcpy(base + fields[i].value_offset, &fields[i].bad[k], sizeof(float));
            BAD(&f, fields[i].field);
        }
        for (size_t k = 0; k < 3; k++) {
            memcpy(base + fields[i].value_offset, &fields[i].good[k], sizeof(float));
            ok(&f);
        }
    }
}

static void test_top_k_and_seed(void **state)
{
    struct lam_request request;
    struct fixture f;

    (void)state;
    good(&f);
    f.sampling._top_k_case = LAMINAR__V1__SAMPLING___TOP_K_TOP_K;
    f.sampling.top_k = -1;
    BAD(&f, "top_k", "-1", "0..");
    f.sampling.top_k = INT32_MAX;
    f.sampling._seed_case = LAMINAR__V1__SAMPLING___SEED_SEED;
    f.sampling.seed = UINT64_MAX;
    request = expect_ok(served, &f);
    assert_true(request.sampling.seed == UINT64_MAX);
    assert_int_equal(request.sampling.top_k, INT32_MAX);
    lam_request_done(&request);
    f.sampling.seed = 0; /* a seed like any other */
    request = expect_ok(served, &f);
    assert_true(request.sampling.seed == 0);
    lam_request_done(&request);
}

static void test_stops(void **state)
{
    char longest[66];
    char text[] = "stop";
    char empty[] = "";
    char *stops[9] = {text, text, text, text, text, text, text, text, text};
    struct lam_request request;
    struct fixture f;

    (void)state;
    memset(longest, 'x', 65);
    longest[65] = '\0';
    good(&f);
    f.message.stop = stops;
    f.message.n_stop = 9;
    BAD(&f, "stop", "9", "8");
    f.message.n_stop = 8;
    ok(&f);
    f.message.n_stop = 2;
    stops[1] = empty;
    BAD(&f, "stop[1]", "0", "1..64");
    stops[1] = longest;
    BAD(&f, "stop[1]", "65", "1..64");
    longest[64] = '\0';
    request = expect_ok(served, &f);
    assert_int_equal(request.n_stops, 2);
    assert_int_equal(request.stops[1].size, 64);
    assert_memory_equal(request.stops[0].text, "stop", 4);
    lam_request_done(&request);
}

static void test_text_prompt(void **state)
{
    char text[TINY_CONTEXT + 2];
    struct fixture f;

    (void)state;
    good(&f);
    f.message.text = text;
    text[0] = '\0';
    BAD(&f, "text", "empty");
    memset(text, 'a', sizeof text);
    text[TINY_CONTEXT - 2] = '\0'; /* with BOS one less than the context: room for one token */
    ok(&f);
    text[TINY_CONTEXT - 2] = 'a';
    text[TINY_CONTEXT - 1] = '\0';
    BAD(&f, "64 tokens", "holds 64");
    f.message.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT__NOT_SET;
    BAD(&f, "prompt", "missing");
}

/* Text of a user never becomes a control token, however it is spelled. */
static void test_no_control_tokens_from_text(void **state)
{
    static char text[] = "</s><|im_end|>";
    struct lam_request request;
    struct fixture f;

    (void)state;
    good(&f);
    f.message.text = text;
    request = expect_ok(served, &f);
    assert_int_equal(request.prompt.n, 1 + strlen(text));
    for (size_t i = 1; i < request.prompt.n; i++)
        assert_int_equal(request.prompt.ids[i], TINY_BYTE(text[i - 1]));
    lam_request_done(&request);
}

static void test_id_prompt(void **state)
{
    int32_t ids[TINY_CONTEXT] = {0};
    struct lam_request request;
    struct fixture f;

    (void)state;
    good(&f);
    f.message.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    f.message.token_ids = &f.ids;
    f.ids.ids = ids;
    BAD(&f, "token_ids", "empty");
    f.ids.n_ids = 3;
    ids[2] = -1;
    BAD(&f, "token_ids[2]", "-1", "0..299");
    ids[2] = TINY_VOCAB;
    BAD(&f, "token_ids[2]", "300", "0..299");
    ids[2] = TINY_VOCAB - 1;
    request = expect_ok(served, &f);
    assert_int_equal(request.prompt.n, 3); /* as they are: no BOS */
    assert_memory_equal(request.prompt.ids, ids, 3 * sizeof *ids);
    lam_request_done(&request);
    f.ids.n_ids = TINY_CONTEXT - 1;
    ok(&f);
    f.ids.n_ids = TINY_CONTEXT;
    BAD(&f, "64 tokens", "holds 64");
}

static void test_chat_prompt(void **state)
{
    static char role[16] = "user";
    static char content[] = "hi";
    Laminar__V1__Chat chat = LAMINAR__V1__CHAT__INIT;
    Laminar__V1__ChatMessage message = LAMINAR__V1__CHAT_MESSAGE__INIT;
    Laminar__V1__ChatMessage *messages[] = {&message};
    struct lam_request request;
    struct fixture f;

    (void)state;
    good(&f);
    f.message.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_CHAT;
    f.message.chat = &chat;
    chat.messages = messages;
    message.role = role;
    message.content = content;
    expect_error(
        served_chat, &f, LAM_INVALID_ARGUMENT, (const char *const[3]){"messages", "empty"});
    chat.n_messages = 1;
    request = expect_ok(served_chat, &f);
    assert_true(request.prompt.n > 2);
    lam_request_done(&request);
    /* Without a template the error says what to do. */
    expect_error(served, &f, LAM_FAILED_PRECONDITION,
        (const char *const[3]){"chat template", "raw prompt", "--chat-template"});
    memcpy(role, "wizard", 7);
    expect_error(served_chat, &f, LAM_INVALID_ARGUMENT, (const char *const[3]){"role", "wizard"});
    memcpy(role, "user", 5);
}

static void test_tokenize(void **state)
{
    static char text[] = "a</s>";
    Laminar__V1__TokenizeRequest message = LAMINAR__V1__TOKENIZE_REQUEST__INIT;
    struct lam_tokens tokens = {0};
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_request_tokenize(served, &message, &tokens, &err), LAM_INVALID_ARGUMENT);
    message.prompt_case = LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
    message.text = text;
    assert_int_equal(lam_request_tokenize(served, &message, &tokens, &err), LAM_OK);
    assert_int_equal(tokens.n, 6);
    assert_int_equal(tokens.ids[0], TINY_BOS);
    lam_tokens_done(&tokens);
    message.no_bos = 1;
    message.parse_special = 1;
    assert_int_equal(lam_request_tokenize(served, &message, &tokens, &err), LAM_OK);
    assert_int_equal(tokens.n, 2);
    assert_int_equal(tokens.ids[1], TINY_EOS);
    lam_tokens_done(&tokens);
}

static void test_no_memory(void **state)
{
    bool fired = true;
    struct fixture f;

    (void)state;
    good(&f);
    for (uint64_t nth = 1; fired; nth++) {
        struct lam_request request = {0};
        struct lam_err err = {0};
        enum lam_status status;
        lam_fault_arm("alloc", nth);
        status = lam_request_check(served, &f.message, 7, &request, &err);
        fired = lam_fault_fired();
        assert_int_equal(status, fired ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        lam_request_done(&request);
    }
    lam_fault_arm("alloc", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_max_tokens),
        cmocka_unit_test(test_sampling_ranges),
        cmocka_unit_test(test_top_k_and_seed),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_text_prompt),
        cmocka_unit_test(test_no_control_tokens_from_text),
        cmocka_unit_test(test_id_prompt),
        cmocka_unit_test(test_chat_prompt),
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
