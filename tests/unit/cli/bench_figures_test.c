/* bench_figures: the window, the passes in it, floors and averages, from times that are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "cli/bench_figures.h"
#include "common/clock.h"
#include "common/fault.h"

#define MS LAM_NS_PER_MS

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9;
}

/* Two texts: the window is from 1300 to 1750 ms, with passes of 100 ms and one of 150. */
static const uint64_t one_ns[] = {
    1100 * MS, 1200 * MS, 1300 * MS, 1400 * MS, 1550 * MS, 1650 * MS, 1750 * MS};
static const uint64_t two_ns[] = {
    1300 * MS, 1400 * MS, 1550 * MS, 1650 * MS, 1750 * MS, 1850 * MS, 1950 * MS};
static const struct lam_drive_times times[] = {{one_ns, 7}, {two_ns, 7}};

static struct lam_bench_observed observe(void)
{
    return (struct lam_bench_observed){.times = times,
        .n_texts = 2,
        .began_ns = 100 * MS,
        .asked_ns = 1000 * MS,
        .disk_bytes = 4000,
        .planned_disk_bytes = 500,
        .planned_memory_bytes = 900,
        .rates = {.disk = 1000, .link = 2000, .memory = 9000}};
}

static void test_only_the_window_counts(void **state)
{
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_true(near(f.first_token_s, 1.0));
    assert_true(near(f.prompt_s, 0.3));
    assert_true(near(f.window_s, 0.45));
    assert_int_equal(f.n_passes, 4);
    assert_true(near(f.pass_median_s, 0.1));
    assert_true(near(f.pass_p10_s, 0.1));
    assert_true(near(f.pass_p90_s, 0.15));
    assert_true(near(f.tokens_per_s, 8 / 0.45)); /* four of each text */
    assert_true(near(f.disk_bytes, 1000));
}

/* Where it is known, what was read between the window's first token and its last: beside the cold
 * passes before, a loader reads on after the last token. */
static void test_what_is_read_outside_of_the_window_does_not_count(void **state)
{
    static const uint64_t disk_at[] = {100000, 150000, 160000, 160500, 161000, 161500, 162400};
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    observed.disk_at = disk_at;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_int_equal(f.first, 2);
    assert_int_equal(f.n_passes, 4);
    assert_true(near(f.disk_bytes, 600));
}

/* The second text has its tokens 5 ms after the first one's in each pass, and ends with it: the
 * time of the last pass counted once and its second token not, 4 % of a batch of 64. */
static void test_a_pass_counts_for_all_texts(void **state)
{
    static const uint64_t late_ns[] = {
        1305 * MS, 1405 * MS, 1555 * MS, 1655 * MS, 1755 * MS, 1855 * MS};
    static const struct lam_drive_times with_late[] = {{one_ns, 7}, {late_ns, 6}};
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    observed.times = with_late;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_true(near(f.prompt_s, 0.305));
    assert_int_equal(f.n_passes, 3);
    assert_true(near(f.window_s, 0.35));
    assert_true(near(f.tokens_per_s, 6 / 0.35));
}

static void test_floors_without_a_profile_are_the_plan_s(void **state)
{
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_false(f.has_profile);
    assert_true(near(f.disk_floor_s, 0.5));
    assert_true(near(f.link_floor_s, 0));
    assert_true(near(f.memory_floor_s, 0.1));
    assert_true(near(f.floor_s, 0.5));
    assert_false(f.floor_assumed);
}

/* Whether the ratio to the floor means anything depends on the rate that made it the floor. */
static void test_a_floor_is_as_good_as_its_rate(void **state)
{
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    observed.rates.memory_assumed = true; /* the disk is the floor */
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_false(f.floor_assumed);
    observed.rates.disk_assumed = true;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_true(f.floor_assumed);
}

static void test_a_profile_is_averaged_over_its_own_passes(void **state)
{
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    observed.has_profile = true;
    observed.before = (struct lam_client_profile){
        .wall_s = 5, .disk_wait_s = 1, .link_bytes = 10000, .resident_bytes = 50};
    observed.after = (struct lam_client_profile){
        .wall_s = 6, .disk_wait_s = 1.5, .link_bytes = 20000, .resident_bytes = 1850};
    observed.passes_before = 7;
    observed.passes_after = 12;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_true(f.has_profile);
    assert_true(near(f.profile.wall_s, 0.2));
    assert_true(near(f.profile.disk_wait_s, 0.1));
    assert_int_equal(f.profile.link_bytes, 2000);
    assert_int_equal(f.profile.resident_bytes, 360);
    assert_true(near(f.link_floor_s, 1.0));
    assert_true(near(f.memory_floor_s, 0.04));
    assert_true(near(f.floor_s, 1.0));
}

/* The first text is over before the second begins: no pass had both in it. */
static void test_no_window(void **state)
{
    static const struct lam_drive_times apart[] = {{one_ns, 2}, {two_ns, 7}};
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    observed.times = apart;
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_OK);
    assert_int_equal(f.n_passes, 0);
    assert_true(near(f.tokens_per_s, 0));
    assert_true(near(f.floor_s, 0));
    assert_true(near(f.first_token_s, 1.0));
}

static void test_without_memory(void **state)
{
    struct lam_bench_observed observed = observe();
    struct lam_bench_figures f;
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_bench_figures(&observed, &f, &err), LAM_RESOURCE_EXHAUSTED);
    lam_fault_arm("alloc", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_the_window_counts),
        cmocka_unit_test(test_what_is_read_outside_of_the_window_does_not_count),
        cmocka_unit_test(test_a_pass_counts_for_all_texts),
        cmocka_unit_test(test_floors_without_a_profile_are_the_plan_s),
        cmocka_unit_test(test_a_floor_is_as_good_as_its_rate),
        cmocka_unit_test(test_a_profile_is_averaged_over_its_own_passes),
        cmocka_unit_test(test_no_window),
        cmocka_unit_test(test_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
