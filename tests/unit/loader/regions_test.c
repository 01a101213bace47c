/* regions: which is next, and when a place has all of its memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/fault.h"
#include "loader/regions.h"

/* The last place is larger than a region. */
static struct lam_region cuts[] = {{0, 100}, {100, 100}, {200, 100}, {300, 60}};
static struct lam_place places[] = {{0, 100, 0}, {100, 50, 1}, {150, 50, 1}, {200, 160, 1}};
static const struct lam_layout layout = {
    .pool_bytes = 360, .n_places = 4, .places = places, .n_regions = 4, .regions = cuts};

static uint32_t next(const struct lam_regions *regions, uint32_t place)
{
    uint32_t r = UINT32_MAX;

    assert_true(lam_regions_next(regions, place, &r));
    return r;
}

static void what_is_awaited_comes_first_and_then_all_in_order(void **state)
{
    struct lam_regions regions;
    uint32_t r;

    (void)state;
    assert_int_equal(lam_regions_init(&regions, &layout, NULL), LAM_OK);
    assert_int_equal(next(&regions, LAM_REGIONS_NO_PLACE), 0);
    lam_regions_add(&regions, 0);
    assert_true(lam_regions_have(&regions, 0));
    assert_false(lam_regions_have(&regions, 1) || lam_regions_have(&regions, 3));
    assert_int_equal(next(&regions, LAM_REGIONS_NO_PLACE), 1);
    assert_int_equal(next(&regions, 0), 1); /* it lacks nothing */
    assert_int_equal(next(&regions, 3), 2);
    lam_regions_add(&regions, 3);
    assert_false(lam_regions_have(&regions, 3)); /* a half is not enough */
    assert_int_equal(next(&regions, 3), 2);
    lam_regions_add(&regions, 2);
    assert_true(lam_regions_have(&regions, 3));
    assert_int_equal(next(&regions, 3), 1);
    assert_int_equal(next(&regions, 2), 1);
    lam_regions_add(&regions, 1);
    assert_true(lam_regions_have(&regions, 1) && lam_regions_have(&regions, 2));
    assert_false(lam_regions_next(&regions, 1, &r));
    lam_regions_done(&regions);
}

static void no_memory_is_a_status(void **state)
{
    struct lam_regions regions;

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_regions_init(&regions, &layout, NULL), LAM_RESOURCE_EXHAUSTED);
    assert_true(lam_fault_fired());
    lam_regions_done(&regions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_awaited_comes_first_and_then_all_in_order),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
