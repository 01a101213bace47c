/*
 * lanes: policy and slots together, on drives and with a worker that are arithmetic. How much of a
 * pass is found in the pool, and how much of the drives' time and the worker's is lost.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <math.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/size.h"
#include "loader/slots.h"
#include "loader/watch.h"
#include "model/scan.h"

/* The plain lane takes budgets in fine steps; a slow sanitizer looks at the memory of some. */
#ifdef __SANITIZE_ADDRESS__
#define STRIDE 4u
#else
#define STRIDE 1u
#endif
#define UNITS_MAX 100
#define ALIGN 4096u

/* One step of time is 0.1 ms, in which each drive reads 200,000 bytes: 2 GB/s. */
#define STEP_BYTES 200000u
#define TURN_STEPS 3u /* from a message of one side to what the other does about it */
#define IDLE_STEPS 20u
#define IDLE_AGAIN_STEPS 2000u

static struct lam_unit units[UNITS_MAX];
static uint64_t unit_bytes[UNITS_MAX];
static uint32_t drives[UNITS_MAX];
static uint32_t n_drives;
static uint32_t late_seed;       /* some releases are late, by chance; 0: none */
static uint64_t nobody_steps;    /* how long the loader reads before the first session */
static const bool *cycle_before; /* of a session that goes round once before the one that is
                                    * looked at; NULL: none */

static void fill_units(uint32_t n, uint64_t bytes)
{
    uint64_t offset = 5000;

    n_drives = 1;
    late_seed = 0;
    nobody_steps = 0;
    cycle_before = NULL;
    memset(drives, 0, sizeof(drives));
    for (uint32_t u = 0; u < n; u++) {
        units[u] = (struct lam_unit){.file_offset = offset, .bytes = bytes};
        unit_bytes[u] = lam_policy_window(&units[u], ALIGN).bytes;
        offset += bytes;
    }
}

struct load {
    bool gated, told;
    uint32_t place, drive;
    uint64_t generation;
    uint64_t early_bytes, late_bytes; /* left to be read */
};

/* A loader and its worker, which computes on one unit at a time, for hold_steps. */
struct world {
    struct lam_layout layout;
    struct lam_slots *slots;
    struct load loads[LAM_SLOTS_LOADS_MAX]; /* oldest first */
    uint32_t n_loads;
    uint64_t bytes_read;
    uint64_t drive_bytes[LAM_SLOTS_DRIVES_MAX];
    uint64_t idle_steps;
    uint32_t session;
    const bool *cycle;    /* NULL: all units */
    bool here[UNITS_MAX]; /* granted, and not released if it is not kept */
    uint64_t generation[UNITS_MAX];
    uint64_t now;           /* step, from 1 on */
    uint32_t at;            /* the unit that is computed on or waited for */
    uint64_t busy_until;    /* step; 0: waits */
    uint64_t release_at[2]; /* messages under way to the loader */
    uint32_t release_unit[2];
    uint32_t n_releases;
    uint32_t chance; /* late_seed, going on */
    struct lam_watch watch;
    uint64_t granted_at[UNITS_MAX];
};

static void act(struct world *w, const struct lam_slots_action *a)
{
    struct load *load;

    switch (a->kind) {
    case LAM_SLOTS_LOAD:
        load = &w->loads[w->n_loads++];
        *load = (struct load){.place = a->place,
            .drive = drives[a->unit],
            .generation = a->generation,
            .gated = a->late_begin < a->late_end};
        if (load->gated)
            load->late_bytes =
                (a->late_end < a->read_bytes ? a->late_end : a->read_bytes) - a->late_begin;
        load->early_bytes = a->read_bytes - load->late_bytes;
        break;
    case LAM_SLOTS_OPEN:
        for (uint32_t i = 0; i < w->n_loads; i++) {
            if (w->loads[i].place != a->place)
                continue;
            w->loads[i].gated = w->loads[i].told = false;
            w->loads[i].early_bytes += w->loads[i].late_bytes;
        }
        break;
    case LAM_SLOTS_CANCEL:
        for (uint32_t i = 0; i < w->n_loads; i++) {
            if (w->loads[i].place != a->place)
                continue;
            memmove(&w->loads[i], &w->loads[i + 1], (w->n_loads - i - 1) * sizeof(*w->loads));
            w->n_loads--;
            lam_slots_loaded(w->slots, a->place, a->generation, LAM_CANCELLED);
        }
        break;
    case LAM_SLOTS_GRANT:
        w->here[a->unit] = true;
        w->granted_at[a->unit] = w->now;
        w->generation[a->unit] = a->generation;
        break;
    case LAM_SLOTS_FAULT:
        fail_msg("nothing fails here");
    }
}

