/* slots_ahead: what drives read while it is another one's turn. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "loader/slots.h"
#include "tests/unit/loader/slots_world.h"

static bool is_in_pool(const struct world *w, uint32_t unit)
{
    for (uint32_t p = 0; p < w->layout.n_places; p++) {
        if (w->places[p].filled && w->places[p].unit == unit)
            return true;
    }
    return false;
}

/* Units 0 to 3 lie on one drive, 4 to 7 on another: while a session is among the first, the second
 * drive reads two ahead, while it is among the second the first drive does, for the next pass. */
static void a_drive_reads_ahead_while_it_is_another_ones_turn(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){
                       .n_units = 8, .n_lanes = 2, .loads_max = 1, .ahead = 2, .drives = 0xf0});
    assert_int_equal(w.n_loads, 2); /* one on each */
    assert_int_equal(w.n_ahead, 1);
    world_open(&w, 0);
    for (uint32_t pass = 0; pass < 3; pass++) {
        for (uint32_t u = 0; u < 8; u++) {
            world_finish_loads(&w);
            world_finish_loads(&w);
            if (u == 3)
                assert_true(is_in_pool(&w, 4) && is_in_pool(&w, 5));
            if (u == 7)
                assert_true(is_in_pool(&w, 1) && is_in_pool(&w, 2)); /* 0 is in a lane */
            world_credit(&w, 0, 1);
            world_settle(&w);
            assert_int_equal(w.n_leases, 1);
            assert_int_equal(w.leases[0].unit, u);
            world_release(&w, 0);
            world_settle(&w);
        }
    }
    assert_int_equal(w.n_ahead, 3 * 4);
    world_done(&w);
}

/* One session sleeps on what it holds; the other gets all units, and drives still read ahead. */
static void a_sleeper_does_not_end_reading_ahead(void **state)
{
    uint64_t n_ahead;
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 8,
                       .n_lanes = 2,
                       .seats = 2,
                       .early = 3,
                       .loads_max = 1,
                       .ahead = 3,
                       .drives = 0xf0});
    world_open(&w, 0);
    world_open(&w, 1);
    world_credit(&w, 0, 1);
    for (uint32_t i = 0; i < 10; i++)
        world_finish_loads(&w);
    assert_int_equal(w.n_leases, 1); /* and session 0 sleeps on it */
    n_ahead = w.n_ahead;
    for (uint32_t i = 0, taken = 0; taken < 8; i++) {
        assert_true(i < 1000);
        if (w.credits[1] == 0)
            world_credit(&w, 1, 1);
        world_finish_loads(&w);
        if (world_is_idle(&w))
            lam_slots_idle(w.slots);
        world_settle(&w);
        for (uint32_t l = 0; l < w.n_leases; l++) {
            if (w.leases[l].session != 1)
                continue;
            world_release(&w, l);
            taken++;
            break;
        }
    }
    assert_true(w.n_ahead > n_ahead);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drive_reads_ahead_while_it_is_another_ones_turn),
        cmocka_unit_test(a_sleeper_does_not_end_reading_ahead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
