/* slots_cycle: sessions that go round some of the units, alone and together. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "loader/slots.h"
#include "tests/unit/loader/slots_world.h"

/* Plays until session `who` has been granted n units more; returns the loads that it took. */
static uint64_t loads_until(struct world *w, uint32_t n_sessions, uint32_t who, uint32_t n)
{
    uint64_t loads = w->n_loads;

    while (n > 0) {
        uint32_t next = w->next_unit[who];

        assert_true(w->n_loads - loads < 10000);
        world_step(w, n_sessions);
        n -= w->next_unit[who] != next;
    }
    return w->n_loads - loads;
}

/* Two devices that keep different layers to themselves, 0..9 and none: in each pass they meet
 * before unit 10 and share the reads from there on. Going round independently they would cost 30
 * reads a pass. */
static void sessions_with_different_cycles_meet(void **state)
{
    struct world w;

    (void)state;
    world_init(&w,
        &(struct world_shape){.n_units = 20, .n_lanes = 3, .loads_max = 1, .cycles = {0, 0xffc00}});
    world_open(&w, 0);
    world_open(&w, 1);
    lam_ignore(loads_until(&w, 2, 0, 40) == 0, "until they are in phase");
    assert_in_range(loads_until(&w, 2, 0, 200), 190, 206);
    world_done(&w);
}

/* A session with a short cycle, which is back at its start soon, is not served for ever as the one
 * that has the fewest steps to go, nor is it shut out. */
static void a_short_cycle_starves_nobody(void **state)
{
    struct world w;
    uint32_t length = 20;

    (void)state;
    world_init(&w,
        &(struct world_shape){.n_units = 20, .n_lanes = 3, .loads_max = 1, .cycles = {0, 0x1f}});
    world_open(&w, 0);
    world_open(&w, 1);
    assert_true(loads_until(&w, 2, 0, 5 * length) <= 5 * 2 * length);
    assert_true(loads_until(&w, 2, 1, 5 * 5) <= 5 * 2 * length);
    world_done(&w);
}

/* Two that catch up with each other do so in their own turns: a third, which has no unit in common
 * with them, gets its third of the drive. */
static void a_cycle_of_its_own_gets_its_turn(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 24,
                       .n_lanes = 4,
                       .loads_max = 1,
                       .cycles = {0xfffff & ~0xff000, 0x0000f, 0xf00000}});
    for (uint32_t s = 0; s < 3; s++)
        world_open(&w, s);
    assert_in_range(loads_until(&w, 3, 2, 60), 60, 3 * 60);
    assert_in_range(loads_until(&w, 3, 0, 60), 60, 3 * 60);
    world_done(&w);
}

static void only_its_cycle_is_read_for_a_session(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 10,
                       .kept = 1u << 3 | 1u << 8,
                       .n_lanes = 3,
                       .loads_max = 1,
                       .cycles = {0xe}});
    world_open(&w, 0);
    for (uint32_t i = 0; i < 100; i++)
        world_step(&w, 1);
    assert_int_equal(w.kept_granted[0], 1u << 3);
    assert_true(w.n_grants > 40 && w.n_loads < 10); /* two units, which fit into the lanes */
    world_done(&w);
}

static void a_cycle_that_is_none_is_refused(void **state)
{
    static const uint32_t outside[] = {0, 3}, twice[] = {1, 1}, back[] = {2, 1},
                          many[] = {0, 1, 2, 2};
    struct lam_err err = {0};
    struct world w;
    uint32_t id;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 3, .n_lanes = 1, .loads_max = 1});
    assert_int_equal(lam_slots_open(w.slots, outside, 2, &id, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "no unit 3"));
    assert_int_equal(lam_slots_open(w.slots, twice, 2, &id, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_slots_open(w.slots, back, 2, &id, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "unit 1 comes after unit 2"));
    assert_int_equal(lam_slots_open(w.slots, many, 4, &id, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "4 units"));
    assert_int_equal(lam_slots_open(w.slots, back + 1, 1, &id, &err), LAM_OK);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_with_different_cycles_meet),
        cmocka_unit_test(a_short_cycle_starves_nobody),
        cmocka_unit_test(a_cycle_of_its_own_gets_its_turn),
        cmocka_unit_test(only_its_cycle_is_read_for_a_session),
        cmocka_unit_test(a_cycle_that_is_none_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
