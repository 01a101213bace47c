/* synth_shards: shards of a generated model are those of one model, with its bytes, and as large as
 * was asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/synth_shards.h"
#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"
#include "model/gguf.h"
#include "model/shards.h"

#define SHARDS_MAX 64

static struct lam_synth_request request_of(void)
{
    return (struct lam_synth_request){.preset = lam_preset_find("tiny"), .type = "q4_k", .seed = 3};
}

static uint8_t *read_shard(const struct lam_synth_shards *shards, uint32_t index, uint64_t step)
{
    uint64_t bytes = shards->items[index].file_bytes;
    uint8_t *out = lam_calloc(bytes, 1);

    assert_non_null(out);
    for (uint64_t at = 0; at < bytes; at += step)
        lam_synth_shards_read(shards, index, at, out + at, step < bytes - at ? step : bytes - at);
    return out;
}

/* Merges what was read as the loader does, and compares each tensor with that of the whole. */
static void compare(const struct lam_synth_shards *shards, uint64_t bytes_max)
{
    struct lam_shard parsed[SHARDS_MAX];
    struct lam_gguf *ggufs[SHARDS_MAX];
    uint8_t *files[SHARDS_MAX];
    struct lam_span spans[SHARDS_MAX];
    struct lam_buf header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    uint64_t bytes, n_tensors = 0;

    assert_in_range(shards->n, 1, SHARDS_MAX);
    for (uint32_t i = 0; i < shards->n; i++) {
        uint64_t file_bytes = shards->items[i].file_bytes;

        files[i] = read_shard(shards, i, 10007 + i);
        assert_int_equal(lam_gguf_parse(files[i], file_bytes, file_bytes, &ggufs[i], NULL), LAM_OK);
        parsed[i] = (struct lam_shard){ggufs[i], files[i], file_bytes};
        if (lam_gguf_n_tensors(ggufs[i]) > 1)
            assert_true(file_bytes - lam_gguf_header_bytes(ggufs[i]) <= bytes_max + 32);
        for (uint64_t t = 0; t < lam_gguf_n_tensors(ggufs[i]); t++, n_tensors++) {
            const struct lam_gguf_tensor *tensor = lam_gguf_tensor(ggufs[i], t);
            uint8_t *whole = lam_calloc(tensor->bytes, 1);

            assert_non_null(whole);
            lam_synth_model_read(
                shards->model, shards->model->parts[n_tensors].offset, whole, tensor->bytes);
            assert_memory_equal(files[i] + tensor->offset, whole, tensor->bytes);
            lam_free(whole);
        }
    }
    assert_int_equal(n_tensors, shards->model->n_parts);
    assert_int_equal(lam_shards_merge(parsed, shards->n, &header, spans, &bytes, NULL), LAM_OK);
    assert_int_equal(header.size > 0, shards->n > 1);
    lam_buf_done(&header);
    for (uint32_t i = 0; i < shards->n; i++) {
        lam_gguf_destroy(ggufs[i]);
        lam_free(files[i]);
    }
}

static void shards_hold_the_model(void **state)
{
    static const uint64_t sizes[] = {0, 64 << 10, 100000, 1 << 20, (uint64_t)1 << 40};
    const struct lam_synth_request request = request_of();
    struct lam_synth_model model;

    (void)state;
    assert_int_equal(lam_synth_model_init(&model, &request, NULL), LAM_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct lam_synth_shards shards;

        assert_int_equal(lam_synth_shards_init(&shards, &model, sizes[i], NULL), LAM_OK);
        compare(&shards, sizes[i] > 0 ? sizes[i] : UINT64_MAX / 2);
        assert_int_equal(shards.n > 1, sizes[i] > 0 && sizes[i] <= 1 << 20);
        lam_synth_shards_done(&shards);
    }
    lam_synth_model_done(&model);
}

static void names_are_those_of_the_tools(void **state)
{
    const struct lam_synth_shards one = {.n = 1}, three = {.n = 3};
    char text[64];

    (void)state;
    assert_true(lam_synth_shards_path(&one, "d/a.gguf", 0, text, sizeof text));
    assert_string_equal(text, "d/a.gguf");
    assert_true(lam_synth_shards_path(&three, "d/a.gguf", 1, text, sizeof text));
    assert_string_equal(text, "d/a-00002-of-00003.gguf");
    assert_true(lam_synth_shards_path(&three, "d/a", 2, text, sizeof text));
    assert_string_equal(text, "d/a-00003-of-00003.gguf");
    assert_false(lam_synth_shards_path(&three, "d/a", 2, text, 20));
}

/* A byte for each file: one for each tensor, of which a hundred layers have some nine hundred. */
static void too_many_shards_are_refused(void **state)
{
    struct lam_synth_request request = request_of();
    struct lam_synth_model model;
    struct lam_synth_shards shards;
    struct lam_err err = {0};

    (void)state;
    request.n_layers = 100;
    assert_int_equal(lam_synth_model_init(&model, &request, NULL), LAM_OK);
    assert_int_equal(lam_synth_shards_init(&shards, &model, 1, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "larger size"));
    lam_synth_shards_done(&shards);
    lam_synth_model_done(&model);
}

static void no_memory_is_a_status(void **state)
{
    const struct lam_synth_request request = request_of();
    struct lam_synth_model model;
    uint64_t n = 0;
    bool fired;

    (void)state;
    assert_int_equal(lam_synth_model_init(&model, &request, NULL), LAM_OK);
    do {
        struct lam_synth_shards shards;
        enum lam_status status;

        lam_fault_arm("alloc", ++n);
        status = lam_synth_shards_init(&shards, &model, 1 << 20, NULL);
        fired = lam_fault_fired();
        assert_int_equal(status, fired ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        lam_synth_shards_done(&shards);
    } while (fired);
    lam_fault_arm("alloc", 0);
    assert_true(n > 5);
    lam_synth_model_done(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_hold_the_model),
        cmocka_unit_test(names_are_those_of_the_tools),
        cmocka_unit_test(too_many_shards_are_refused),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
