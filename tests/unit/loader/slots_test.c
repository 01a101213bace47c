/*
 * slots: a worker cannot be modelled by examples alone, so beside a few written-out stories every
 * sequence of events up to a depth is played (small pools), and long random ones (larger pools). A
 * second, naive record of who holds what is kept beside the machine; after each event the two are
 * compared.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/mem.h"
#include "loader/slots.h"

#define UNITS_MAX 24
#define SESSIONS 3
#define HELD_MAX (UNITS_MAX * SESSIONS)

struct lease {
    uint32_t session, unit, place;
    uint64_t generation;
};

/* The naive record. */
struct world {
    struct lam_slots *slots;
    uint32_t n_units, n_slots, n_kept;
    bool kept[UNITS_MAX];
    uint64_t unit_bytes[UNITS_MAX];
    uint32_t place_unit[UNITS_MAX * 2];
    uint64_t place_generation[UNITS_MAX * 2];
    bool place_loading[UNITS_MAX * 2];
    bool place_issued[UNITS_MAX * 2];
    uint64_t last_generation;
    struct lease leases[HELD_MAX];
    uint32_t n_leases;
    bool open[SESSIONS];
    uint32_t id[SESSIONS];
    uint32_t next_unit[SESSIONS]; /* the transit unit that has to be granted next */
    uint32_t credits[SESSIONS];
    uint32_t kept_granted[SESSIONS];
    uint64_t n_grants, n_loads, n_faults;
};

static uint32_t session_of(const struct world *w, uint32_t id)
{
    for (uint32_t s = 0; s < SESSIONS; s++) {
        if (w->open[s] && w->id[s] == id)
            return s;
    }
    fail_msg("an action for session %u, which is not open", id);
    return 0;
}

static uint32_t next_transit(const struct world *w, uint32_t after)
{
    uint32_t u = after;

    do
        u = (u + 1) % w->n_units;
    while (w->kept[u]);
    return u;
}

static void on_load(struct world *w, const struct lam_slots_action *a)
{
    assert_true(a->generation > w->last_generation);
    w->last_generation = a->generation;
    assert_false(w->place_loading[a->place]);
    for (uint32_t i = 0; i < w->n_leases; i++)
        assert_true(w->leases[i].place != a->place); /* never refilled while held */
    assert_int_equal(a->kept, w->kept[a->unit]);
    assert_int_equal(a->kept, a->place >= w->n_slots);
    w->place_loading[a->place] = true;
    w->place_issued[a->place] = false;
    w->place_unit[a->place] = a->unit;
    w->place_generation[a->place] = a->generation;
    w->n_loads++;
}

static void on_grant(struct world *w, const struct lam_slots_action *a)
{
    uint32_t s = session_of(w, a->session);

    assert_false(w->place_loading[a->place]);
    assert_int_equal(w->place_unit[a->place], a->unit);
    assert_int_equal(w->place_generation[a->place], a->generation);
    for (uint32_t i = 0; i < w->n_leases; i++)
        assert_false(w->leases[i].session == s && w->leases[i].unit == a->unit);
    assert_int_equal(a->kept, w->kept[a->unit]);
    if (a->kept) {
        assert_int_equal(w->kept_granted[s] >> a->unit & 1, 0);
        w->kept_granted[s] |= 1u << a->unit;
    } else {
        assert_int_equal(a->unit, w->next_unit[s]);
        assert_true(w->credits[s] > 0);
        w->credits[s]--;
        w->next_unit[s] = next_transit(w, a->unit);
    }
    w->leases[w->n_leases++] = (struct lease){s, a->unit, a->place, a->generation};
    w->n_grants++;
}

static void on_fault(struct world *w, const struct lam_slots_action *a)
{
    uint32_t s = session_of(w, a->session);

    assert_int_equal(a->status, LAM_DATA_LOSS);
    w->n_faults++;
    if (!w->kept[a->unit])
        assert_int_equal(a->unit, w->next_unit[s]); /* and it stays the next one */
}

static void settle(struct world *w)
{
    struct lam_slots_action a;
    uint32_t n_actions = 0;
    struct lam_slots_counts counts;

    while (lam_slots_next(w->slots, &a)) {
        assert_true(++n_actions < 1000);
        if (a.kind == LAM_SLOTS_LOAD)
            on_load(w, &a);
        else if (a.kind == LAM_SLOTS_GRANT)
            on_grant(w, &a);
        else
            on_fault(w, &a);
        lam_slots_check(w->slots);
    }
    lam_slots_count(w->slots, &counts);
    assert_int_equal(counts.leases, w->n_leases);
    assert_int_equal(counts.grants, w->n_grants);
    assert_int_equal(counts.loads, w->n_loads);
}

