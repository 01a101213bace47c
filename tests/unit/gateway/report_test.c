/* What a worker says about itself: nonsense is refused whole, sums are sums. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/report.h"

static char kv_type[] = "f16";

static Laminar__V1__Memory good_memory(void)
{
    Laminar__V1__Memory memory = LAMINAR__V1__MEMORY__INIT;

    memory.cap_bytes = 3000;
    memory.planned_bytes = 2900;
    memory.kv_type = kv_type;
    memory.layers = 32;
    memory.planned_pass_seconds = 0.3;
    return memory;
}

static Laminar__V1__Profile good_profile(void)
{
    Laminar__V1__Profile profile = LAMINAR__V1__PROFILE__INIT;

    profile.wall_seconds = 0.5;
    profile.disk_wait_seconds = 0.125;
    profile.link_bytes = 1000;
    return profile;
}

static void silence_is_allowed(void **state)
{
    struct lam_report report = {0};
    Laminar__V1__WorkerInfo info = LAMINAR__V1__WORKER_INFO__INIT;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_report_take_memory(&report, NULL, &err), LAM_OK);
    assert_int_equal(lam_report_take_profile(&report, NULL, &err), LAM_OK);
    lam_report_describe(&report, &info);
    assert_null(info.memory);
    assert_null(info.profile);
    assert_null(info.last_pass);
}

static void passes_add_up(void **state)
{
    struct lam_report report = {0};
    Laminar__V1__WorkerInfo info = LAMINAR__V1__WORKER_INFO__INIT;
    Laminar__V1__Memory memory = good_memory();
    Laminar__V1__Profile profile = good_profile();
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_report_take_memory(&report, &memory, &err), LAM_OK);
    assert_int_equal(lam_report_take_profile(&report, &profile, &err), LAM_OK);
    profile.wall_seconds = 0.25;
    assert_int_equal(lam_report_take_profile(&report, &profile, &err), LAM_OK);
    lam_report_describe(&report, &info);
    assert_true(info.profile->wall_seconds == 0.75);
    assert_true(info.profile->disk_wait_seconds == 0.25);
    assert_true(info.last_pass->wall_seconds == 0.25);
    assert_int_equal(info.profile->link_bytes, 2000);
    assert_int_equal(info.memory->planned_bytes, 2900);
    assert_string_equal(info.memory->kv_type, "f16");
    assert_ptr_not_equal(info.memory->kv_type, kv_type); /* the message it came in is gone by now */
}

/* 2^14 passes of 2^50 bytes come to more than 64 bits hold. */
static void bytes_stop_at_the_largest_number(void **state)
{
    struct lam_report report = {0};
    Laminar__V1__Profile profile = good_profile();
    struct lam_err err = {0};

    (void)state;
    profile.link_bytes = (uint64_t)1 << 50;
    for (int i = 0; i < 1 << 14; i++)
        assert_int_equal(lam_report_take_profile(&report, &profile, &err), LAM_OK);
    assert_int_equal(report.total.link_bytes, UINT64_MAX);
}

static void expect_bad_profile(Laminar__V1__Profile profile, const char *field)
{
    struct lam_report report = {0};
    struct lam_err err = {0};

    assert_int_equal(lam_report_take_profile(&report, &profile, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, field));
    assert_false(report.has_profile);
}

static void nonsense_in_a_profile_is_refused(void **state)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1e-9, 1.1e9};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Laminar__V1__Profile profile = good_profile();
        profile.wall_seconds = bad[i];
        expect_bad_profile(profile, "wall_seconds");
        profile = good_profile();
        profile.floor_seconds = bad[i];
        expect_bad_profile(profile, "floor_seconds");
    }
    for (int i = 0; i < 2; i++) {
        Laminar__V1__Profile profile = good_profile();
        if (i == 0)
            profile.link_bytes = UINT64_MAX;
        else
            profile.resident_bytes = ((uint64_t)1 << 50) + 1;
        expect_bad_profile(profile, i == 0 ? "link_bytes" : "resident_bytes");
    }
}

static void nonsense_about_memory_is_refused(void **state)
{
    static char long_type[] = "123456789";

    (void)state;
    for (int i = 0; i < 4; i++) {
        static const char *const fields[] = {
            "planned_pass_seconds", "measured_bytes", "resident_layers", "kv_type"};
        Laminar__V1__Memory memory = good_memory();
        struct lam_report report = {0};
        struct lam_err err = {0};
        if (i == 0)
            memory.planned_pass_seconds = NAN;
        else if (i == 1)
            memory.measured_bytes = UINT64_MAX;
        else if (i == 2)
            memory.resident_layers = -1;
        else
            memory.kv_type = long_type;
        assert_int_equal(lam_report_take_memory(&report, &memory, &err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, fields[i]));
        assert_false(report.has_memory);
    }
}

static void what_changes_is_taken_again(void **state)
{
    const struct lam_report_now held = {.measured_bytes = 12345};
    const struct lam_report_now pool = {.pool_ready_bytes = 77, .pool_ready_seconds = 0.5};
    const struct lam_report_now bad[] = {{.measured_bytes = ((uint64_t)1 << 50) + 1},
        {.pool_ready_bytes = UINT64_MAX}, {.pool_ready_bytes = 78, .pool_ready_seconds = NAN}};
    static const char *const fields[] = {
        "measured_bytes", "pool_ready_bytes", "pool_ready_seconds"};
    Laminar__V1__Memory memory = good_memory();
    struct lam_report report = {0};

    (void)state;
    assert_int_equal(lam_report_take_now(&report, &held, NULL), LAM_OK);
    assert_false(report.has_memory); /* that alone is no report */
    assert_int_equal(lam_report_take_memory(&report, &memory, NULL), LAM_OK);
    assert_int_equal(lam_report_take_now(&report, &held, NULL), LAM_OK);
    assert_int_equal(lam_report_take_now(&report, &pool, NULL), LAM_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lam_err err = {0};

        assert_int_equal(lam_report_take_now(&report, &bad[i], &err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, fields[i]));
    }
    assert_int_equal(report.memory.planned_bytes, memory.planned_bytes);
    assert_int_equal(report.memory.measured_bytes, 12345);
    assert_int_equal(report.memory.pool_ready_bytes, 77);
    assert_true(report.memory.pool_ready_seconds == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_is_allowed),
        cmocka_unit_test(passes_add_up),
        cmocka_unit_test(bytes_stop_at_the_largest_number),
        cmocka_unit_test(nonsense_in_a_profile_is_refused),
        cmocka_unit_test(nonsense_about_memory_is_refused),
        cmocka_unit_test(what_changes_is_taken_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
