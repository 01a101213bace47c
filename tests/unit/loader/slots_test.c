/*
 * slots: a worker cannot be modelled by examples alone, so beside a few written-out stories every
 * sequence of events up to a depth is played (small pools), and long random ones (larger pools),
 * against the naive record of slots_world.h.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "loader/slots.h"
#include "tests/unit/loader/slots_world.h"

/* The plain lane plays all decisions. A sanitizer looks at the memory below them, and is slow: it
 * is spared the last event of each sequence, which takes most of the time. */
#ifdef __SANITIZE_ADDRESS__
#define LEFT_OUT 1u
#else
#define LEFT_OUT 0u
#endif

/* A pool and the events that lead to one state of it. */
struct story {
    struct world_shape shape;
    uint32_t n_sessions;
    bool faults;
    uint32_t events[16];
    uint32_t n_events, depth;
};

/* Plays every sequence of events up to the depth that goes on from the story's; each is played from
 * its start, since the machine has no way back. Returns how many there were. */
static uint64_t explore(struct story *story)
{
    uint64_t n_played = 0;

    for (uint32_t event = 0;; event++) {
        struct world w;
        bool possible = true;

        story->events[story->n_events] = event;
        world_init(&w, &story->shape);
        for (uint32_t i = 0; i <= story->n_events; i++) {
            w.known = i < story->n_events; /* each of them was the last event once */
            possible = world_play(&w, story->events[i], story->n_sessions, story->faults);
        }
        if (possible && (event + story->n_events) % 4 == 0)
            world_drain(&w);
        world_done(&w);
        if (!possible)
            return n_played;
        n_played++;
        if (story->n_events + 1 < story->depth) {
            story->n_events++;
            n_played += explore(story);
            story->n_events--;
        }
    }
}

static void explore_all(struct world_shape shape, uint32_t n_sessions, bool faults, uint32_t depth)
{
    struct story story = {
        .shape = shape, .n_sessions = n_sessions, .faults = faults, .depth = depth - LEFT_OUT};

    story.shape.loads_max = 1;
    for (uint64_t step_bytes = 0; step_bytes <= WORLD_UNIT_BYTES; step_bytes += WORLD_UNIT_BYTES) {
        story.shape.step_bytes = step_bytes; /* through one lane; through one, two and all */
        assert_true(explore(&story) > 500);
    }
}

static void all_interleavings_of_one_session(void **state)
{
    (void)state;
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 1}, 1, false, 9);
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 2}, 1, false, 8);
    explore_all((struct world_shape){.n_units = 4, .kept = 1u << 1, .n_lanes = 2}, 1, false, 8);
    explore_all((struct world_shape){.n_units = 2, .kept = 3}, 1, false, 8);
}

static void all_interleavings_of_two_sessions(void **state)
{
    (void)state;
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 1}, 2, false, 7);
    explore_all((struct world_shape){.n_units = 3, .kept = 1, .n_lanes = 2}, 2, false, 6);
}

static void all_interleavings_of_overlapping_places(void **state)
{
    (void)state;
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 1, .early = 4}, 1, false, 9);
    explore_all((struct world_shape){.n_units = 4, .n_lanes = 2, .early = 3}, 1, false, 7);
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .early = 4, .part = 6}, 1, false, 8);
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 1, .early = 6}, 2, false, 6);
}

static void all_interleavings_with_faults(void **state)
{
    (void)state;
    explore_all((struct world_shape){.n_units = 3, .n_lanes = 2}, 1, true, 5);
    explore_all((struct world_shape){.n_units = 3, .kept = 1u << 2, .n_lanes = 1}, 1, true, 6);
    explore_all(
        (struct world_shape){.n_units = 3, .n_lanes = 1, .early = 4, .part = 3}, 1, true, 6);
}

/* Two drives, of which one may read ahead of its turn. */
static void all_interleavings_of_two_drives(void **state)
{
    (void)state;
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .ahead = 1, .drives = 0xc}, 1, false, 8);
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .ahead = 2, .drives = 0xa}, 1, false, 7);
    explore_all(
        (struct world_shape){
            .n_units = 5, .kept = 1u << 3, .n_lanes = 1, .early = 4, .ahead = 1, .drives = 0x1c},
        1, false, 7);
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .ahead = 1, .drives = 0xc}, 2, false, 6);
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .early = 4, .ahead = 1, .drives = 0x6}, 1,
        true, 5);
}

