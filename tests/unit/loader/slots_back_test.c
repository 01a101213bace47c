/* slots_back: which place is to get memory next. Places get it in any order in slots_test. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "loader/slots.h"
#include "tests/unit/loader/slots_world.h"

#define NO_PLACE UINT32_MAX

/* A start: the session asks for the last unit alone, and the others are of no use to it. */
static void a_session_that_begins_at_the_end_comes_first(void **state)
{
    struct world w;

    (void)state;
    world_init(
        &w, &(struct world_shape){
                .n_units = 6, .kept = 0x3f, .loads_max = 10, .cycles = {0x20}, .bare = true});
    assert_int_equal(lam_slots_lacks(w.slots), NO_PLACE); /* nobody asks */
    world_open(&w, 0);
    world_settle(&w);
    assert_int_equal(lam_slots_lacks(w.slots), 5);
    assert_int_equal(w.n_loads, 1); /* unit 0, before it came */
    world_back(&w, 5);
    world_settle(&w);
    assert_int_equal(lam_slots_lacks(w.slots), NO_PLACE);
    world_finish_loads(&w);
    assert_int_equal(w.n_leases, 1);
    assert_int_equal(w.leases[0].unit, 5);
    world_done(&w);
}

/* A unit that streams needs a lane, and the kept one after it comes after it. */
static void memory_follows_the_cycle(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){
                       .n_units = 4, .kept = 1u << 2, .n_lanes = 2, .loads_max = 10, .bare = true});
    world_open(&w, 0);
    world_credit(&w, 0, 1);
    world_settle(&w);
    assert_int_equal(w.places[0].unit, 0); /* in the lane that is there */
    assert_int_equal(lam_slots_lacks(w.slots), 1);
    world_back(&w, 1);
    world_settle(&w);
    assert_int_equal(w.places[1].unit, 1);
    assert_int_equal(lam_slots_lacks(w.slots), 2); /* unit 2's own */
    world_detach(&w, 0);
    assert_int_equal(lam_slots_lacks(w.slots), NO_PLACE);
    world_done(&w);
}

/* Who needs it sooner, then who was served longer ago. */
static void sessions_take_turns(void **state)
{
    struct world w;

    (void)state;
    world_init(&w,
        &(struct world_shape){
            .n_units = 6, .kept = 0x3f, .loads_max = 10, .cycles = {0x30, 0x4, 0x8}, .bare = true});
    for (uint32_t s = 0; s < 3; s++)
        world_open(&w, s);
    world_settle(&w);
    assert_int_equal(lam_slots_lacks(w.slots), 4); /* the first that came */
    world_back(&w, 4);
    world_settle(&w);
    assert_int_equal(lam_slots_lacks(w.slots), 2); /* before that session's second unit */
    world_credit(&w, 2, 1);                        /* the third would go on at once */
    assert_int_equal(lam_slots_lacks(w.slots), 3);
    world_back(&w, 3);
    world_back(&w, 2);
    assert_int_equal(lam_slots_lacks(w.slots), 5);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_that_begins_at_the_end_comes_first),
        cmocka_unit_test(memory_follows_the_cycle),
        cmocka_unit_test(sessions_take_turns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
