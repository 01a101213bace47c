/* policy: what is kept, that it is spread, that nothing overlaps and all of it fits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/fault.h"
#include "loader/policy.h"

#define UNITS_MAX 200
#define ALIGN 4096u

static struct lam_unit units[UNITS_MAX];
static uint32_t drives[UNITS_MAX];
static uint32_t n_drives = 1;

static void fill_units(uint32_t n, uint64_t bytes, uint64_t offset)
{
    for (uint32_t u = 0; u < n; u++) {
        units[u] = (struct lam_unit){.file_offset = offset, .bytes = bytes};
        offset += bytes;
    }
}

/* What must be true of every layout. */
static void check(const struct lam_layout *layout, uint32_t n_units, uint64_t budget)
{
    uint32_t n_kept = 0, n_parts = layout->part_unit != LAM_POLICY_NO_UNIT;
    uint32_t n_shared_places = layout->n_slots + layout->n_ahead;
    uint32_t n_shared = layout->n_slots - n_parts;
    uint64_t at = 0, end = 0;

    for (uint32_t u = 0; u < n_units; u++) {
        uint64_t window = lam_policy_window(&units[u], ALIGN).bytes;

        if (layout->kept[u])
            assert_int_equal(layout->places[n_shared_places + n_kept++].bytes, window);
        else
            for (uint32_t s = 0; s < n_shared_places; s++)
                assert_true((n_parts > 0 && s == n_shared) || layout->places[s].bytes >= window);
    }
    assert_int_equal(n_kept, layout->n_kept);
    assert_int_equal(layout->n_places, n_shared_places + n_kept);
    assert_true(layout->n_slots > 0 || n_kept == n_units);
    if (n_parts > 0) {
        const struct lam_place *place = &layout->places[layout->n_slots - 1];

        assert_false(layout->kept[layout->part_unit]);
        assert_int_equal(place->bytes, lam_policy_window(&units[layout->part_unit], ALIGN).bytes);
        assert_true(layout->part_bytes < place->bytes);
        /* Nothing else covers the part that stays. */
        assert_int_equal(place[-1].pool_offset + place[-1].bytes + layout->part_bytes,
            place->pool_offset + place->bytes);
    }
    for (uint32_t p = 0; p < layout->n_places; p++) {
        const struct lam_place *place = &layout->places[p];

        assert_int_equal(place->pool_offset % ALIGN, 0);
        assert_true(place->pool_offset >= at && place->pool_offset <= end);
        assert_true(place->pool_offset + place->bytes > end);
        /* Only places of one lane share memory. */
        if (p > 0 && place->pool_offset < end)
            assert_int_equal(place->lane, place[-1].lane);
        assert_true(
            p < layout->n_slots ? place->lane < layout->n_lanes : place->lane == layout->n_lanes);
        at = place->pool_offset;
        end = at + place->bytes;
    }
    assert_int_equal(end, layout->pool_bytes);
    assert_true(end <= budget);
    at = 0;
    for (uint32_t r = 0; r < layout->n_regions; r++) {
        assert_int_equal(layout->regions[r].pool_offset, at);
        assert_in_range(layout->regions[r].bytes, 1, LAM_POLICY_REGION_BYTES_MAX);
        at += layout->regions[r].bytes;
    }
    assert_int_equal(at, layout->pool_bytes);
}

static enum lam_status lay_out(
    uint32_t n_units, uint64_t budget, struct lam_layout *ret_layout, struct lam_err *err)
{
    const struct lam_policy_request request = {.units = units,
        .n_units = n_units,
        .align = ALIGN,
        .budget_bytes = budget,
        .lanes_wanted = LAM_KEPT_LANES_WANTED,
        .drives = n_drives > 1 ? drives : NULL,
        .n_drives = n_drives};

    return lam_policy_layout(&request, ret_layout, err);
}

static void a_window_is_the_aligned_surrounding(void **state)
{
    struct lam_unit unit = {.file_offset = 4095, .bytes = 2};
    struct lam_window window = lam_policy_window(&unit, ALIGN);

    (void)state;
    assert_int_equal(window.file_offset, 0);
    assert_int_equal(window.bytes, 8192);
    unit = (struct lam_unit){.file_offset = 8192, .bytes = 4096};
    window = lam_policy_window(&unit, ALIGN);
    assert_int_equal(window.file_offset, 8192);
    assert_int_equal(window.bytes, 4096);
}