/* kept: a bitmap of the units that are kept. */
static void world_init(
    struct world *w, uint32_t n_units, uint32_t kept, uint32_t n_slots, uint64_t load_bytes_max)
{
    struct lam_slots_config config = {.n_units = n_units,
        .kept = w->kept,
        .n_slots = n_slots,
        .unit_bytes = w->unit_bytes,
        .load_bytes_max = load_bytes_max};

    memset(w, 0, sizeof(*w));
    w->n_units = n_units;
    w->n_slots = n_slots;
    for (uint32_t u = 0; u < n_units; u++) {
        w->kept[u] = (kept >> u & 1) != 0;
        w->n_kept += w->kept[u];
        w->unit_bytes[u] = 100;
    }
    assert_int_equal(lam_slots_create(&config, &w->slots, NULL), LAM_OK);
    settle(w);
    assert_int_equal(w->n_loads, 0);
    lam_slots_back(w->slots, n_slots + w->n_kept);
    settle(w);
}

static void world_done(struct world *w)
{
    lam_slots_destroy(w->slots);
}

static void do_open(struct world *w, uint32_t s)
{
    assert_int_equal(lam_slots_open(w->slots, &w->id[s], NULL), LAM_OK);
    w->open[s] = true;
    w->credits[s] = 0;
    w->kept_granted[s] = 0;
    w->next_unit[s] = w->n_kept == w->n_units ? 0 : next_transit(w, w->n_units - 1);
}

static void do_close(struct world *w, uint32_t s)
{
    uint32_t n = 0;

    lam_slots_close(w->slots, w->id[s]);
    w->open[s] = false;
    for (uint32_t i = 0; i < w->n_leases; i++) {
        if (w->leases[i].session != s)
            w->leases[n++] = w->leases[i];
    }
    w->n_leases = n;
}

static void do_release(struct world *w, uint32_t lease)
{
    struct lease it = w->leases[lease];

    assert_int_equal(
        lam_slots_release(w->slots, w->id[it.session], it.unit, it.generation, NULL), LAM_OK);
    w->leases[lease] = w->leases[--w->n_leases];
    /* The same release again is stale. */
    assert_int_equal(lam_slots_release(w->slots, w->id[it.session], it.unit, it.generation, NULL),
        LAM_FAILED_PRECONDITION);
}

static void do_loaded(struct world *w, uint32_t place, enum lam_status status)
{
    w->place_loading[place] = false;
    lam_slots_loaded(w->slots, place, w->place_generation[place], status);
}

/* Event number `event` of those possible now; false when there are not so many. Each is followed by
 * all of its consequences. */
static bool play(struct world *w, uint32_t event, uint32_t n_sessions, bool faults)
{
    uint32_t n = 0;

    for (uint32_t s = 0; s < n_sessions; s++) {
        if (n++ == event) {
            if (w->open[s])
                do_close(w, s);
            else
                do_open(w, s);
            goto played;
        }
        if (w->open[s] && w->credits[s] < 2 && n++ == event) {
            assert_int_equal(lam_slots_credit(w->slots, w->id[s], 1, NULL), LAM_OK);
            w->credits[s]++;
            goto played;
        }
    }
    for (uint32_t p = 0; p < w->n_slots + w->n_kept; p++) {
        if (!w->place_loading[p])
            continue;
        if (n++ == event) {
            do_loaded(w, p, LAM_OK);
            goto played;
        }
        if (!w->place_issued[p] && n++ == event) {
            w->place_issued[p] = true;
            lam_slots_issued(w->slots, p, w->place_generation[p]);
            goto played;
        }
        if (faults && n++ == event) {
            do_loaded(w, p, LAM_DATA_LOSS);
            goto played;
        }
    }
    for (uint32_t i = 0; i < w->n_leases; i++) {
        if (n++ == event) {
            do_release(w, i);
            goto played;
        }
    }
    if (faults && n++ == event) {
        lam_slots_retry(w->slots);
        goto played;
    }
    return false;

played:
    lam_slots_check(w->slots);
    settle(w);
    return true;
}

/* Whatever happened: loads end, everybody releases and gives credit, and each open session gets the
 * whole cycle twice. Nothing may be stuck. */
