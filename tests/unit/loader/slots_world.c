/* slots_world: see the header. */
#include "tests/unit/loader/slots_world.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static uint32_t n_places(const struct world *w)
{
    return w->layout.n_places;
}

/* ---- memory ---- */

static uint16_t code(uint32_t unit, uint64_t offset)
{
    return (uint16_t)(1 + unit * 64 + offset);
}

static void spoil(struct world *w, uint32_t p, uint64_t begin, uint64_t end)
{
    uint16_t *at = w->content + w->layout_places[p].pool_offset;

    for (uint64_t i = begin; i < end; i++)
        at[i] = 0;
}

static void check_leases(const struct world *w)
{
    for (uint32_t i = 0; i < w->n_leases; i++) {
        const struct world_lease *lease = &w->leases[i];
        const uint16_t *at = w->content + w->layout_places[lease->place].pool_offset;

        for (uint64_t b = 0; b < w->unit_bytes[lease->unit]; b++)
            assert_int_equal(at[b], code(lease->unit, b));
    }
}

static void check(const struct world *w)
{
    if (w->known)
        return;
    lam_slots_check(w->slots);
    check_leases(w);
}

/* ---- actions ---- */

static uint32_t session_of(const struct world *w, uint32_t id)
{
    for (uint32_t s = 0; s < WORLD_SESSIONS; s++) {
        if (w->open[s] && w->id[s] == id)
            return s;
    }
    fail_msg("an action for session %u, which is not open", id);
    return 0;
}

static bool is_in_cycle(const struct world *w, uint32_t s, uint32_t unit)
{
    return (w->cycle[s] >> unit & 1) != 0;
}

/* The first unit of the session behind that one which streams. */
static uint32_t next_transit(const struct world *w, uint32_t s, uint32_t after)
{
    for (uint32_t i = 1; i <= w->layout.n_units; i++) {
        uint32_t u = (after + i) % w->layout.n_units;

        if (!w->kept[u] && is_in_cycle(w, s, u))
            return u;
    }
    return WORLD_NO_UNIT;
}

/* Does somebody go round to it? Without sessions everything is read ahead. */
static bool is_wanted(const struct world *w, uint32_t unit)
{
    bool any = false;

    for (uint32_t s = 0; s < WORLD_SESSIONS; s++) {
        if (w->open[s] && !w->detached[s] && is_in_cycle(w, s, unit))
            return true;
        any = any || w->open[s];
    }
    return !any;
}

static bool is_ahead(const struct world *w, uint32_t p)
{
    return p >= w->layout.n_slots && p < w->layout.n_slots + w->layout.n_ahead;
}

/* What is read ahead of its drive's turn shares no memory, waits for nothing, and takes no place of
 * what was read ahead for somebody who still comes. */
static void check_ahead(struct world *w, const struct lam_slots_action *a)
{
    const struct world_place *place = &w->places[a->place];

    if (!is_ahead(w, a->place))
        return;
    w->n_ahead++;
    assert_true(w->layout.n_drives > 1 && a->late_begin == a->late_end);
    assert_int_equal(a->read_bytes, w->unit_bytes[a->unit]);
    assert_false(place->filled && !place->granted && is_wanted(w, place->unit));
}

static void on_load(struct world *w, const struct lam_slots_action *a)
{
    struct world_place *place = &w->places[a->place];

    assert_true(a->generation > w->last_generation);
    w->last_generation = a->generation;
    assert_false(place->loading);
    assert_true(w->backed[a->place]);
    assert_true(is_wanted(w, a->unit));
    assert_int_equal(a->kept, w->kept[a->unit]);
    assert_int_equal(a->kept, a->place >= w->layout.n_slots + w->layout.n_ahead);
    check_ahead(w, a);
    assert_true(a->late_begin <= a->late_end && a->read_bytes > 0);
    *place = (struct world_place){.unit = a->unit,
        .generation = a->generation,
        .loading = true,
        .gated = a->late_begin < a->late_end,
        .read_bytes = a->read_bytes,
        .late_begin = a->late_begin,
        .late_end = a->late_end < a->read_bytes ? a->late_end : a->read_bytes};
    spoil(w, a->place, 0, place->gated ? place->late_begin : a->read_bytes);
    if (place->gated)
        spoil(w, a->place, place->late_end, a->read_bytes);
    w->n_loads++;
    w->load_bytes += a->read_bytes;
}