/* Sessions with cycles of their own: disjoint, one within the other, partly the same, all kept. */
static void all_interleavings_of_two_cycles(void **state)
{
    (void)state;
    explore_all((struct world_shape){.n_units = 4, .n_lanes = 1, .cycles = {0x6}}, 1, false, 8);
    explore_all(
        (struct world_shape){.n_units = 4, .n_lanes = 1, .cycles = {0x3, 0xc}}, 2, false, 6);
    explore_all(
        (struct world_shape){.n_units = 3, .n_lanes = 2, .cycles = {0x7, 0x2}}, 2, false, 6);
    explore_all(
        (struct world_shape){.n_units = 4, .kept = 1u << 2, .n_lanes = 1, .cycles = {0x7, 0xe}}, 2,
        false, 6);
    explore_all(
        (struct world_shape){.n_units = 3, .kept = 1u << 2, .n_lanes = 1, .cycles = {0x4, 0x3}}, 2,
        false, 6);
    explore_all((struct world_shape){.n_units = 4, .n_lanes = 1, .early = 4, .cycles = {0x3, 0xe}},
        2, false, 6);
    explore_all((struct world_shape){.n_units = 3, .kept = 1, .n_lanes = 1, .cycles = {0x3, 0x6}},
        2, true, 5);
}

/* Places get their memory in any order, at any time. */
static void all_interleavings_of_memory(void **state)
{
    (void)state;
    explore_all(
        (struct world_shape){.n_units = 4, .kept = 0xa, .n_lanes = 2, .bare = true}, 1, false, 7);
    explore_all((struct world_shape){.n_units = 3, .kept = 0x7, .bare = true}, 1, false, 7);
    explore_all(
        (struct world_shape){
            .n_units = 4, .kept = 1u << 3, .n_lanes = 2, .early = 4, .part = 6, .bare = true},
        1, false, 6);
    explore_all(
        (struct world_shape){
            .n_units = 4, .kept = 0xc, .n_lanes = 1, .cycles = {0x8, 0x7}, .bare = true},
        2, false, 6);
    explore_all(
        (struct world_shape){
            .n_units = 4, .kept = 1, .n_lanes = 1, .ahead = 2, .drives = 0xc, .bare = true},
        1, true, 5);
}

/* Another cycle for the session, unless it is open: some units, or a run of them. */
static void draw_cycle(struct world *w, uint32_t s, uint32_t random)
{
    uint32_t all = (1u << w->layout.n_units) - 1;
    uint32_t cycle = (random & 1) != 0 ? random >> 1 : all << random % w->layout.n_units;

    if (!w->open[s])
        w->cycle[s] = (cycle & all) != 0 ? cycle & all : all;
}

static void long_random_runs_with_three_sessions(void **state)
{
    uint64_t rng = 0x9e3779b97f4a7c15ull;

    (void)state;
    for (uint32_t run = 0; run < 160; run++) {
        struct world_shape shape = {.n_units = 2 + run % 20,
            .n_lanes = 1 + run % 4,
            .early = run / 2 % 3 * 4,
            .loads_max = 1 + 2 * (run % 3)};
        struct world w;

        shape.kept = run * 2654435761u & ((1u << shape.n_units) - 1) & 0x6db6db;
        shape.part = shape.early > 0 ? run / 3 % 3 * 4 : 0;
        shape.ahead = run / 5 % 4;
        shape.drives = shape.ahead > 0 ? run * 0x9e3779b1u & ((1u << shape.n_units) - 1) : 0;
        shape.bare = run / 7 % 2 == 0;
        world_init(&w, &shape);
        for (uint32_t i = 0; i < 2000; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            if (run >= 80 && i % 16 == 0)
                draw_cycle(&w, (uint32_t)(rng >> 59) % WORLD_SESSIONS, (uint32_t)(rng >> 20));
            lam_ignore(world_play(&w, (uint32_t)(rng >> 33) % 20, WORLD_SESSIONS, run % 2 == 0),
                "not every number is an event");
        }
        world_drain(&w);
        world_done(&w);
    }
}

static void loads_begin_before_any_session_and_stop_when_full(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){
                       .n_units = 8, .kept = 1u << 3 | 1u << 6, .n_lanes = 2, .loads_max = 10});
    world_finish_loads(&w);
    world_finish_loads(&w);
    assert_int_equal(w.n_loads, 4); /* both kept units, and units 0 and 1 */
    assert_int_equal(w.places[0].unit, 0);
    assert_int_equal(w.places[1].unit, 1);
    world_done(&w);
}

/* After a session has left its units in the slots, the start of the next pass is read once: two
 * units that are equally useless must not push each other out in turn. */
