/* plan_pool: the planner's pool and the loader's, byte for byte, over random models and budgets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/size.h"
#include "loader/policy.h"
#include "tests/unit/model/plan_fixture.h"

#define N_MODELS 120
#define N_BUDGETS 12
#define ALIGN 4096u
#define UNITS_MAX 256u

/* What the loader lays out for the budget of the plan. */
static void compare(const struct lam_plan_request *request, const struct lam_plan *plan)
{
    const struct lam_unit *units = request->manifest->units;
    const struct lam_plan_pool *pool = &plan->pool;
    const struct lam_policy_request asked = {.units = units,
        .n_units = plan->n_units,
        .align = ALIGN,
        .budget_bytes = pool->budget_bytes - pool->table_bytes,
        .lanes_wanted = LAM_KEPT_LANES_WANTED,
        .drives = request->host.drives,
        .n_drives = request->host.n_drives};
    struct lam_layout layout;
    uint32_t place;
    uint64_t disk_bytes = 0;

    assert_int_equal(lam_policy_layout(&asked, &layout, NULL), LAM_OK);
    if (pool->table_bytes > 0) {
        assert_int_equal(pool->n_kept, plan->n_units); /* all units come first */
        assert_int_equal(pool->table_bytes, lam_policy_window(&units[plan->n_units], ALIGN).bytes);
        assert_int_equal(lam_policy_add_table(&layout, pool->table_bytes, NULL), LAM_OK);
        assert_int_equal(
            layout.places[layout.n_kept - 1].pool_offset + pool->table_bytes, layout.pool_bytes);
        layout.n_kept--;
    }
    assert_int_equal(pool->pool_bytes, layout.pool_bytes);
    assert_int_equal(pool->n_lanes, layout.n_lanes);
    assert_int_equal(pool->n_ahead, layout.n_ahead);
    assert_int_equal(pool->part_bytes, layout.part_bytes);
    assert_int_equal(pool->n_kept, layout.n_kept);
    place = layout.n_slots + layout.n_ahead;
    for (uint32_t u = 0; u < plan->n_units; u++) {
        assert_int_equal(pool->kept[u], layout.kept[u]);
        if (layout.kept[u])
            assert_int_equal(pool->offsets[u], layout.places[place++].pool_offset);
        else
            disk_bytes += lam_policy_window(&units[u], ALIGN).bytes;
    }
    if (layout.n_lanes == 0)
        assert_int_equal(pool->disk_bytes, 0);
    else if (request->devices[0].kind == LAM_DEVICE_CPU)
        assert_in_range(disk_bytes - layout.part_bytes - pool->disk_bytes, 0,
            (layout.n_lanes - 1) * pool->slot_bytes); /* lanes_test has which of these */
    if (request->devices[0].kind == LAM_DEVICE_CPU)
        assert_int_equal(pool->unkept_bytes, disk_bytes);
    assert_in_range(pool->unkept_bytes, pool->disk_bytes, disk_bytes);
    lam_layout_done(&layout);
}

