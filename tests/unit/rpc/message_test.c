/* Tests of rpc/message.h: what protobuf-c alone would accept, or die of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"

#define ARENA_BYTES ((uint64_t)1 << 20)

static struct lam_arena arena;

static int set_up(void **state)
{
    (void)state;
    return lam_arena_init(&arena, ARENA_BYTES, NULL) == LAM_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    lam_arena_done(&arena);
    return 0;
}

static enum lam_status unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
    size_t n_bytes, void *ret_message, struct lam_err *err)
{
    ProtobufCMessage *message = NULL;
    enum lam_status status;

    lam_arena_reset(&arena);
    status = lam_message_unpack(type, bytes, n_bytes, &arena, &message, err);
    memcpy(ret_message, &message, sizeof message);
    return status;
}

static enum lam_status unpack_generate(const char *bytes, size_t n_bytes,
    Laminar__V1__GenerateRequest **ret_request, struct lam_err *err)
{
    return unpack(&laminar__v1__generate_request__descriptor, bytes, n_bytes, ret_request, err);
}

static void a_message_survives_the_round_trip(void **state)
{
    Laminar__V1__GenerateRequest request = LAMINAR__V1__GENERATE_REQUEST__INIT;
    Laminar__V1__Sampling sampling = LAMINAR__V1__SAMPLING__INIT;
    Laminar__V1__GenerateRequest *back = NULL;
    Laminar__V1__TokenIds ids = LAMINAR__V1__TOKEN_IDS__INIT;
    int32_t values[] = {1, 300, -1};
    char *stops[] = {(char *)"end", (char *)"\xe2\x82\xac"};
    struct lam_buf packed = LAM_BUF(1 << 20);
    struct lam_err err = {0};

    (void)state;
    ids.n_ids = 3;
    ids.ids = values;
    request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &ids;
    request.n_stop = 2;
    request.stop = stops;
    sampling._temperature_case = LAMINAR__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
    sampling.temperature = 0; /* present and zero */
    request.sampling = &sampling;
    assert_true(lam_message_pack(&request.base, &packed));
    assert_int_equal(unpack_generate(packed.data, packed.size, &back, &err), LAM_OK);
    assert_int_equal(back->prompt_case, LAMINAR__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS);
    assert_int_equal(back->token_ids->n_ids, 3);
    assert_memory_equal(back->token_ids->ids, values, sizeof values);
    assert_int_equal(back->n_stop, 2);
    assert_string_equal(back->stop[1], "\xe2\x82\xac");
    assert_int_equal(
        back->sampling->_temperature_case, LAMINAR__V1__SAMPLING___TEMPERATURE_TEMPERATURE);
    assert_int_equal(back->sampling->_top_k_case, LAMINAR__V1__SAMPLING___TOP_K__NOT_SET);
    assert_int_equal(back->_max_tokens_case, LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS__NOT_SET);
    lam_buf_done(&packed);
}

static void the_empty_message_is_valid(void **state)
{
    Laminar__V1__GenerateRequest *request = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(unpack_generate(NULL, 0, &request, &err), LAM_OK);
    assert_int_equal(request->prompt_case, LAMINAR__V1__GENERATE_REQUEST__PROMPT__NOT_SET);
}

static void malformed_bytes_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t n_bytes;
    } bad[] = {
        {"\x0a", 1}, /* no length */
        {"\x0a\x05"
         "abcd",
            6},                                                   /* length past the end */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},     /* length 2^64-1 */
        {"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* eleven-byte varint */
        {"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11},     /* 65 bits */
        {"\x20\x80", 2},                                          /* varint cut */
        {"\x00\x01", 2},                                          /* field 0 */
        {"\x0b\x0c", 2},                                          /* group */
        {"\x0e\x01", 2},                                          /* wire type 6 */
        {"\x0f\x01", 2},                                          /* wire type 7 */
        {"\x08\x01", 2},                                          /* text as varint */
        {"\x22\x01\x01", 3},                                      /* max_tokens as bytes */
        {"\xf8\xff\xff\xff\x1f\x01", 6},                          /* field 2^30 */
        {"\x25\x01\x02\x03", 4},                                  /* fixed32 cut */
        {"\x2a\x02\x0d\x00", 4},                                  /* nested: float cut */
        {"\x1a\x03\x0a\x01\x80", 5},                              /* packed: varint cut */
    };
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Laminar__V1__GenerateRequest *request = NULL;
        assert_int_equal(
            unpack_generate(bad[i].bytes, bad[i].n_bytes, &request, &err), LAM_INVALID_ARGUMENT);
        assert_null(request);
        assert_non_null(strstr(err.text, "laminar.v1."));
    }
}