static void settle(struct world *w)
{
    struct lam_slots_action a;

    while (lam_slots_next(w->slots, &a))
        act(w, &a);
}

/* A drive's part of a step: the oldest loads of it that may be read. False: there was none. */
static bool read_some(struct world *w, uint32_t drive)
{
    uint64_t budget = STEP_BYTES;

    for (uint32_t i = 0; i < w->n_loads && budget > 0;) {
        struct load *load = &w->loads[i];
        uint64_t n = load->early_bytes < budget ? load->early_bytes : budget;

        if (load->drive != drive) {
            i++;
            continue;
        }

        load->early_bytes -= n;
        budget -= n;
        w->bytes_read += n;
        w->drive_bytes[drive] += n;
        if (load->early_bytes == 0 && !load->told) {
            load->told = true;
            lam_slots_issued(w->slots, load->place, load->generation);
        }
        if (load->early_bytes > 0 || load->gated) {
            i++;
            continue;
        }
        lam_slots_loaded(w->slots, load->place, load->generation, LAM_OK);
        memmove(load, load + 1, (w->n_loads - i - 1) * sizeof(*load));
        w->n_loads--;
        settle(w);
    }
    return budget < STEP_BYTES;
}

static void read_all(struct world *w)
{
    bool idle = true;

    for (uint32_t d = 0; d < n_drives; d++)
        idle = !read_some(w, d) && idle;
    w->idle_steps = idle ? w->idle_steps + 1 : 0;
    if (w->idle_steps == IDLE_STEPS || w->idle_steps == IDLE_AGAIN_STEPS)
        lam_slots_idle(w->slots);
}

/* A third is late, by up to two reads of a unit: other work has the processor. */
static uint64_t lateness(struct world *w)
{
    if (late_seed == 0)
        return 0;
    w->chance = w->chance * 1664525u + 1013904223u;
    return (w->chance >> 8) % 3 > 0 ? 0 : (w->chance >> 16) % (2 * unit_bytes[0] / STEP_BYTES);
}

/* The bytes that the drive reads in a step of the worker: known, or as the loader finds them. */
static uint64_t pace(struct world *w, uint32_t u, uint64_t hold_steps)
{
    uint64_t steps = 1 + hold_steps;

    if (late_seed != 0)
        steps = lam_watch_step(&w->watch, w->session, w->granted_at[u],
            lam_slots_stride(w->slots, w->session, u), w->now);
    return steps * STEP_BYTES;
}

/* The worker's part. */
static void compute(struct world *w, uint64_t hold_steps)
{
    uint64_t step = w->now++;

    for (uint32_t i = 0; i < w->n_releases && w->release_at[i] <= step;) {
        uint32_t u = w->release_unit[i];

        assert_int_equal(
            lam_slots_release(w->slots, w->session, u, w->generation[u], NULL), LAM_OK);
        assert_int_equal(lam_slots_credit(w->slots, w->session, 1, NULL), LAM_OK);
        lam_slots_pace(w->slots, w->session, pace(w, u, hold_steps));
        w->release_at[i] = w->release_at[--w->n_releases];
        w->release_unit[i] = w->release_unit[w->n_releases];
    }
    if (w->busy_until > step || w->n_releases == 2)
        return;
    if (w->busy_until > 0) {
        if (!w->layout.kept[w->at]) {
            w->here[w->at] = false;
            w->release_at[w->n_releases] = step + TURN_STEPS + lateness(w);
            w->release_unit[w->n_releases++] = w->at;
        }
        do
            w->at = (w->at + 1) % w->layout.n_units;
        while (w->cycle != NULL && !w->cycle[w->at]);
        w->busy_until = 0;
    }
    if (w->here[w->at])
        w->busy_until = step + 1 + hold_steps;
}

struct result {
    double hit_ratio, bound;
    double steps, read_steps, compute_steps; /* of one lap */
    double planned_steps;                    /* of read_steps, by model/scan.h */
    double busiest_steps;  /* of read_steps, what the drive with the most of them reads */
    double streamed_steps; /* what reading each unit once that is not kept takes */
};

static double plan(uint32_t n_units, uint64_t budget, const bool *cycle, uint64_t hold_steps)
{
    struct lam_kept_table table;
    struct lam_kept pool;
    bool kept[UNITS_MAX];
    uint64_t bytes;

    assert_true(lam_kept_table_init(&table, units, n_units, ALIGN));
    lam_kept_table_set_drives(&table, drives, n_drives);
    lam_kept_choose(&table, budget, LAM_KEPT_LANES_WANTED, kept, &pool);
    bytes = lam_scan_disk_bytes(&table, &pool, kept, cycle, (1 + hold_steps) * STEP_BYTES);
    lam_kept_table_done(&table);
    return (double)bytes / STEP_BYTES;
}