static void an_abandoned_pass_is_rewound_without_a_loop(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 8, .kept = 0, .n_lanes = 3, .loads_max = 10});
    world_open(&w, 0);
    for (uint32_t i = 0; i < 6; i++) {
        world_credit(&w, 0, 1);
        world_settle(&w);
        world_finish_loads(&w);
        while (w.n_leases > 0)
            world_release(&w, 0);
    }
    world_close(&w, 0);
    world_settle(&w);
    for (uint32_t i = 0; i < 10; i++)
        world_finish_loads(&w);
    for (uint32_t u = 0; u < 3; u++)
        assert_true(w.places[0].unit == u || w.places[1].unit == u || w.places[2].unit == u);
    world_done(&w);
}

static void two_sessions_in_phase_share_each_read(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 10, .kept = 0, .n_lanes = 3, .loads_max = 10});
    world_open(&w, 0);
    world_open(&w, 1);
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t s = 0; s < 2; s++) {
            world_credit(&w, s, 1);
        }
        world_settle(&w);
        world_finish_loads(&w);
        assert_int_equal(w.n_leases, 2);
        world_release(&w, 0);
        world_release(&w, 0);
        world_settle(&w);
    }
    assert_int_equal(w.n_grants, 60);
    assert_in_range(w.n_loads, 24, 33); /* what two of three lanes kept is not read again */
    world_done(&w);
}

static void one_session_too_many_is_refused_by_name(void **state)
{
    struct lam_err err = {0};
    struct world w;
    uint32_t id;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 5, .n_lanes = 3, .seats = 2, .loads_max = 1});
    world_open(&w, 0);
    world_open(&w, 1);
    assert_int_equal(lam_slots_open(w.slots, NULL, 0, &id, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "2 workers"));
    assert_non_null(strstr(err.text, "--workers 3"));
    world_close(&w, 0);
    assert_int_equal(lam_slots_open(w.slots, NULL, 0, &id, &err), LAM_OK);
    world_done(&w);
}

/* Sessions that begin at different times read everything twice, until the one that is behind has
 * caught up with the other; from then on each read serves both. */
static void sessions_out_of_phase_join(void **state)
{
    (void)state;
    for (uint32_t lag = 1; lag < 20; lag++) {
        struct world w;
        uint64_t loads, grants;

        world_init(&w, &(struct world_shape){.n_units = 20, .n_lanes = 3, .loads_max = 1});
        world_open(&w, 0);
        while (w.n_grants < lag)
            world_step(&w, 1);
        world_open(&w, 1);
        for (uint32_t i = 0; i < 40; i++) /* two passes of the drive */
            world_step(&w, 2);
        loads = w.n_loads;
        grants = w.n_grants;
        while (w.n_grants < grants + 2 * 200)
            world_step(&w, 2);
        assert_true(w.n_loads - loads <= 204); /* ten passes of each, all reads shared */
        world_done(&w);
    }
}

/* What an observer is told about a session and the slots, from its first moment on. */
static void what_a_session_waits_for_is_known(void **state)
{
    struct lam_slots_counts counts;
    struct world w;
    uint32_t place;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 10, .kept = 0, .n_lanes = 3, .loads_max = 1});
    world_open(&w, 0);
    world_settle(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_NONE);
    world_credit(&w, 0, 1);
    world_settle(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_DISK);
    assert_int_equal(w.places[place].unit, 0);
    lam_slots_count(w.slots, &counts);
    assert_int_equal(counts.slots_loading, 1);
    assert_int_equal(counts.slots_free, 2);
    world_finish_loads(&w);
    world_finish_loads(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_WORKER);
    assert_int_equal(place, UINT32_MAX);
    world_finish_loads(&w);
    lam_slots_count(w.slots, &counts);
    assert_int_equal(counts.slots_held, 1);
    assert_int_equal(counts.slots_ready, 2);
    world_done(&w);
}

/* Pins, and tells the record that these two change places. */
static void pin_instead(struct world *w, uint32_t unit, uint32_t victim)
{
    struct lam_err err = {0};

    if (lam_slots_pin(w->slots, unit, &err) != LAM_OK)
        fail_msg("%s", err.text);
    w->kept[unit] = true;
    w->kept[victim] = false;
    for (uint32_t i = 0; i < 20; i++) {
        world_settle(w);
        world_finish_loads(w);
    }
}

