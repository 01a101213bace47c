/* gguf: good files of every value type, short reads, prefixes, failing memory. Bad files:
 * hostile_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "model/gguf.h"
#include "tests/unit/model/gguf_builder.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

struct fixture {
    struct gguf_builder builder;
    struct lam_buf header;
    struct lam_gguf *gguf;
    struct lam_err err;
};

/* One key of every type and a few tensors. */
static void add_everything(struct gguf_builder *b)
{
    static const char *const words[] = {"one", "", "three"};
    static const int32_t ints[] = {-1, 2, INT32_MAX};
    static const uint32_t large[] = {1, 0x80000000u};
    static const float reals[] = {0.5f, -2};

    gguf_builder_raw(b, "t.u8", U8, &(uint8_t){200}, 1);
    gguf_builder_raw(b, "t.i8", I8, &(int8_t){-100}, 1);
    gguf_builder_raw(b, "t.u16", U16, &(uint16_t){60000}, 2);
    gguf_builder_raw(b, "t.i16", I16, &(int16_t){-30000}, 2);
    gguf_builder_u32(b, "t.u32", 4000000000u);
    gguf_builder_raw(b, "t.i32", I32, &(int32_t){77}, 4);
    gguf_builder_f32(b, "t.f32", 0.25f);
    gguf_builder_bool(b, "t.yes", true);
    gguf_builder_bool(b, "t.no", false);
    gguf_builder_str(b, "t.str", "caf\xc3\xa9\n\x1b[2J");
    gguf_builder_str(b, "t.bytes", "\xff\xfe");
    gguf_builder_raw(b, "t.u64", U64, &(uint64_t){UINT64_MAX}, 8);
    gguf_builder_raw(b, "t.i64", I64, &(int64_t){INT64_MIN}, 8);
    gguf_builder_raw(b, "t.f64", F64, &(double){1e300}, 8);
    gguf_builder_strings(b, "t.words", words, 3);
    gguf_builder_array(b, "t.ints", I32, 3, ints, sizeof ints);
    gguf_builder_array(b, "t.large", U32, 2, large, sizeof large);
    gguf_builder_array(b, "t.reals", F32, 2, reals, sizeof reals);
    gguf_builder_array(b, "t.u8s", U8, 3, "abc", 3);
    gguf_builder_array(b, "t.none", STRING, 0, NULL, 0);
    gguf_builder_tensor(b, "a.weight", LAM_Q4_K, 512, 3);
    gguf_builder_tensor(b, "b", LAM_F32, 5, 0);
    gguf_builder_tensor(b, "c.weight", LAM_Q8_0, 32, 7);
}

static int make(void **state)
{
    struct fixture *f = lam_calloc(1, sizeof *f);

    assert_non_null(f);
    gguf_builder_init(&f->builder);
    add_everything(&f->builder);
    gguf_builder_header(&f->builder, &f->header);
    *state = f;
    return 0;
}

static int make_parsed(void **state)
{
    struct fixture *f;

    make(state);
    f = *state;
    assert_int_equal(
        lam_gguf_parse(f->header.data, f->header.size, f->builder.file_bytes, &f->gguf, &f->err),
        LAM_OK);
    return 0;
}

static int unmake(void **state)
{
    struct fixture *f = *state;

    lam_gguf_destroy(f->gguf);
    lam_buf_done(&f->header);
    gguf_builder_done(&f->builder);
    lam_free(f);
    return 0;
}