static void open_session(struct world *w, uint32_t n_units, const bool *cycle)
{
    uint32_t list[UNITS_MAX];
    size_t n = 0;

    for (uint32_t u = 0; u < n_units; u++)
        if (cycle == NULL || cycle[u])
            list[n++] = u;
    w->cycle = cycle;
    w->at = list[0];
    assert_int_equal(lam_slots_open(w->slots, list, n, &w->session, NULL), LAM_OK);
    assert_int_equal(lam_slots_credit(w->slots, w->session, 3, NULL), LAM_OK);
}

static void step(struct world *w, uint64_t hold_steps)
{
    settle(w);
    read_all(w);
    settle(w);
    compute(w, hold_steps);
}

static void go_round(struct world *w, uint64_t hold_steps)
{
    for (uint32_t before = w->at; w->at >= before;) {
        before = w->at;
        step(w, hold_steps);
    }
}

static void play_before(struct world *w, uint32_t n_units, uint64_t hold_steps)
{
    for (uint64_t i = 0; i < nobody_steps; i++) {
        settle(w);
        read_all(w);
        w->now++;
    }
    if (cycle_before == NULL)
        return;
    open_session(w, n_units, cycle_before);
    go_round(w, hold_steps);
    lam_slots_close(w->slots, w->session);
    memset(w->here, 0, sizeof(w->here));
    w->n_releases = 0;
    w->busy_until = 0;
}

/* Laps are counted from the third on. cycle: the units that the session goes round, NULL: all. */
static struct result run_cycle(
    uint32_t n_units, uint64_t budget, const bool *cycle, uint64_t hold_steps)
{
    const uint32_t warm = 2, laps = 3;
    struct world w = {.now = 1, .chance = late_seed};
    struct lam_slots_config config = {.n_seats = 1,
        .layout = &w.layout,
        .unit_bytes = unit_bytes,
        .load_bytes_max = 32 * LAM_MIB};
    struct lam_policy_request request = {.units = units,
        .n_units = n_units,
        .align = ALIGN,
        .budget_bytes = budget,
        .lanes_wanted = LAM_KEPT_LANES_WANTED,
        .drives = drives,
        .n_drives = n_drives};
    uint64_t full = lam_policy_bytes_full(units, n_units, ALIGN);
    uint64_t start_step = 0, start_bytes = 0;
    struct result result;

    assert_int_equal(lam_policy_layout(&request, &w.layout, NULL), LAM_OK);
    assert_int_equal(lam_slots_create(&config, &w.slots, NULL), LAM_OK);
    assert_int_equal(lam_watch_init(&w.watch, w.layout.n_slots, w.layout.n_places, NULL), LAM_OK);
    for (uint32_t p = 0; p < w.layout.n_places; p++)
        lam_slots_back(w.slots, p);
    play_before(&w, n_units, hold_steps);
    open_session(&w, n_units, cycle);
    for (uint32_t lap = 0; lap < warm + laps; lap++) {
        if (lap == warm) {
            start_step = w.now;
            start_bytes = w.bytes_read;
            memset(w.drive_bytes, 0, sizeof(w.drive_bytes));
        }
        go_round(&w, hold_steps);
    }
    lam_slots_check(w.slots);
    result.hit_ratio = 1 - (double)(w.bytes_read - start_bytes) / (double)full / laps;
    result.bound = ((double)budget * n_units / (double)full - 1) / n_units;
    result.steps = (double)(w.now - start_step) / laps;
    result.read_steps = (double)(w.bytes_read - start_bytes) / laps / STEP_BYTES;
    result.busiest_steps = 0;
    for (uint32_t d = 0; d < n_drives; d++) {
        double steps = (double)w.drive_bytes[d] / laps / STEP_BYTES;

        result.busiest_steps = steps > result.busiest_steps ? steps : result.busiest_steps;
    }
    result.streamed_steps = 0;
    for (uint32_t u = 0; u < n_units; u++)
        result.streamed_steps += w.layout.kept[u] ? 0 : (double)unit_bytes[u] / STEP_BYTES;
    result.compute_steps = (double)((1 + hold_steps) * n_units);
    result.planned_steps = plan(n_units, budget, cycle, hold_steps);
    lam_watch_done(&w.watch);
    lam_slots_destroy(w.slots);
    lam_layout_done(&w.layout);
    return result;
}