/* Every third unit is small, so unit 7 can stand in for 6 but the small 2 cannot. */
static void a_pinned_unit_is_kept(void **state)
{
    struct lam_slots_counts counts;
    struct lam_err err = {0};
    struct world w;
    uint32_t place;

    (void)state;
    for (uint32_t early = 0; early <= 4; early += 4) {
        world_init(&w, &(struct world_shape){.n_units = 10,
                           .kept = 1u << 2 | 1u << 7,
                           .n_lanes = 3,
                           .early = early,
                           .part = early,
                           .loads_max = 10});
        assert_int_equal(lam_slots_pin(w.slots, 0, &err), LAM_ABORTED); /* it is being read */
        for (uint32_t i = 0; i < 20; i++)
            world_finish_loads(&w);
        assert_int_equal(lam_slots_pin(w.slots, 10, &err), LAM_INVALID_ARGUMENT);
        pin_instead(&w, 6, 7);
        assert_true(lam_slots_kept_ready(w.slots, 6, &place));
        assert_false(lam_slots_kept_ready(w.slots, 7, &place));
        assert_int_equal(lam_slots_pin(w.slots, 7, &err), LAM_RESOURCE_EXHAUSTED);
        assert_non_null(strstr(err.text, "--ram"));
        pin_instead(&w, 5, 2);
        assert_int_equal(lam_slots_pin(w.slots, 8, &err), LAM_RESOURCE_EXHAUSTED);
        assert_int_equal(lam_slots_unpin(w.slots, 6, &err), LAM_OK);
        pin_instead(&w, 0, 6); /* in the second round a unit whose end was kept */
        assert_int_equal(lam_slots_pin(w.slots, 0, &err), LAM_OK);
        lam_slots_count(w.slots, &counts);
        assert_int_equal(counts.pinned, 2);
        assert_int_equal(counts.kept_loaded, 2);
        world_open(&w, 0);
        world_drain(&w);
        assert_int_equal(lam_slots_unpin(w.slots, 0, &err), LAM_OK);
        assert_int_equal(lam_slots_pin(w.slots, 1, &err), LAM_FAILED_PRECONDITION);
        assert_int_equal(lam_slots_pin(w.slots, 0, &err), LAM_OK); /* kept as it is */
        world_close(&w, 0);
        assert_int_equal(lam_slots_unpin(w.slots, 0, &err), LAM_OK);
        for (uint32_t i = 0; i < 20; i++) {
            world_settle(&w);
            world_finish_loads(&w);
        }
        pin_instead(&w, 1, 0);
        world_open(&w, 0);
        world_drain(&w);
        world_done(&w);
    }
}

static void credits_are_bounded(void **state)
{
    struct world w;
    struct lam_err err = {0};

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 3, .kept = 0, .n_lanes = 1, .loads_max = 10});
    world_open(&w, 0);
    assert_int_equal(lam_slots_credit(w.slots, w.id[0], UINT32_MAX, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_slots_credit(w.slots, w.id[0], LAM_SLOTS_CREDITS_MAX, &err), LAM_OK);
    assert_int_equal(lam_slots_credit(w.slots, w.id[0], 1, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_slots_release(w.slots, w.id[0], 77, 1, &err), LAM_FAILED_PRECONDITION);
    world_done(&w);
}

static void the_65th_session_is_refused(void **state)
{
    struct world w;
    struct lam_err err = {0};
    uint32_t id;

    (void)state;
    world_init(&w, &(struct world_shape){.n_units = 3, .kept = 7, .n_lanes = 0, .loads_max = 10});
    for (uint32_t i = 0; i < LAM_SLOTS_SESSIONS_MAX; i++)
        assert_int_equal(lam_slots_open(w.slots, NULL, 0, &id, &err), LAM_OK);
    assert_int_equal(lam_slots_open(w.slots, NULL, 0, &id, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "64 sessions"));
    lam_slots_close(w.slots, 17);
    assert_int_equal(lam_slots_open(w.slots, NULL, 0, &id, &err), LAM_OK);
    assert_int_equal(id, 17);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_begin_before_any_session_and_stop_when_full),
        cmocka_unit_test(an_abandoned_pass_is_rewound_without_a_loop),
        cmocka_unit_test(two_sessions_in_phase_share_each_read),
        cmocka_unit_test(one_session_too_many_is_refused_by_name),
        cmocka_unit_test(sessions_out_of_phase_join),
        cmocka_unit_test(what_a_session_waits_for_is_known),
        cmocka_unit_test(a_pinned_unit_is_kept),
        cmocka_unit_test(credits_are_bounded),
        cmocka_unit_test(the_65th_session_is_refused),
        cmocka_unit_test(all_interleavings_of_one_session),
        cmocka_unit_test(all_interleavings_of_two_sessions),
        cmocka_unit_test(all_interleavings_of_overlapping_places),
        cmocka_unit_test(all_interleavings_of_two_cycles),
        cmocka_unit_test(all_interleavings_of_two_drives),
        cmocka_unit_test(all_interleavings_with_faults),
        cmocka_unit_test(all_interleavings_of_memory),
        cmocka_unit_test(long_random_runs_with_three_sessions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
