/* held: a device that comes to hold more than anybody planned is found out, at the start and after
 * a pass. Once the check after the start compared the facts of create with themselves. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "common/size.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/common/capture.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/held.h"

#define CAP "96MiB"
#define CAP_BYTES (96 * LAM_MIB)

struct fixture {
    struct tiny_model tiny;
    struct lam_units *units;
    struct lam_engine *engine;
};

static enum lam_status make(
    struct fixture *f, uint64_t grow_bytes, uint64_t grow_op, struct lam_err *err)
{
    const struct emulated_options device = {
        .seed = 1, .grow_bytes = grow_bytes, .grow_op = grow_op};
    const struct lam_engine_config config = {.ops = emulated_backend()->ops,
        .device = emulated_backend()->device,
        .vram = CAP,
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 1,
        .max_rows = 16,
        .page_tokens = 8,
        .pin_bytes = 64 * LAM_KIB};

    emulated_set(&device);
    return lam_engine_create(&config, f->units, &f->engine, err);
}

static int setup(void **state)
{
    static struct fixture f;

    f = (struct fixture){0};
    tiny_model_make(&f.tiny, false);
    f.units = fake_units_create(&f.tiny);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lam_engine_destroy(f->engine);
    lam_units_destroy(f->units);
    tiny_model_done(&f->tiny);
    return 0;
}

static void step(struct fixture *f)
{
    static const int32_t tokens[] = {7, 1, 299, 42};
    struct lam_engine_rows rows = {.tokens = tokens, .n_tokens = 4, .sample = true};
    struct lam_engine_result result;

    rows.params.repetition_penalty = 1;
    rows.params.top_p = 1;
    assert_int_equal(lam_engine_step(f->engine, &rows, 1, &result, NULL), LAM_OK);
}

/* What the log has of a look behind a pass. */
static const char *look(struct fixture *f, struct lam_held *held)
{
    capture_begin(STDERR_FILENO);
    lam_held_look(held, f->engine);
    return capture_end();
}

static void test_a_process_that_is_over_its_cap_does_not_start(void **state)
{
    struct fixture *f = *state;
    struct lam_err err = {0};

    assert_int_equal(make(f, CAP_BYTES, 0, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "on cuda:0, more than its cap of 96.0 MiB"));
    assert_non_null(strstr(err.text, "raise --vram"));
}

static void test_what_grows_with_the_first_pass_is_told_once(void **state)
{
    struct fixture *f = *state;
    struct lam_held held;
    uint64_t before;

    assert_int_equal(make(f, CAP_BYTES, 1, NULL), LAM_OK);
    lam_held_init(&held, f->engine);
    before = held.bytes;
    assert_true(before > 0 && before <= CAP_BYTES && !held.over);
    step(f);
    assert_non_null(strstr(look(f, &held), "on cuda:0, more than its cap of 96.0 MiB"));
    assert_true(held.over);
    assert_int_equal(held.bytes, before + CAP_BYTES);
    held.read_ns = 0; /* as if a second had gone by */
    step(f);
    assert_string_equal(look(f, &held), "");
    assert_true(held.over);
}

static void test_a_process_that_keeps_to_its_cap_is_asked_once_a_second(void **state)
{
    struct fixture *f = *state;
    struct lam_held held;
    uint64_t read_ns;

    assert_int_equal(make(f, 0, 0, NULL), LAM_OK);
    lam_held_init(&held, f->engine);
    read_ns = held.read_ns;
    step(f);
    assert_string_equal(look(f, &held), "");
    assert_true(held.read_ns > read_ns && !held.over);
    read_ns = held.read_ns;
    assert_string_equal(look(f, &held), "");
    assert_true(held.read_ns == read_ns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_a_process_that_is_over_its_cap_does_not_start, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_what_grows_with_the_first_pass_is_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_process_that_keeps_to_its_cap_is_asked_once_a_second, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