static struct result run(uint32_t n_units, uint64_t budget, uint64_t hold_steps)
{
    return run_cycle(n_units, budget, NULL, hold_steps);
}

/* A worker that is never the reason to wait finds what the memory can hold, all but one unit. */
static void hits_are_what_the_memory_allows(void **state)
{
    static const uint32_t counts[] = {24, 33, 81};

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        uint64_t full;

        fill_units(counts[i], 5000000000u / counts[i]);
        full = lam_policy_bytes_full(units, counts[i], ALIGN);
        for (uint32_t percent = 20; percent < 97; percent += 4 * STRIDE) {
            struct result r = run(counts[i], full * percent / 100, 0);

            if (r.hit_ratio < r.bound - 0.01)
                fail_msg("%u units, %u %%: %.4f of at most %.4f", counts[i], percent, r.hit_ratio,
                    r.bound);
        }
    }
}

/* Also beside other work, which makes a third of the releases late. Units used to stream through
 * more lanes after a few such, and through fewer again: what lay in the lanes was read again. */
static void late_releases_cost_no_hits(void **state)
{
    (void)state;
    for (uint32_t percent = 25; percent < 97; percent += 10) {
        for (uint32_t seed = 1; seed <= 5; seed++) {
            struct result r;

            fill_units(44, 25000000);
            late_seed = seed;
            r = run(44, lam_policy_bytes_full(units, 44, ALIGN) * percent / 100, 0);
            if (r.hit_ratio < r.bound - 0.01)
                fail_msg(
                    "%u %%, seed %u: %.4f of at most %.4f", percent, seed, r.hit_ratio, r.bound);
        }
    }
}

/* And hardly any of the drive's time is lost behind gates. */
static void a_fast_worker_keeps_the_drive_busy(void **state)
{
    (void)state;
    fill_units(33, 150000000);
    for (uint32_t percent = 20; percent < 97; percent += 15 * STRIDE) {
        struct result r = run(33, 33 * 1500000ull * percent, 0);

        if (r.steps > 1.02 * r.read_steps)
            fail_msg("%u %%: %.0f steps, of which it read %.0f", percent, r.steps, r.read_steps);
    }
}

/* Reading a unit takes 750 steps. A worker that computes for long has its next unit read meanwhile,
 * whatever of the two takes longer. */
static void reading_and_computing_overlap(void **state)
{
    (void)state;
    fill_units(33, 150000000);
    for (uint32_t percent = 20; percent < 97; percent += 25 * STRIDE) {
        for (uint64_t hold = 50; hold < 1600; hold = hold * 3 / 2) {
            struct result r = run(33, 33 * 1500000ull * percent, hold);
            double least = r.read_steps > r.compute_steps ? r.read_steps : r.compute_steps;

            /* Waiting a little at each is chosen where that is less than reading one unit more. */
            if (r.steps > 1.1 * least && r.steps > least + 750)
                fail_msg("%u %%, %u steps each: %.0f steps, not %.0f (read %.0f)", percent,
                    (unsigned)hold, r.steps, least, r.read_steps);
        }
    }
}

/* While the drive is the limit, what the plan says is read, for any cycle. */
static void what_is_read_is_what_was_planned(void **state)
{
    bool cycle[UNITS_MAX];

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t n_units = 18 + 7 * i;
        uint64_t budget;

        fill_units(n_units, 2000000000u / n_units);
        for (uint32_t u = 0; u < n_units; u++)
            cycle[u] = i % 2 == 0 || u % (2 + i) != 1;
        for (uint32_t percent = 15; percent < 97; percent += 16 * STRIDE) {
            budget = lam_policy_bytes_full(units, n_units, ALIGN) * percent / 100;
            for (uint64_t hold = 0; hold < 400; hold = hold * 3 / 2 + 5) {
                struct result r = run_cycle(n_units, budget, cycle, hold);

                if (r.compute_steps > 0.8 * r.read_steps)
                    break;
                if (fabs(r.read_steps - r.planned_steps) > 0.005 * r.planned_steps + 8)
                    fail_msg("%u units, %u %%, %u steps each: read %.0f, planned %.0f", n_units,
                        percent, (unsigned)hold, r.read_steps, r.planned_steps);
            }
        }
    }
}

/*
 * The same where the session finds what others left in the lanes. A GPU worker first takes the
 * units that stay in its device, and goes round the others from then on: what lay in the lanes that
 * rest was of no use to it any more and stayed there, so each pass read up to two units more than
 * was planned. An H100 with 10.7 GB for 16.1 GB took 1.99 s for a pass and not 1.75.
 */
