/* shards: names, numbers, and where the bytes of several files lie when they are one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"
#include "model/shards.h"
#include "tests/unit/model/gguf_builder.h"

#define N 3u

static void names_follow_the_first(void **state)
{
    char text[64];

    (void)state;
    assert_true(lam_shards_name("a-00001-of-00003.gguf", 2, 3, text, sizeof text));
    assert_string_equal(text, "a-00003-of-00003.gguf");
    assert_true(lam_shards_name("-00001-of-00512.gguf", 511, 512, text, sizeof text));
    assert_string_equal(text, "-00512-of-00512.gguf");
    assert_false(lam_shards_name("a-00001-of-00003.gguf", 1, 4, text, sizeof text));
    assert_false(lam_shards_name("a-00002-of-00003.gguf", 1, 3, text, sizeof text));
    assert_false(lam_shards_name("a.gguf", 1, 3, text, sizeof text));
    assert_false(lam_shards_name("", 1, 3, text, sizeof text));
    assert_false(lam_shards_name("a-00001-of-00003.gguf", 2, 3, text, 21)); /* no room for NUL */
    assert_true(lam_shards_name("a-00001-of-00003.gguf", 2, 3, text, 22));
}

/* A header of that shard: a tensor or two, and behind them file_bytes of data. */
static struct lam_gguf *make(uint32_t index, struct lam_buf *header, struct lam_shard *shard)
{
    static struct gguf_builder builder;
    struct lam_gguf *gguf = NULL;
    char name[32];

    gguf_builder_init(&builder);
    if (index == 0)
        gguf_builder_str(&builder, "general.architecture", "llama");
    gguf_builder_u32(&builder, "split.no", index);
    gguf_builder_u32(&builder, "split.count", N);
    gguf_builder_u32(&builder, "split.tensors.count", 4);
    snprintf(name, sizeof name, "tensor.%u", index);
    gguf_builder_tensor(&builder, name, LAM_F32, 1000 + 8 * index, 0);
    if (index == 1)
        gguf_builder_tensor(&builder, "another", LAM_Q8_0, 320, 77);
    gguf_builder_header(&builder, header);
    shard->file_bytes = builder.file_bytes;
    shard->header = header->data;
    assert_int_equal(
        lam_gguf_parse(header->data, header->size, shard->file_bytes, &gguf, NULL), LAM_OK);
    shard->gguf = gguf;
    gguf_builder_done(&builder);
    return gguf;
}

static void each_tensor_is_where_its_shard_has_it(void **state)
{
    struct lam_buf headers[N];
    struct lam_gguf *own_gguf[N];
    struct lam_shard shards[N];
    struct lam_span spans[N];
    struct lam_buf merged = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    struct lam_gguf *gguf = NULL;
    uint64_t bytes = 0, at = 0;

    (void)state;
    for (uint32_t i = 0; i < N; i++)
        own_gguf[i] = make(i, &headers[i], &shards[i]);
    assert_int_equal(lam_shards_merge(shards, N, &merged, spans, &bytes, NULL), LAM_OK);
    assert_int_equal(lam_gguf_parse(merged.data, merged.size, bytes, &gguf, NULL), LAM_OK);
    assert_int_equal(lam_gguf_n_tensors(gguf), 4);
    assert_int_equal(lam_gguf_n_keys(gguf), lam_gguf_n_keys(shards[0].gguf));
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(spans[i].begin % LAM_SHARDS_ALIGN, 0);
        assert_int_equal(spans[i].file_offset % LAM_SHARDS_ALIGN, 0);
        assert_int_equal(spans[i].file_offset + spans[i].bytes, shards[i].file_bytes);
        assert_true(spans[i].begin >= (i == 0 ? merged.size : at));
        at = spans[i].begin + spans[i].bytes;
        assert_int_equal(lam_shards_find(spans, N, spans[i].begin), i);
        assert_int_equal(lam_shards_find(spans, N, at - 1), i);
        for (uint64_t t = 0; t < lam_gguf_n_tensors(shards[i].gguf); t++) {
            const struct lam_gguf_tensor *own = lam_gguf_tensor(shards[i].gguf, t);
            char name[32];
            const struct lam_gguf_tensor *here;

            snprintf(name, sizeof name, "%.*s", (int)own->name.size, own->name.data);
            here = lam_gguf_tensor(gguf, (uint64_t)lam_gguf_find_tensor(gguf, name));
            assert_int_equal(here->bytes, own->bytes);
            assert_int_equal(here->offset - spans[i].begin, own->offset - spans[i].file_offset);
        }
    }
    assert_int_equal(at, bytes);
    lam_gguf_destroy(gguf);
    lam_buf_clear(&merged);
    /* In another order they are no model. */
    shards[1] = shards[2];
    assert_int_equal(
        lam_shards_merge(shards, N, &merged, spans, &bytes, NULL), LAM_INVALID_ARGUMENT);
    assert_int_equal(merged.size, 0);
    lam_buf_done(&merged);
    for (uint32_t i = 0; i < N; i++) {
        lam_gguf_destroy(own_gguf[i]);
        lam_buf_done(&headers[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_follow_the_first),
        cmocka_unit_test(each_tensor_is_where_its_shard_has_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
