/*
 * Whose column the time of a pass is in when the disk is slow. Once it was the arithmetic's: the
 * device's mark of a wait was queued behind the host's own wait for the loader, so that the device
 * seemed to compute until the unit was there.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "common/log.h"
#include "common/size.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/engine.h"

#define UNIT_NS ((uint64_t)10000000) /* what the disk takes for one, in virtual time */

/* The smallest cap that will do, so that as much as possible is streamed. */
static struct lam_engine *create(struct lam_units *units)
{
    const struct emulated_options options = {.copy_rate = 100 * LAM_GIB, .op_ns = 1000};
    struct lam_engine_config config = {.ops = emulated_backend()->ops,
        .device = emulated_backend()->device,
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 1,
        .max_rows = 16,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
        .pin_bytes = 64 * LAM_KIB};
    struct lam_engine *engine = NULL;
    char vram[24];

    emulated_set(&options);
    fake_units_set(units, 3, 0);
    for (uint32_t mib = 16; !engine && mib < 256; mib++) {
        snprintf(vram, sizeof vram, "%uMiB", mib);
        config.vram = vram;
        if (lam_engine_create(&config, units, &engine, NULL) != LAM_OK)
            engine = NULL;
    }
    assert_non_null(engine);
    return engine;
}

static void test_a_slow_disk_is_not_computing(void **state)
{
    const int32_t token = 7;
    struct lam_engine_rows rows = {
        .tokens = &token, .n_tokens = 1, .sample = true, .params = lam_sample_defaults()};
    struct lam_spec spec = tiny_model_shape(8, 300, false);
    struct tiny_model tiny;
    struct lam_units *units;
    struct lam_engine *engine;
    struct lam_engine_result result;
    uint64_t n_before;

    (void)state;
    tiny_model_make_of(&tiny, &spec, false);
    units = fake_units_create(&tiny);
    engine = create(units);
    assert_true(lam_engine_plan(engine)->arenas[0].streamed_bytes > 0);
    fake_units_slow(units, UNIT_NS, emulated_host_waits);
    for (int pass = 0; pass < 4; pass++) {
        const struct lam_pass_profile *profile = lam_engine_profile(engine);
        uint64_t disk_ns;

        n_before = fake_units_acquired(units);
        assert_int_equal(lam_engine_step(engine, &rows, 1, &result, NULL), LAM_OK);
        disk_ns = (fake_units_acquired(units) - n_before) * UNIT_NS;
        assert_true(disk_ns > 0);
        assert_in_range(profile->disk_wait_ns, disk_ns / 100 * 95, disk_ns);
        assert_true(profile->compute_ns < disk_ns / 20);
        assert_true(profile->link_wait_ns < disk_ns / 20);
    }
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    tiny_model_done(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slow_disk_is_not_computing),
    };

    lam_log_init("profile_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