static void the_planned_pool_is_the_loaders(void **state)
{
    struct plan_random random = {42};
    uint32_t n_streaming = 0, n_tables = 0, n_ahead = 0;

    (void)state;
    for (uint32_t m = 0; m < N_MODELS; m++) {
        struct plan_fixture fixture;
        struct lam_plan_device device = plan_fixture_cpu();
        uint64_t full, table, most = 0;
        uint32_t drives[UNITS_MAX];
        uint32_t n_drives, run;
        plan_random_model(&random, &fixture);
        assert_true(fixture.manifest.n_units <= UNITS_MAX);
        n_drives = (uint32_t)plan_random_in(&random, 1, 3); /* runs of units on each in turn */
        run = (uint32_t)plan_random_in(&random, 1, fixture.manifest.n_units);
        for (uint32_t u = 0; u < fixture.manifest.n_units; u++)
            drives[u] = u / run % n_drives;
        full = lam_policy_bytes_full(fixture.manifest.units, fixture.manifest.n_units, ALIGN);
        table = lam_kept_embedding_bytes(&fixture.manifest, ALIGN);
        assert_int_equal(table > 0, !fixture.spec.tied_head);
        for (uint32_t i = 0; i < N_BUDGETS; i++) {
            struct lam_plan_request request = plan_fixture_request(&fixture, &device, 1);
            struct lam_plan plan;
            request.host.drives = drives;
            request.host.n_drives = n_drives;
            request.host.ram_bytes =
                plan_random_in(&random, 100 * LAM_MIB, 500 * LAM_MIB + full + table);
            assert_int_equal(lam_plan_make(&request, &plan, NULL), LAM_OK);
            if (plan.fits) {
                plan_check(&request, &plan);
                compare(&request, &plan);
                n_streaming += plan.pool.n_lanes > 0;
                n_tables += plan.pool.table_bytes > 0;
                n_ahead += plan.pool.n_ahead > 0;
                assert_true(plan.pool.table_bytes == 0 || plan.pool.table_bytes == table);
                most = plan.pool.pool_bytes > most ? plan.pool.pool_bytes : most;
            }
            lam_plan_done(&plan);
        }
        assert_true(most <= full + table);
        plan_fixture_done(&fixture);
    }
    assert_true(n_streaming > N_MODELS);
    assert_true(n_tables > N_MODELS / 4);
    assert_true(n_ahead > N_MODELS / 4);
}

/* A pass that the disk binds takes half the time with half the model on another drive, and more
 * than that of it where the pool is too small to read ahead for long. */
static void two_drives_take_the_fullest_ones_time(void **state)
{
    static const uint32_t percents[] = {25, 30, 45, 60};
    struct plan_fixture fixture;
    struct lam_plan_device cpu = plan_fixture_cpu();
    struct lam_spec spec = plan_fixture_8b();
    uint32_t drives[UNITS_MAX];
    double before = 1;
    uint64_t full;

    (void)state;
    plan_fixture_init(&fixture, &spec, true, LAM_F16);
    full = lam_policy_bytes_full(fixture.manifest.units, fixture.manifest.n_units, ALIGN);
    for (uint32_t u = 0; u < fixture.manifest.n_units; u++)
        drives[u] = u >= fixture.manifest.n_units / 2;
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        struct lam_plan_request request = plan_fixture_request(&fixture, &cpu, 1);
        struct lam_plan plan;
        double one, share;
        request.host.ram_bytes = full / 100 * percents[i] + 500 * LAM_MIB;
        request.host.disk_rate = 1e8;
        assert_int_equal(lam_plan_make(&request, &plan, NULL), LAM_OK);
        assert_true(plan.fits && plan.bound == LAM_BOUND_DISK);
        one = plan.pass_seconds;
        lam_plan_done(&plan);
        request.host.drives = drives;
        request.host.n_drives = 2;
        assert_int_equal(lam_plan_make(&request, &plan, NULL), LAM_OK);
        share = plan.pass_seconds * 1e8 / (double)plan.pool.disk_bytes;
        assert_true(share > 0.5 && share <= before);
        assert_true(plan.pass_seconds < one);
        before = share;
        lam_plan_done(&plan);
    }
    assert_true(before < 0.55); /* units are not the same size: nor are the halves */
    plan_fixture_done(&fixture);
}

/* What is given and not used is less than one unit. */
static void ram_is_used(void **state)
{
    struct plan_fixture fixture;
    struct lam_plan_device cpu = plan_fixture_cpu();
    struct lam_spec spec = plan_fixture_8b();

    (void)state;
    plan_fixture_init(&fixture, &spec, true, LAM_F16);
    for (uint64_t mib = 2000; mib < 5000; mib += 77) {
        struct lam_plan_request request = plan_fixture_request(&fixture, &cpu, 1);
        struct lam_plan plan;
        request.host.ram_bytes = mib * LAM_MIB;
        assert_int_equal(lam_plan_make(&request, &plan, NULL), LAM_OK);
        assert_true(
            plan.pool.pool_bytes + plan.arenas[0].total_bytes + 140 * LAM_MIB > mib * LAM_MIB);
        compare(&request, &plan);
        lam_plan_done(&plan);
    }
    plan_fixture_done(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_planned_pool_is_the_loaders),
        cmocka_unit_test(two_drives_take_the_fullest_ones_time),
        cmocka_unit_test(ram_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