static void on_open(struct world *w, const struct lam_slots_action *a)
{
    struct world_place *place = &w->places[a->place];

    assert_true(place->loading && place->gated && place->generation == a->generation);
    assert_false(place->cancelled);
    place->gated = false;
    spoil(w, a->place, place->late_begin, place->late_end);
}

static void on_cancel(struct world *w, const struct lam_slots_action *a)
{
    struct world_place *place = &w->places[a->place];

    assert_true(place->loading && place->gated && place->generation == a->generation);
    assert_false(place->cancelled);
    place->cancelled = true;
    w->n_cancels++;
}

static void on_grant(struct world *w, const struct lam_slots_action *a)
{
    uint32_t s = session_of(w, a->session);

    assert_false(w->detached[s] || w->places[a->place].loading);
    w->places[a->place].granted = true;
    assert_int_equal(w->places[a->place].unit, a->unit);
    assert_int_equal(w->places[a->place].generation, a->generation);
    for (uint32_t i = 0; i < w->n_leases; i++)
        assert_false(w->leases[i].session == s && w->leases[i].unit == a->unit);
    assert_int_equal(a->kept, w->kept[a->unit]);
    assert_true(is_in_cycle(w, s, a->unit));
    if (a->kept) {
        assert_int_equal(w->kept_granted[s] >> a->unit & 1, 0);
        w->kept_granted[s] |= 1u << a->unit;
    } else {
        assert_int_equal(a->unit, w->next_unit[s]);
        assert_true(w->credits[s] > 0);
        w->credits[s]--;
        w->next_unit[s] = next_transit(w, s, a->unit);
    }
    w->leases[w->n_leases++] = (struct world_lease){s, a->unit, a->place, a->generation};
    w->n_grants++;
}

static void on_fault(struct world *w, const struct lam_slots_action *a)
{
    uint32_t s = session_of(w, a->session);

    assert_true(a->status == LAM_DATA_LOSS || a->status == LAM_DEADLINE_EXCEEDED);
    w->n_faults++;
    if (!w->kept[a->unit])
        assert_int_equal(a->unit, w->next_unit[s]); /* and it stays the next one */
}

/* Does a session go round to a kept unit whose place has no memory? */
static bool lacks_a_home(const struct world *w)
{
    uint32_t home = w->layout.n_slots + w->layout.n_ahead;

    for (uint32_t u = 0; u < w->layout.n_units; u++) {
        if (!w->kept[u])
            continue;
        if (!w->backed[home++]) {
            for (uint32_t s = 0; s < WORLD_SESSIONS; s++) {
                if (w->open[s] && !w->detached[s] && is_in_cycle(w, s, u))
                    return true;
            }
        }
    }
    return false;
}

/* Who lacks memory is never forgotten, and what is asked for is of use to somebody. */
static void check_lacks(const struct world *w)
{
    uint32_t p = lam_slots_lacks(w->slots);
    uint32_t home = w->layout.n_slots + w->layout.n_ahead;
    bool of_use = false;

    if (p == UINT32_MAX) {
        assert_false(lacks_a_home(w));
        return;
    }
    assert_false(w->backed[p] || is_ahead(w, p));
    for (uint32_t u = 0; u < w->layout.n_units; u++) {
        bool fits = w->kept[u] ? home == p : p < w->layout.n_slots;

        home += w->kept[u];
        for (uint32_t s = 0; s < WORLD_SESSIONS; s++)
            of_use = of_use || (fits && w->open[s] && !w->detached[s] && is_in_cycle(w, s, u));
    }
    assert_true(of_use);
}

void world_settle(struct world *w)
{
    struct lam_slots_action a;
    uint32_t n_actions = 0;
    struct lam_slots_counts counts;

    check(w);
    while (lam_slots_next(w->slots, &a)) {
        assert_true(++n_actions < 1000);
        if (a.kind == LAM_SLOTS_LOAD)
            on_load(w, &a);
        else if (a.kind == LAM_SLOTS_OPEN)
            on_open(w, &a);
        else if (a.kind == LAM_SLOTS_CANCEL)
            on_cancel(w, &a);
        else if (a.kind == LAM_SLOTS_GRANT)
            on_grant(w, &a);
        else
            on_fault(w, &a);
        check(w);
    }
    lam_slots_count(w->slots, &counts);
    assert_int_equal(counts.leases, w->n_leases);
    assert_int_equal(counts.grants, w->n_grants);
    assert_int_equal(counts.loads, w->n_loads);
    if (!w->known)
        check_lacks(w);
}