static void everything_is_kept_when_it_fits(void **state)
{
    struct lam_layout layout;
    uint64_t full;

    (void)state;
    fill_units(10, 100000, 777);
    full = lam_policy_bytes_full(units, 10, ALIGN);
    assert_int_equal(lay_out(10, full, &layout, NULL), LAM_OK);
    assert_int_equal(layout.n_kept, 10);
    assert_int_equal(layout.n_slots, 0);
    check(&layout, 10, full);
    lam_layout_done(&layout);
}

/* Behind everything, cut into regions like anything else; nothing else moves. */
static void the_table_comes_behind_all_units(void **state)
{
    static const uint64_t tables[] = {4096, 900000, 3ull << 30};

    (void)state;
    fill_units(11, 100000, 777);
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        struct lam_layout layout, before;
        uint64_t window;
        uint64_t nth = 0;

        units[10].bytes = tables[i];
        window = lam_policy_window(&units[10], ALIGN).bytes;
        assert_int_equal(lay_out(10, UINT64_MAX / 4, &layout, NULL), LAM_OK);
        before = layout;
        for (enum lam_status status = LAM_RESOURCE_EXHAUSTED; status != LAM_OK;) {
            lam_fault_arm("alloc", ++nth);
            status = lam_policy_add_table(&layout, window, NULL);
            assert_int_equal(status == LAM_OK, !lam_fault_fired());
            assert_int_equal(layout.n_units, 10 + (status == LAM_OK));
        }
        lam_fault_arm("alloc", 0);
        assert_int_equal(nth, 5); /* each of four, then none */
        assert_true(layout.has_table && layout.kept[10]);
        assert_int_equal(layout.pool_bytes, before.pool_bytes + window);
        assert_int_equal(layout.places[10].pool_offset, before.pool_bytes);
        check(&layout, 11, layout.pool_bytes);
        lam_layout_done(&layout);
    }
}

static void the_kept_units_are_as_many_as_fit_and_spread(void **state)
{
    (void)state;
    fill_units(80, 1 << 20, 0);
    for (uint32_t c = 1; c < 80; c++) {
        uint64_t budget = (uint64_t)c << 20;
        uint32_t gap = 0, gap_max = 0;
        struct lam_layout layout;

        assert_int_equal(lay_out(80, budget, &layout, NULL), LAM_OK);
        check(&layout, 80, budget);
        assert_int_equal(layout.n_lanes, c < 3 ? c : 3);
        assert_int_equal(layout.n_kept, c < 4 ? 0 : c - 4);
        /* What the lanes take for reading ahead is all that is lost. */
        if (c > 4)
            assert_true(layout.pool_bytes + ALIGN > budget && layout.part_bytes > 200 << 10);
        for (uint32_t u = 0; u < 160 && layout.n_kept > 0; u++) {
            gap = layout.kept[u % 80] ? 0 : gap + 1;
            gap_max = gap > gap_max ? gap : gap_max;
        }
        if (layout.n_kept > 0)
            assert_true(gap_max <= (80 + layout.n_kept - 1) / layout.n_kept);
        lam_layout_done(&layout);
    }
}

static void units_of_any_size_fit_any_budget(void **state)
{
    uint64_t rng = 1;

    (void)state;
    for (uint32_t run = 0; run < 300; run++) {
        uint32_t n = 1 + run % UNITS_MAX;
        uint64_t budget, largest = 0, offset = run * 31;
        struct lam_layout layout;

        for (uint32_t u = 0; u < n; u++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            units[u] = (struct lam_unit){.file_offset = offset, .bytes = 1 + (rng >> 40)};
            offset += units[u].bytes + (rng >> 60);
            if (lam_policy_window(&units[u], ALIGN).bytes > largest)
                largest = lam_policy_window(&units[u], ALIGN).bytes;
        }
        budget = largest + (rng >> 20) % (2 * lam_policy_bytes_full(units, n, ALIGN));
        assert_int_equal(lay_out(n, budget, &layout, NULL), LAM_OK);
        check(&layout, n, budget);
        lam_layout_done(&layout);
    }
}