static void text_is_utf8_without_nul(void **state)
{
    static const char *const bad[] = {
        "\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "ab\xc3"};
    Laminar__V1__GenerateRequest *request = NULL;
    struct lam_err err = {0};
    char bytes[16] = "\x0a";

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t length = strlen(bad[i]);
        bytes[1] = (char)length;
        memcpy(bytes + 2, bad[i], length);
        assert_int_equal(unpack_generate(bytes, 2 + length, &request, &err), LAM_INVALID_ARGUMENT);
        assert_string_equal(
            err.text, "laminar.v1.GenerateRequest.text: text that is not valid UTF-8");
    }
    /* C code would see one of these three characters. */
    assert_int_equal(unpack_generate("\x0a\x03"
                                     "a\0b",
                         5, &request, &err),
        LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "NUL"));
    /* bytes fields may hold anything. */
    {
        Laminar__V1__ReadExtentResponse *extent = NULL;
        assert_int_equal(unpack(&laminar__v1__read_extent_response__descriptor, "\x0a\x02\xff\x00",
                             4, &extent, &err),
            LAM_OK);
        assert_int_equal(extent->data.len, 2);
    }
}

/* A newer peer's fields pass, also in great number; the arena bounds what they cost. */
static void unknown_fields_pass(void **state)
{
    Laminar__V1__GenerateRequest *request = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(
        unpack_generate("\xf8\x07\x05\x0a\x02hi\xfa\x07\x03xyz", 13, &request, &err), LAM_OK);
    assert_string_equal(request->text, "hi");
}

static void repeated_scalars_may_be_packed_or_not(void **state)
{
    Laminar__V1__TokenIds *ids = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(unpack(&laminar__v1__token_ids__descriptor, "\x08\x01\x0a\x02\x02\x03\x08\x04",
                         8, &ids, &err),
        LAM_OK);
    assert_int_equal(ids->n_ids, 4);
    assert_int_equal(ids->ids[2], 3);
}

/* Two bytes on the wire, some 60 in memory: with the heap, 4 MiB of these became 240 MiB. */
static void a_flood_of_empty_messages_hits_the_arena(void **state)
{
    size_t n_bytes = (size_t)200000 * 2;
    unsigned char *bytes = lam_calloc(n_bytes, 1);
    Laminar__V1__Chat *chat = NULL;
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < n_bytes; i += 2) {
        bytes[i] = 0x0a;
        bytes[i + 1] = 0;
    }
    assert_int_equal(unpack(&laminar__v1__chat__descriptor, bytes, n_bytes, &chat, &err),
        LAM_RESOURCE_EXHAUSTED);
    assert_null(chat);
    lam_free(bytes);
}

static void too_many_fields_are_refused_before_unpacking(void **state)
{
    size_t n_bytes = ((size_t)2 << 20) + 2;
    unsigned char *bytes = lam_calloc(n_bytes, 1);
    Laminar__V1__Chat *chat = NULL;
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < n_bytes; i += 2) {
        bytes[i] = 0x0a;
        bytes[i + 1] = 0;
    }
    assert_int_equal(
        unpack(&laminar__v1__chat__descriptor, bytes, n_bytes, &chat, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "fields"));
    assert_int_equal(arena.used_bytes, 0);
    lam_free(bytes);
}