/* ---- life ---- */

static void lay_out(struct world *w, const struct world_shape *shape)
{
    struct lam_layout *layout = &w->layout;
    struct lam_place *place = w->layout_places;
    uint64_t at = 0;

    *layout = (struct lam_layout){.align = 1,
        .n_units = shape->n_units,
        .n_lanes = shape->n_lanes,
        .n_ahead = shape->ahead,
        .n_drives = shape->drives != 0 ? 2 : 1,
        .drives = w->drives,
        .part_unit = LAM_POLICY_NO_UNIT,
        .part_bytes = shape->part,
        .kept = w->kept,
        .places = w->layout_places};
    for (uint32_t lane = 0; lane < shape->n_lanes; lane++) {
        *place++ = (struct lam_place){at, WORLD_UNIT_BYTES, lane};
        at += shape->early;
        if (shape->early > 0)
            *place++ = (struct lam_place){at, WORLD_UNIT_BYTES, lane};
        at += WORLD_UNIT_BYTES;
    }
    if (shape->part > 0) {
        for (layout->part_unit = 0; w->kept[layout->part_unit];)
            layout->part_unit++;
        if (layout->part_bytes >= w->unit_bytes[layout->part_unit])
            layout->part_bytes = w->unit_bytes[layout->part_unit] - 1;
        at += layout->part_bytes;
        *place++ = (struct lam_place){at - w->unit_bytes[layout->part_unit],
            w->unit_bytes[layout->part_unit], shape->n_lanes - 1};
    }
    layout->n_slots = (uint32_t)(place - w->layout_places);
    for (uint32_t i = 0; i < shape->ahead; i++, at += WORLD_UNIT_BYTES)
        *place++ = (struct lam_place){at, WORLD_UNIT_BYTES, shape->n_lanes};
    for (uint32_t u = 0; u < shape->n_units; u++) {
        if (!w->kept[u])
            continue;
        *place++ = (struct lam_place){at, w->unit_bytes[u], shape->n_lanes};
        at += w->unit_bytes[u];
        layout->n_kept++;
    }
    layout->n_places = (uint32_t)(place - w->layout_places);
    assert_true(at <= WORLD_POOL_MAX && place <= w->layout_places + WORLD_PLACES_MAX);
}

void world_init(struct world *w, const struct world_shape *shape)
{
    struct lam_slots_config config = {.layout = &w->layout,
        .unit_bytes = w->unit_bytes,
        .n_seats = shape->seats > 0     ? shape->seats
                   : shape->n_lanes > 0 ? shape->n_lanes
                                        : LAM_SLOTS_SESSIONS_MAX,
        .load_bytes_max = shape->loads_max * WORLD_UNIT_BYTES};

    memset(w, 0, sizeof(*w));
    w->n_seats = config.n_seats;
    w->step_bytes = shape->step_bytes;
    w->layout.n_units = shape->n_units;
    for (uint32_t s = 0; s < WORLD_SESSIONS; s++)
        w->cycle[s] = shape->cycles[s] != 0 ? shape->cycles[s] : (1u << shape->n_units) - 1;
    for (uint32_t u = 0; u < shape->n_units; u++) {
        w->kept[u] = (shape->kept >> u & 1) != 0;
        w->drives[u] = shape->drives >> u & 1;
        w->unit_bytes[u] = u % 3 == 2 ? WORLD_UNIT_BYTES / 2 : WORLD_UNIT_BYTES;
    }
    lay_out(w, shape);
    assert_int_equal(lam_slots_create(&config, &w->slots, NULL), LAM_OK);
    world_settle(w);
    assert_int_equal(w->n_loads, 0);
    for (uint32_t p = 0; p < (shape->bare ? 1 : n_places(w)); p++)
        world_back(w, p);
    world_settle(w);
}

void world_done(struct world *w)
{
    lam_slots_destroy(w->slots);
}

/* ---- events ---- */