static void drain(struct world *w)
{
    uint32_t kept_all = (1u << w->n_units) - 1;
    uint64_t target[SESSIONS];

    for (uint32_t u = 0; u < w->n_units; u++)
        kept_all &= w->kept[u] ? UINT32_MAX : ~(1u << u);
    for (uint32_t s = 0; s < SESSIONS; s++)
        target[s] = w->open[s] ? 2 * (uint64_t)(w->n_units - w->n_kept) : 0;
    for (uint32_t round = 0;; round++) {
        bool more = false;

        assert_true(round < 40 * UNITS_MAX);
        lam_slots_retry(w->slots);
        settle(w);
        for (uint32_t p = 0; p < w->n_slots + w->n_kept; p++) {
            if (w->place_loading[p])
                do_loaded(w, p, LAM_OK);
        }
        settle(w);
        while (w->n_leases > 0) {
            if (!w->kept[w->leases[0].unit] && target[w->leases[0].session] > 0)
                target[w->leases[0].session]--;
            do_release(w, 0);
        }
        for (uint32_t s = 0; s < SESSIONS; s++) {
            if (!w->open[s])
                continue;
            if (w->credits[s] == 0) {
                assert_int_equal(lam_slots_credit(w->slots, w->id[s], 1, NULL), LAM_OK);
                w->credits[s] = 1;
            }
            more = more || target[s] > 0 || w->kept_granted[s] != kept_all;
        }
        settle(w);
        if (!more)
            return;
    }
}

/* A pool and the events that lead to one state of it. */
struct story {
    uint32_t n_units, kept, n_slots, n_sessions;
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
        world_init(&w, story->n_units, story->kept, story->n_slots, 100);
        for (uint32_t i = 0; i <= story->n_events; i++)
            possible = play(&w, story->events[i], story->n_sessions, story->faults);
        if (possible && (event + story->n_events) % 4 == 0)
            drain(&w);
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

static void explore_all(struct story story)
{
    assert_true(explore(&story) > 500);
}

static void all_interleavings_of_one_session(void **state)
{
    (void)state;
    explore_all((struct story){
        .n_units = 3, .kept = 0, .n_slots = 1, .n_sessions = 1, .faults = false, .depth = 9});
    explore_all((struct story){
        .n_units = 3, .kept = 0, .n_slots = 2, .n_sessions = 1, .faults = false, .depth = 8});
    explore_all((struct story){
        .n_units = 4, .kept = 1u << 1, .n_slots = 2, .n_sessions = 1, .faults = false, .depth = 8});
    explore_all((struct story){
        .n_units = 2, .kept = 3, .n_slots = 0, .n_sessions = 1, .faults = false, .depth = 8});
}

static void all_interleavings_of_two_sessions(void **state)
{
    (void)state;
    explore_all((struct story){
        .n_units = 3, .kept = 0, .n_slots = 1, .n_sessions = 2, .faults = false, .depth = 7});
    explore_all((struct story){
        .n_units = 3, .kept = 1, .n_slots = 2, .n_sessions = 2, .faults = false, .depth = 6});
}

static void all_interleavings_with_faults(void **state)
{
    (void)state;
    explore_all((struct story){
        .n_units = 3, .kept = 0, .n_slots = 2, .n_sessions = 1, .faults = true, .depth = 6});
    explore_all((struct story){
        .n_units = 3, .kept = 1u << 2, .n_slots = 1, .n_sessions = 1, .faults = true, .depth = 7});
}

static void long_random_runs_with_three_sessions(void **state)
{
    uint64_t rng = 0x9e3779b97f4a7c15ull;

    (void)state;
    for (uint32_t run = 0; run < 60; run++) {
        uint32_t n_units = 2 + run % 20;
        uint32_t kept = run * 2654435761u & ((1u << n_units) - 1) & 0x6db6db;
        struct world w;

        world_init(&w, n_units, kept, 1 + run % 4, 100 + 200 * (run % 3));
        for (uint32_t i = 0; i < 2000; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            lam_ignore(play(&w, (uint32_t)(rng >> 33) % 16, SESSIONS, run % 2 == 0),
                "not every number is an event");
        }
        drain(&w);
        world_done(&w);
    }
}

/* Loads in order, with all ends at once; returns the loaded units as digits of a number. */
static void finish_loads(struct world *w)
{
    for (uint32_t p = 0; p < w->n_slots + w->n_kept; p++) {
        if (w->place_loading[p])
            do_loaded(w, p, LAM_OK);
    }
    settle(w);
}

static void loads_begin_before_any_session_and_stop_when_full(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 8, 1u << 3 | 1u << 6, 2, 1000);
    finish_loads(&w);
    finish_loads(&w);
    assert_int_equal(w.n_loads, 4); /* both kept units, and units 0 and 1 */
    assert_int_equal(w.place_unit[0], 0);
    assert_int_equal(w.place_unit[1], 1);
    world_done(&w);
}

/* After a session has left its units in the slots, the start of the next pass is read once: two
 * units that are equally useless must not push each other out in turn. */
