/* gguf_write: what is written is what the parser reads, and failing memory is told at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/fault.h"
#include "model/gguf.h"
#include "model/gguf_write.h"

struct written {
    struct lam_buf header;
    uint64_t file_bytes;
    uint64_t offsets[3]; /* of the tensors, from the data section */
};

static enum lam_status write_everything(struct written *written, struct lam_err *err)
{
    struct lam_gguf_writer writer;
    enum lam_status status;

    written->header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    lam_gguf_writer_init(&writer);
    lam_gguf_put_u32(&writer, "t.u32", 4000000000u);
    lam_gguf_put_f32(&writer, "t.f32", 0.25F);
    lam_gguf_put_bool(&writer, "t.yes", true);
    lam_gguf_put_bool(&writer, "t.no", false);
    lam_gguf_put_str(&writer, "t.str", "caf\xc3\xa9");
    lam_gguf_begin_strings(&writer, "t.words", 2);
    lam_gguf_item_str(&writer, "one", 3);
    lam_gguf_item_str(&writer, "", 0);
    lam_gguf_begin_i32s(&writer, "t.ints", 2);
    lam_gguf_item_i32(&writer, -7);
    lam_gguf_item_i32(&writer, INT32_MAX);
    written->offsets[0] = lam_gguf_put_tensor(&writer, "a.weight", LAM_Q4_K, 512, 3);
    written->offsets[1] = lam_gguf_put_tensor(&writer, "b", LAM_F32, 5, 0);
    written->offsets[2] = lam_gguf_put_tensor(&writer, "c.weight", LAM_Q8_0, 32, 7);
    status = lam_gguf_writer_finish(&writer, &written->header, &written->file_bytes, err);
    lam_gguf_writer_done(&writer);
    return status;
}

static void expect_keys(const struct lam_gguf *gguf)
{
    struct lam_err err = {0};
    struct lam_gguf_strings words;
    struct lam_gguf_i32s ints;
    struct lam_str text;
    uint64_t number;
    double real;
    bool flag;

    assert_int_equal(lam_gguf_n_keys(gguf), 7);
    assert_int_equal(lam_gguf_u64(gguf, "t.u32", &number, &err), LAM_OK);
    assert_int_equal(number, 4000000000u);
    assert_int_equal(lam_gguf_f64(gguf, "t.f32", &real, &err), LAM_OK);
    assert_true(real == 0.25);
    assert_int_equal(lam_gguf_bool(gguf, "t.yes", &flag, &err), LAM_OK);
    assert_true(flag);
    assert_int_equal(lam_gguf_bool(gguf, "t.no", &flag, &err), LAM_OK);
    assert_false(flag);
    assert_int_equal(lam_gguf_str(gguf, "t.str", &text, &err), LAM_OK);
    assert_int_equal(text.size, 5);
    assert_memory_equal(text.data, "caf\xc3\xa9", 5);
    assert_int_equal(lam_gguf_strings(gguf, "t.words", &words, &err), LAM_OK);
    assert_int_equal(words.n, 2);
    assert_memory_equal(words.items[0].data, "one", 3);
    assert_int_equal(words.items[1].size, 0);
    assert_int_equal(lam_gguf_i32s(gguf, "t.ints", &ints, &err), LAM_OK);
    assert_int_equal(ints.n, 2);
    assert_int_equal(ints.items[0], -7);
    assert_int_equal(ints.items[1], INT32_MAX);
}

static void expect_tensor(const struct lam_gguf *gguf, const char *name, enum lam_dtype dtype,
    uint64_t cols, uint64_t rows, uint64_t offset)
{
    int64_t index = lam_gguf_find_tensor(gguf, name);
    const struct lam_gguf_tensor *tensor;

    assert_true(index >= 0);
    tensor = lam_gguf_tensor(gguf, (uint64_t)index);
    assert_int_equal(tensor->dtype, dtype);
    assert_int_equal(tensor->dims[0], cols);
    assert_int_equal(tensor->dims[1], rows > 0 ? rows : 1);
    assert_int_equal(tensor->n_dims, rows > 0 ? 2 : 1);
    assert_int_equal(tensor->offset, offset);
}

static void test_the_parser_reads_what_was_written(void **state)
{
    struct written written;
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};
    uint64_t data;

    (void)state;
    assert_int_equal(write_everything(&written, &err), LAM_OK);
    data = written.header.size;
    assert_int_equal(data % LAM_GGUF_WRITE_ALIGNMENT, 0);
    assert_int_equal(
        lam_gguf_parse(written.header.data, data, written.file_bytes, &gguf, &err), LAM_OK);
    assert_true(lam_gguf_header_bytes(gguf) > data - LAM_GGUF_WRITE_ALIGNMENT);
    expect_keys(gguf);
    assert_int_equal(lam_gguf_n_tensors(gguf), 3);
    expect_tensor(gguf, "a.weight", LAM_Q4_K, 512, 3, data + written.offsets[0]);
    expect_tensor(gguf, "b", LAM_F32, 5, 0, data + written.offsets[1]);
    expect_tensor(gguf, "c.weight", LAM_Q8_0, 32, 7, data + written.offsets[2]);
    lam_gguf_destroy(gguf);
    /* The file ends with its last tensor: one byte less is refused. 7 rows of 34, aligned: 256. */
    assert_int_equal(written.file_bytes, data + written.offsets[2] + 256);
    assert_int_equal(lam_gguf_parse(written.header.data, data,
                         data + written.offsets[2] + 7 * 34 - 1, &gguf, &err),
        LAM_INVALID_ARGUMENT);
    lam_buf_done(&written.header);
}

static void test_every_failing_allocation_is_told(void **state)
{
    bool failed = true;

    (void)state;
    for (uint64_t nth = 1; failed; nth++) {
        struct written written;
        struct lam_err err = {0};
        enum lam_status status;
        lam_fault_arm("alloc", nth);
        status = write_everything(&written, &err);
        failed = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        assert_int_equal(status, failed ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        lam_buf_done(&written.header);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_parser_reads_what_was_written),
        cmocka_unit_test(test_every_failing_allocation_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