static void test_integers(void **state)
{
    static const struct {
        const char *key;
        uint64_t value;
    } cases[] = {{"t.u8", 200}, {"t.u16", 60000}, {"t.u32", 4000000000u}, {"t.i32", 77},
        {"t.u64", UINT64_MAX}};
    static const char *const negative[] = {"t.i8", "t.i16", "t.i64"};
    struct fixture *f = *state;
    uint64_t value = 5;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(lam_gguf_u64(f->gguf, cases[i].key, &value, &f->err), LAM_OK);
        assert_int_equal(value, cases[i].value);
    }
    value = 5;
    for (size_t i = 0; i < sizeof negative / sizeof negative[0]; i++) {
        assert_int_equal(lam_gguf_u64(f->gguf, negative[i], &value, &f->err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(f->err.text, negative[i]));
    }
    assert_int_equal(lam_gguf_u64(f->gguf, "t.f32", &value, &f->err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(f->err.text, "f32"));
    assert_int_equal(lam_gguf_u64(f->gguf, "t.ints", &value, &f->err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(f->err.text, "array of i32"));
    assert_int_equal(lam_gguf_u64(f->gguf, "t.u", &value, &f->err), LAM_NOT_FOUND);
    assert_non_null(strstr(f->err.text, "'t.u'"));
    assert_int_equal(value, 5);
}

static void test_reals_bools_strings(void **state)
{
    struct fixture *f = *state;
    struct lam_str text = {0};
    double real = 0;
    bool flag = false;

    assert_int_equal(lam_gguf_f64(f->gguf, "t.f32", &real, &f->err), LAM_OK);
    assert_true(real == 0.25);
    assert_int_equal(lam_gguf_f64(f->gguf, "t.f64", &real, &f->err), LAM_OK);
    assert_true(real == 1e300);
    assert_int_equal(lam_gguf_f64(f->gguf, "t.u32", &real, &f->err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_gguf_bool(f->gguf, "t.yes", &flag, &f->err), LAM_OK);
    assert_true(flag);
    assert_int_equal(lam_gguf_bool(f->gguf, "t.no", &flag, &f->err), LAM_OK);
    assert_false(flag);
    assert_int_equal(lam_gguf_bool(f->gguf, "t.u8", &flag, &f->err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_gguf_str(f->gguf, "t.str", &text, &f->err), LAM_OK);
    assert_int_equal(text.size, 10);
    assert_memory_equal(text.data, "caf\xc3\xa9\n\x1b[2J", 10);
    assert_int_equal(lam_gguf_str(f->gguf, "t.words", &text, &f->err), LAM_INVALID_ARGUMENT);
}

static void test_arrays(void **state)
{
    struct fixture *f = *state;
    struct lam_gguf_strings words = {0};
    struct lam_gguf_i32s ints = {0};
    struct lam_gguf_f32s reals = {0};

    assert_int_equal(lam_gguf_strings(f->gguf, "t.words", &words, &f->err), LAM_OK);
    assert_int_equal(words.n, 3);
    assert_int_equal(words.items[0].size, 3);
    assert_memory_equal(words.items[0].data, "one", 3);
    assert_int_equal(words.items[1].size, 0);
    assert_memory_equal(words.items[2].data, "three", 5);
    assert_int_equal(lam_gguf_strings(f->gguf, "t.none", &words, &f->err), LAM_OK);
    assert_int_equal(words.n, 0);
    assert_int_equal(lam_gguf_strings(f->gguf, "t.ints", &words, &f->err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_gguf_i32s(f->gguf, "t.ints", &ints, &f->err), LAM_OK);
    assert_int_equal(ints.n, 3);
    assert_int_equal(ints.items[0], -1);
    assert_int_equal(ints.items[2], INT32_MAX);
    assert_int_equal(lam_gguf_i32s(f->gguf, "t.reals", &ints, &f->err), LAM_INVALID_ARGUMENT);
    /* 2^31 as a u32 must not come out as a negative id. */
    assert_int_equal(lam_gguf_i32s(f->gguf, "t.large", &ints, &f->err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(f->err.text, "2147483648"));
    assert_int_equal(lam_gguf_f32s(f->gguf, "t.reals", &reals, &f->err), LAM_OK);
    assert_int_equal(reals.n, 2);
    assert_true(reals.items[0] == 0.5f && reals.items[1] == -2);
    assert_int_equal(lam_gguf_f32s(f->gguf, "t.u8s", &reals, &f->err), LAM_INVALID_ARGUMENT);
}

static void test_tensors(void **state)
{
    struct fixture *f = *state;
    const struct lam_gguf_tensor *tensor;
    uint64_t data_begin = (f->header.size + 31) / 32 * 32;

    assert_int_equal(lam_gguf_header_bytes(f->gguf), f->header.size);
    assert_int_equal(lam_gguf_n_tensors(f->gguf), 3);
    assert_int_equal(lam_gguf_find_tensor(f->gguf, "a"), -1);
    assert_int_equal(lam_gguf_find_tensor(f->gguf, "a.weight.x"), -1);
    assert_int_equal(lam_gguf_find_tensor(f->gguf, ""), -1);
    assert_int_equal(lam_gguf_find_tensor(f->gguf, "c.weight"), 2);
    assert_int_equal(lam_gguf_find_tensor(f->gguf, "a.weight"), 0);
    tensor = lam_gguf_tensor(f->gguf, 0);
    assert_int_equal(tensor->dtype, LAM_Q4_K);
    assert_int_equal(tensor->n_dims, 2);
    assert_int_equal(tensor->dims[0], 512);
    assert_int_equal(tensor->dims[1], 3);
    assert_int_equal(tensor->dims[3], 1);
    assert_int_equal(tensor->offset, data_begin);
    assert_int_equal(tensor->bytes, 2 * 144 * 3);
    tensor = lam_gguf_tensor(f->gguf, 2);
    assert_int_equal(tensor->offset, data_begin + f->builder.tensors[2].offset);
    assert_int_equal(tensor->offset + tensor->bytes, f->builder.file_bytes);
}

static void test_describe(void **state)
{
    static const struct {
        const char *key;
        const char *text;
    } cases[] = {{"t.u64", "18446744073709551615"}, {"t.i64", "-9223372036854775808"},
        {"t.i8", "-100"}, {"t.f32", "0.25"}, {"t.yes", "true"}, {"t.no", "false"},
        {"t.str", "\"caf\xc3\xa9  [2J\""}, /* a terminal sees no control character */
        {"t.bytes", "2 bytes that are no UTF-8"}, {"t.words", "3 x string"}, {"t.u8s", "3 x u8"}};
    struct fixture *f = *state;
    size_t n_found = 0;

    assert_int_equal(lam_gguf_n_keys(f->gguf), f->builder.n_keys);
    for (uint64_t i = 0; i < lam_gguf_n_keys(f->gguf); i++) {
        struct lam_str key = lam_gguf_key(f->gguf, i);
        char text[200];
        lam_gguf_describe(f->gguf, i, text, sizeof text);
        for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
            if (key.size != strlen(cases[c].key) || memcmp(key.data, cases[c].key, key.size) != 0)
                continue;
            assert_string_equal(text, cases[c].text);
            n_found++;
        }
        lam_gguf_describe(f->gguf, i, text, 3);
        assert_true(strlen(text) <= 2);
    }
    assert_int_equal(n_found, sizeof cases / sizeof cases[0]);
}

/* A long string is cut between characters: 119 bytes of 'x', then e-acute at bytes 119 and 120. */
static void test_describe_long(void **state)
{
    struct fixture *f = *state;
    char long_text[302];
    char text[200];

    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    memcpy(long_text + 119, "\xc3\xa9", 2);
    lam_buf_done(&f->header);
    gguf_builder_str(&f->builder, "t.long", long_text);
    gguf_builder_header(&f->builder, &f->header);
    assert_int_equal(
        lam_gguf_parse(f->header.data, f->header.size, f->builder.file_bytes, &f->gguf, &f->err),
        LAM_OK);
    lam_gguf_describe(f->gguf, f->builder.n_keys - 1, text, sizeof text);
    assert_non_null(strstr(text, "xxx\"... (301 bytes)"));
    assert_null(strchr(text, '\xc3'));
}

/* With the header cut at n bytes of a longer file: read more. With the file cut there: refused. */
static void test_prefixes(void **state)
{
    struct fixture *f = *state;

    for (size_t n = 0; n < f->header.size; n++) {
        struct lam_gguf *gguf = (struct lam_gguf *)f;
        char *copy = lam_calloc(n, 1); /* its own block, so that a sanitizer sees a read too far */
        enum lam_status partial;
        enum lam_status whole;

        assert_non_null(copy);
        memcpy(copy, f->header.data, n);
        partial = lam_gguf_parse(copy, n, f->builder.file_bytes, &gguf, &f->err);
        whole = lam_gguf_parse(copy, n, n, &gguf, &f->err);
        lam_free(copy);
        if (partial != LAM_OUT_OF_RANGE || whole != LAM_INVALID_ARGUMENT)
            fail_msg("prefix %zu: %s, %s", n, lam_status_name(partial), lam_status_name(whole));
        assert_ptr_equal(gguf, f);
    }
    /* The header is whole, the data is not there. */
    assert_int_equal(
        lam_gguf_parse(f->header.data, f->header.size, f->header.size, &f->gguf, &f->err),
        LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(f->err.text, "a.weight"));
}

/* Every allocation fails once. */
static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    uint64_t n = 0;

    for (;;) {
        enum lam_status status;
        lam_fault_arm("alloc", ++n);
        status = lam_gguf_parse(
            f->header.data, f->header.size, f->builder.file_bytes, &f->gguf, &f->err);
        if (!lam_fault_fired()) {
            lam_fault_arm("alloc", 0);
            assert_int_equal(status, LAM_OK);
            break;
        }
        assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
        assert_null(f->gguf);
    }
    assert_true(n > 8);
}

/* Version 2 has the same layout; other alignments move the data section. */
static void test_version_and_alignment(void **state)
{
    static const uint64_t alignments[] = {8, 64, 65536};

    (void)state;
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        struct gguf_builder b;
        struct lam_buf header;
        struct lam_gguf *gguf = NULL;
        struct lam_err err = {0};

        gguf_builder_init(&b);
        b.version = 2;
        b.alignment = alignments[i];
        gguf_builder_u32(&b, "general.alignment", (uint32_t)alignments[i]);
        gguf_builder_tensor(&b, "a", LAM_F32, 3, 3);
        gguf_builder_tensor(&b, "b", LAM_F32, 3, 3);
        gguf_builder_header(&b, &header);
        assert_int_equal(
            lam_gguf_parse(header.data, header.size, b.file_bytes, &gguf, &err), LAM_OK);
        assert_int_equal(lam_gguf_tensor(gguf, 1)->offset % alignments[i], 0);
        assert_int_equal(lam_gguf_tensor(gguf, 1)->offset + 36, b.file_bytes);
        lam_gguf_destroy(gguf);
        lam_buf_done(&header);
        gguf_builder_done(&b);
    }
}

/* Strings of 16 MiB: the fourth one ends behind the header limit. Most pages stay untouched. */
static void test_header_limit(void **state)
{
    const uint64_t string_bytes = 16 << 20;
    const uint64_t record_bytes = 8 + 1 + 4 + 8 + string_bytes;
    const uint64_t n_keys = 4;
    const uint64_t total = 24 + n_keys * record_bytes;
    char *header = lam_calloc(total, 1);
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_non_null(header);
    memcpy(header, "GGUF\3", 5);
    memcpy(header + 16, &n_keys, sizeof n_keys);
    for (uint64_t i = 0; i < n_keys; i++) {
        char *record = header + 24 + i * record_bytes;
        record[0] = 1;
        record[8] = (char)('a' + i);
        record[9] = STRING;
        memcpy(record + 13, &string_bytes, sizeof string_bytes);
    }
    assert_int_equal(lam_gguf_parse(header, 100, total, &gguf, &err), LAM_OUT_OF_RANGE);
    assert_int_equal(lam_gguf_parse(header, total, total, &gguf, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "limit of 64 MiB"));
    /* Not "read more": that would never end. */
    assert_int_equal(lam_gguf_parse(header, total - 1, total, &gguf, &err), LAM_INVALID_ARGUMENT);
    header[16] = 3;
    assert_int_equal(lam_gguf_parse(header, total, total, &gguf, &err), LAM_OK);
    lam_gguf_destroy(gguf);
    lam_free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_integers, make_parsed, unmake),
        cmocka_unit_test_setup_teardown(test_reals_bools_strings, make_parsed, unmake),
        cmocka_unit_test_setup_teardown(test_arrays, make_parsed, unmake),
        cmocka_unit_test_setup_teardown(test_tensors, make_parsed, unmake),
        cmocka_unit_test_setup_teardown(test_describe, make_parsed, unmake),
        cmocka_unit_test_setup_teardown(test_describe_long, make, unmake),
        cmocka_unit_test_setup_teardown(test_prefixes, make, unmake),
        cmocka_unit_test_setup_teardown(test_no_memory, make, unmake),
        cmocka_unit_test(test_version_and_alignment),
        cmocka_unit_test(test_header_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