static void an_abandoned_pass_is_rewound_without_a_loop(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 8, 0, 3, 1000);
    do_open(&w, 0);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(lam_slots_credit(w.slots, w.id[0], 1, NULL), LAM_OK);
        w.credits[0]++;
        settle(&w);
        finish_loads(&w);
        while (w.n_leases > 0)
            do_release(&w, 0);
    }
    do_close(&w, 0);
    settle(&w);
    for (uint32_t i = 0; i < 10; i++)
        finish_loads(&w);
    for (uint32_t u = 0; u < 3; u++)
        assert_true(w.place_unit[0] == u || w.place_unit[1] == u || w.place_unit[2] == u);
    world_done(&w);
}

static void two_sessions_in_phase_share_each_read(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 10, 0, 3, 1000);
    do_open(&w, 0);
    do_open(&w, 1);
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t s = 0; s < 2; s++) {
            assert_int_equal(lam_slots_credit(w.slots, w.id[s], 1, NULL), LAM_OK);
            w.credits[s]++;
        }
        settle(&w);
        finish_loads(&w);
        assert_int_equal(w.n_leases, 2);
        do_release(&w, 0);
        do_release(&w, 0);
        settle(&w);
    }
    assert_int_equal(w.n_grants, 60);
    assert_in_range(w.n_loads, 30, 33);
    world_done(&w);
}

/* A session that took what it could and then sleeps: the other one goes on with what is left. */
static void a_sleeping_holder_does_not_starve_another(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 10, 0, 3, 1000);
    do_open(&w, 0);
    assert_int_equal(lam_slots_credit(w.slots, w.id[0], 8, NULL), LAM_OK);
    w.credits[0] = 8;
    settle(&w);
    finish_loads(&w);
    finish_loads(&w);
    assert_int_equal(w.n_leases, 2); /* of three slots */
    do_open(&w, 1);
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t mine = UINT32_MAX;

        assert_int_equal(lam_slots_credit(w.slots, w.id[1], 1, NULL), LAM_OK);
        w.credits[1]++;
        settle(&w);
        finish_loads(&w);
        finish_loads(&w);
        for (uint32_t l = 0; l < w.n_leases; l++)
            mine = w.leases[l].session == 1 ? l : mine;
        assert_true(mine != UINT32_MAX);
        do_release(&w, mine);
        settle(&w);
    }
    world_done(&w);
}

/* What an observer is told about a session and the slots, from its first moment on. */
static void what_a_session_waits_for_is_known(void **state)
{
    struct lam_slots_counts counts;
    struct world w;
    uint32_t place;

    (void)state;
    world_init(&w, 10, 0, 3, 100);
    do_open(&w, 0);
    settle(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_NONE);
    assert_int_equal(lam_slots_credit(w.slots, w.id[0], 1, NULL), LAM_OK);
    w.credits[0] = 1;
    settle(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_DISK);
    assert_int_equal(w.place_unit[place], 0);
    lam_slots_count(w.slots, &counts);
    assert_int_equal(counts.slots_loading, 1);
    assert_int_equal(counts.slots_free, 2);
    finish_loads(&w);
    finish_loads(&w);
    assert_int_equal(lam_slots_wait_of(w.slots, w.id[0], &place), LAM_SLOTS_WAIT_WORKER);
    assert_int_equal(place, UINT32_MAX);
    finish_loads(&w);
    lam_slots_count(w.slots, &counts);
    assert_int_equal(counts.slots_held, 1);
    assert_int_equal(counts.slots_ready, 2);
    world_done(&w);
}

static void credits_are_bounded(void **state)
{
    struct world w;
    struct lam_err err = {0};

    (void)state;
    world_init(&w, 3, 0, 1, 1000);
    do_open(&w, 0);
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
    world_init(&w, 3, 7, 0, 1000);
    for (uint32_t i = 0; i < LAM_SLOTS_SESSIONS_MAX; i++)
        assert_int_equal(lam_slots_open(w.slots, &id, &err), LAM_OK);
    assert_int_equal(lam_slots_open(w.slots, &id, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "64 sessions"));
    lam_slots_close(w.slots, 17);
    assert_int_equal(lam_slots_open(w.slots, &id, &err), LAM_OK);
    assert_int_equal(id, 17);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_begin_before_any_session_and_stop_when_full),
        cmocka_unit_test(an_abandoned_pass_is_rewound_without_a_loop),
        cmocka_unit_test(two_sessions_in_phase_share_each_read),
        cmocka_unit_test(a_sleeping_holder_does_not_starve_another),
        cmocka_unit_test(what_a_session_waits_for_is_known),
        cmocka_unit_test(credits_are_bounded),
        cmocka_unit_test(the_65th_session_is_refused),
        cmocka_unit_test(all_interleavings_of_one_session),
        cmocka_unit_test(all_interleavings_of_two_sessions),
        cmocka_unit_test(all_interleavings_with_faults),
        cmocka_unit_test(long_random_runs_with_three_sessions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