/* With two drives in halves a third of what the pool lacks is for reading ahead: so much is in it
 * when the turn comes that both have read all the time. With shards in turn it takes less, and with
 * the model on one drive, or in the pool, none. */
static void reading_ahead_has_the_room_that_it_takes(void **state)
{
    (void)state;
    fill_units(80, 1 << 20, 0);
    for (uint32_t run = 40; run >= 5; run /= 2) {
        for (uint32_t c = 10; c <= 80; c += 10) {
            uint32_t most = c == 80 ? 0 : (80 + 3 - c) / (4 * 40 / run - 1);
            struct lam_layout layout;

            n_drives = 2;
            for (uint32_t u = 0; u < 80; u++)
                drives[u] = u / run % 2;
            assert_int_equal(lay_out(80, (uint64_t)c << 20, &layout, NULL), LAM_OK);
            check(&layout, 80, (uint64_t)c << 20);
            most = most < c - 4 ? most : c - 4;
            assert_in_range(layout.n_ahead, most, most + (c < 80 && most < c - 4));
            lam_layout_done(&layout);
            memset(drives, 0, sizeof(drives)); /* as files on two drives with nothing on one */
            assert_int_equal(lay_out(80, (uint64_t)c << 20, &layout, NULL), LAM_OK);
            assert_int_equal(layout.n_ahead, 0);
            lam_layout_done(&layout);
            n_drives = 1;
        }
    }
}

static void regions_end_where_places_end(void **state)
{
    struct lam_layout layout;

    (void)state;
    fill_units(40, 218000000, 5000);
    assert_int_equal(lay_out(40, UINT64_MAX / 4, &layout, NULL), LAM_OK);
    check(&layout, 40, UINT64_MAX / 4);
    /* One place, one, two, then four each. */
    assert_int_equal(layout.n_regions, 12);
    for (uint32_t r = 1; r < layout.n_regions; r++)
        assert_int_equal(
            layout.regions[r].pool_offset, layout.places[r < 3 ? r : 4 * (r - 2)].pool_offset);
    lam_layout_done(&layout);

    fill_units(3, 5ull << 30, 5000); /* larger than a region: cut inside */
    assert_int_equal(lay_out(3, UINT64_MAX / 4, &layout, NULL), LAM_OK);
    check(&layout, 3, UINT64_MAX / 4);
    lam_layout_done(&layout);
}

static void too_small_names_the_smallest_that_works(void **state)
{
    struct lam_layout layout;
    struct lam_err err = {0};

    (void)state;
    fill_units(10, 1000000, 100);
    assert_int_equal(lay_out(10, 500000, &layout, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "--ram 984KiB"));
    assert_int_equal(lay_out(10, 984 << 10, &layout, &err), LAM_OK);
    assert_int_equal(layout.n_slots, 1);
    check(&layout, 10, 984 << 10);
    lam_layout_done(&layout);
}

static void no_memory_is_a_status(void **state)
{
    struct lam_layout layout;
    uint64_t n = 0;

    (void)state;
    fill_units(10, 1000000, 100);
    do {
        lam_fault_arm("alloc", ++n);
        if (lay_out(10, 5000000, &layout, NULL) == LAM_OK) {
            assert_false(lam_fault_fired());
            lam_layout_done(&layout);
        }
    } while (lam_fault_fired());
    lam_fault_arm("alloc", 0);
    assert_int_equal(n, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_window_is_the_aligned_surrounding),
        cmocka_unit_test(everything_is_kept_when_it_fits),
        cmocka_unit_test(the_table_comes_behind_all_units),
        cmocka_unit_test(the_kept_units_are_as_many_as_fit_and_spread),
        cmocka_unit_test(units_of_any_size_fit_any_budget),
        cmocka_unit_test(reading_ahead_has_the_room_that_it_takes),
        cmocka_unit_test(regions_end_where_places_end),
        cmocka_unit_test(too_small_names_the_smallest_that_works),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