void world_open(struct world *w, uint32_t s)
{
    uint32_t units[WORLD_UNITS_MAX];
    uint32_t n = 0, n_open = 0;

    for (uint32_t u = 0; u < w->layout.n_units; u++) {
        if (is_in_cycle(w, s, u))
            units[n++] = u;
    }
    for (uint32_t i = 0; i < WORLD_SESSIONS; i++)
        n_open += w->open[i];
    if (n_open == w->n_seats && w->layout.n_kept < w->layout.n_units) {
        assert_int_equal(
            lam_slots_open(w->slots, units, n, &w->id[s], NULL), LAM_RESOURCE_EXHAUSTED);
        return;
    }
    assert_int_equal(lam_slots_open(w->slots, units, n, &w->id[s], NULL), LAM_OK);
    w->open[s] = true;
    w->detached[s] = false;
    w->credits[s] = 0;
    w->kept_granted[s] = 0;
    w->next_unit[s] = next_transit(w, s, w->layout.n_units - 1);
}

void world_detach(struct world *w, uint32_t s)
{
    lam_slots_detach(w->slots, w->id[s]);
    w->detached[s] = true;
    w->credits[s] = 0;
}

void world_close(struct world *w, uint32_t s)
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

void world_credit(struct world *w, uint32_t s, uint32_t n)
{
    assert_int_equal(lam_slots_credit(w->slots, w->id[s], n, NULL), LAM_OK);
    w->credits[s] += n;
}

void world_release(struct world *w, uint32_t lease)
{
    struct world_lease it = w->leases[lease];

    assert_int_equal(
        lam_slots_release(w->slots, w->id[it.session], it.unit, it.generation, NULL), LAM_OK);
    if (!w->kept[it.unit]) /* at a pace that changes */
        lam_slots_pace(w->slots, w->id[it.session], it.generation % 3 * w->step_bytes);
    w->leases[lease] = w->leases[--w->n_leases];
    /* The same release again is stale. */
    assert_int_equal(lam_slots_release(w->slots, w->id[it.session], it.unit, it.generation, NULL),
        LAM_FAILED_PRECONDITION);
}

void world_loaded(struct world *w, uint32_t p, enum lam_status status)
{
    struct world_place *place = &w->places[p];
    uint16_t *at = w->content + w->layout_places[p].pool_offset;

    assert_int_equal(lam_slots_is_stuck(w->slots, p), place->stuck);
    place->loading = place->stuck = false;
    place->filled = status == LAM_OK;
    for (uint64_t b = 0; status == LAM_OK && b < place->read_bytes; b++)
        at[b] = code(place->unit, b);
    if (status != LAM_OK && !place->gated)
        spoil(w, p, 0, place->read_bytes);
    check_leases(w);
    lam_slots_loaded(w->slots, p, place->generation, status);
}

void world_back(struct world *w, uint32_t place)
{
    uint32_t lane = w->layout_places[place].lane;

    for (uint32_t p = 0; p < n_places(w); p++) {
        if (p != place && (lane == w->layout.n_lanes || w->layout_places[p].lane != lane))
            continue;
        w->backed[p] = true;
        lam_slots_back(w->slots, p);
    }
}

void world_expired(struct world *w, uint32_t p)
{
    w->places[p].stuck = true;
    lam_slots_expired(w->slots, p, w->places[p].generation, LAM_DEADLINE_EXCEEDED);
}

bool world_can_end(const struct world *w, uint32_t p)
{
    const struct world_place *place = &w->places[p];

    return place->loading && !place->gated && !place->stuck;
}

bool world_is_idle(const struct world *w)
{
    for (uint32_t p = 0; p < n_places(w); p++) {
        if (w->places[p].loading && !w->places[p].gated)
            return false;
    }
    return true;
}

void world_finish_loads(struct world *w)
{
    for (uint32_t p = 0; p < n_places(w); p++) {
        if (w->places[p].loading)
            lam_slots_issued(w->slots, p, w->places[p].generation);
        if (world_can_end(w, p))
            world_loaded(w, p, LAM_OK);
        else if (w->places[p].loading && w->places[p].cancelled)
            world_loaded(w, p, LAM_CANCELLED);
    }
    world_settle(w);
}

void world_step(struct world *w, uint32_t n_sessions)
{
    world_finish_loads(w);
    for (uint32_t i = w->n_leases; i-- > 0;)
        world_release(w, i);
    for (uint32_t s = 0; s < n_sessions; s++) {
        if (w->open[s] && w->credits[s] == 0)
            world_credit(w, s, 1);
    }
    world_settle(w);
}