static void what_others_left_is_read_over(void **state)
{
    bool before[UNITS_MAX], cycle[UNITS_MAX];

    (void)state;
    for (uint32_t n_units = 18; n_units < 60; n_units += 13) {
        for (uint32_t every = 3; every < 12; every += 2) {
            for (uint32_t units_before = 0; units_before < n_units; units_before += 3 * STRIDE) {
                struct result r;

                fill_units(n_units, 2000000000u / n_units);
                for (uint32_t u = 0; u < n_units; u++) {
                    before[u] = u % every == every / 2;
                    cycle[u] = !before[u];
                }
                cycle_before = before;
                nobody_steps = units_before * unit_bytes[0] / STEP_BYTES;
                r = run_cycle(
                    n_units, lam_policy_bytes_full(units, n_units, ALIGN) * 2 / 3, cycle, 5);
                if (r.read_steps > 1.005 * r.planned_steps + 8)
                    fail_msg("%u units, each %u. before, %u read by then: read %.0f, planned %.0f",
                        n_units, every, units_before, r.read_steps, r.planned_steps);
            }
        }
    }
}

/* ---- several drives ---- */

/* n_units in runs of that many, on each drive in turn. */
static void fill_runs(uint32_t n_units, uint64_t bytes, uint32_t run, uint32_t n)
{
    fill_units(n_units, bytes);
    n_drives = n;
    for (uint32_t u = 0; u < n_units; u++)
        drives[u] = u / run % n;
}

/* A pass takes hardly longer than the drive with the most to read needs for it, once the pool has
 * room for what this takes; read one after the other they would need twice as long. */
static void both_drives_read_all_the_time(void **state)
{
    static const struct {
        uint32_t run, percent_min; /* of the model in the pool */
    } cases[] = {{40, 30}, {10, 20}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        for (uint32_t percent = cases[i].percent_min; percent < 85; percent += 10 * STRIDE) {
            struct result r;

            fill_runs(80, 50000000, cases[i].run, 2);
            r = run(80, 80 * 500000ull * percent, 0);
            if (r.steps > 1.1 * r.busiest_steps)
                fail_msg("runs of %u, %u %%: %.0f steps, of which one drive read %.0f",
                    cases[i].run, percent, r.steps, r.busiest_steps);
            if (r.read_steps > 1.15 * 2 * r.busiest_steps || r.read_steps < r.busiest_steps)
                fail_msg("runs of %u, %u %%: %.0f steps of reading for both, %.0f for one",
                    cases[i].run, percent, r.read_steps, r.busiest_steps);
        }
    }
}

/* Memory for reading ahead is taken from what is kept: with both drives a pass is never slower than
 * from one drive that has all units, whatever the pool. */
static void several_drives_are_not_slower_than_one(void **state)
{
    (void)state;
    for (uint32_t percent = 10; percent < 97; percent += 20 * STRIDE) {
        for (uint32_t n = 2; n <= 4; n++) {
            struct result one, several;

            fill_units(60, 50000000);
            one = run(60, 60 * 500000ull * percent, 0);
            fill_runs(60, 50000000, 60 / n, n);
            several = run(60, 60 * 500000ull * percent, 0);
            if (several.steps > one.steps)
                fail_msg("%u drives, %u %%: %.0f steps, but %.0f with one", n, percent,
                    several.steps, one.steps);
        }
    }
}

/* What is read ahead is of use: no unit is read twice in a pass, whoever waits for whom. */
static void nothing_is_read_ahead_in_vain(void **state)
{
    (void)state;
    for (uint64_t hold = 0; hold <= 800; hold += 200) {
        struct result r;

        fill_runs(40, 50000000, 20, 2);
        r = run(40, 40 * 200000ull * 100, hold);
        if (r.read_steps > r.streamed_steps * 1.01)
            fail_msg("%u steps each: read %.0f, not %.0f", (unsigned)hold, r.read_steps,
                r.streamed_steps);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hits_are_what_the_memory_allows),
        cmocka_unit_test(late_releases_cost_no_hits),
        cmocka_unit_test(a_fast_worker_keeps_the_drive_busy),
        cmocka_unit_test(reading_and_computing_overlap),
        cmocka_unit_test(what_is_read_is_what_was_planned),
        cmocka_unit_test(what_others_left_is_read_over),
        cmocka_unit_test(both_drives_read_all_the_time),
        cmocka_unit_test(several_drives_are_not_slower_than_one),
        cmocka_unit_test(nothing_is_read_ahead_in_vain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