/* A type that contains itself, which none of ours does: the walk still ends. */
static void nesting_is_bounded(void **state)
{
    static ProtobufCMessageDescriptor type;
    static ProtobufCFieldDescriptor field;
    static const ProtobufCIntRange ranges[] = {{1, 0}, {0, 1}};
    static const unsigned indices[] = {0};
    unsigned char bytes[256];
    size_t n_bytes = 0;
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};

    (void)state;
    type = laminar__v1__chat__descriptor;
    field = laminar__v1__chat__descriptor.fields[0];
    field.descriptor = &type;
    type.fields = &field;
    type.field_ranges = ranges;
    type.fields_sorted_by_name = indices;
    while (n_bytes + 2 <= 2 * 60) { /* from the outside in: each level holds the rest */
        bytes[n_bytes] = 0x0a;
        bytes[n_bytes + 1] = (unsigned char)(2 * 60 - n_bytes - 2);
        n_bytes += 2;
    }
    assert_int_equal(unpack(&type, bytes, n_bytes, &message, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "nested deeper"));
}

static void every_prefix_of_a_message_is_handled(void **state)
{
    Laminar__V1__StepResult result = LAMINAR__V1__STEP_RESULT__INIT;
    Laminar__V1__WorkerMessage whole = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__SampledToken token = LAMINAR__V1__SAMPLED_TOKEN__INIT;
    Laminar__V1__SampledToken *tokens[] = {&token, &token, &token};
    Laminar__V1__Profile profile = LAMINAR__V1__PROFILE__INIT;
    struct lam_buf packed = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    size_t n_accepted = 0;

    (void)state;
    token.seq = 7;
    token.epoch = 900;
    token.token = -5;
    result.id = UINT64_MAX;
    result.n_tokens = 3;
    result.tokens = tokens;
    profile.compute_seconds = 1.5;
    result.profile = &profile;
    whole.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT;
    whole.step_result = &result;
    assert_true(lam_message_pack(&whole.base, &packed));
    for (size_t n = 0; n <= packed.size; n++) {
        Laminar__V1__WorkerMessage *back = NULL;
        if (unpack(&laminar__v1__worker_message__descriptor, packed.data, n, &back, &err) == LAM_OK)
            n_accepted++;
    }
    /* All is inside one field: only nothing and everything are whole. */
    assert_int_equal(n_accepted, 2);
    lam_buf_done(&packed);
}

static void a_full_buffer_fails_the_pack(void **state)
{
    Laminar__V1__TokenizeRequest request = LAMINAR__V1__TOKENIZE_REQUEST__INIT;
    struct lam_buf packed = LAM_BUF(8);

    (void)state;
    request.prompt_case = LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
    request.text = (char *)"longer than eight bytes";
    assert_false(lam_message_pack(&request.base, &packed));
    request.text = (char *)"short";
    assert_true(lam_message_pack(&request.base, &packed));
    assert_int_equal(packed.size, 7);
    lam_buf_done(&packed);
}

static void every_failed_allocation_is_a_status(void **state)
{
    static const char bytes[] = "\x12\x0e\x0a\x0c\x0a\x04user\x12\x04text\x32\x03"
                                "end";
    Laminar__V1__GenerateRequest *request = NULL;
    struct lam_err err = {0};
    uint64_t n = 0;

    (void)state;
    do {
        enum lam_status status;
        lam_fault_arm("alloc", ++n);
        status = unpack_generate(bytes, sizeof bytes - 1, &request, &err);
        assert_int_equal(status, lam_fault_fired() ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
    } while (lam_fault_fired());
    lam_fault_arm("alloc", 0);
    assert_true(n > 5);
    assert_string_equal(request->chat->messages[0]->role, "user");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_survives_the_round_trip),
        cmocka_unit_test(the_empty_message_is_valid),
        cmocka_unit_test(malformed_bytes_are_refused),
        cmocka_unit_test(text_is_utf8_without_nul),
        cmocka_unit_test(unknown_fields_pass),
        cmocka_unit_test(repeated_scalars_may_be_packed_or_not),
        cmocka_unit_test(a_flood_of_empty_messages_hits_the_arena),
        cmocka_unit_test(too_many_fields_are_refused_before_unpacking),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(every_prefix_of_a_message_is_handled),
        cmocka_unit_test(a_full_buffer_fails_the_pack),
        cmocka_unit_test(every_failed_allocation_is_a_status),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
