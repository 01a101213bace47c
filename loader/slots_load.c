/*
 * slots_load: what is read next, and where to. See slots.h for the rules.
 *
 * A walk over units ends at the first that is missing and has a place; a walk over places is over a
 * handful of slots, each compared with the others of its lane.
 */
#include <assert.h>

#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

/* What is read when nobody has asked for anything yet: a pass from its start. */
static const struct lam_slots_session nobody = {.credits = 1};

/* ---- needs ---- */

/* Where in the pass the session stands: behind the transit unit that it was granted last. */
static uint32_t position(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    return session->cursor == 0 ? 0 : slots->transit[session->cursor - 1] + 1;
}

/* How many units ahead of the session `unit` is; a pass more when it cannot be taken now. */
static uint64_t need_of(
    const struct lam_slots *slots, const struct lam_slots_session *session, uint32_t unit)
{
    uint32_t at = position(slots, session);
    uint64_t ahead = unit >= at ? unit - at : slots->n_units - at + unit;
    bool waits = session->credits > 0 && lam_slots_may_take(slots, session);

    return ahead + (waits ? 0 : slots->n_units);
}

/* The soonest need of a unit over all sessions. */
static uint64_t next_use(const struct lam_slots *slots, uint32_t unit)
{
    uint64_t soonest = UINT64_MAX;

    if (slots->counts.sessions == 0)
        return need_of(slots, &nobody, unit);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];

        if (session->open && !session->detached && need_of(slots, session, unit) < soonest)
            soonest = need_of(slots, session, unit);
    }
    return soonest;
}

/* Would the session go on at once if its next unit were there? One that holds another may be busy
 * with it: only when nothing has moved for long does it count as waiting for both. */
static bool is_waiting(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    return session->open && session->credits > 0 && slots->n_transit > 0 &&
           (session->held_slots == 0 || slots->n_idle > 1);
}

static bool is_awaited(const struct lam_slots *slots, uint32_t unit)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];

        if (is_waiting(slots, session) && slots->transit[session->cursor] == unit)
            return true;
    }
    return false;
}

/* ---- places ---- */

bool lam_slots_overlap(const struct lam_slots *slots, uint32_t place, uint32_t unit, uint32_t other)
{
    const struct lam_slots_place *a = &slots->places[place];
    const struct lam_slots_place *b = &slots->places[other];

    return b->state != LAM_PLACE_FREE && a->begin < b->begin + slots->units[b->unit].bytes &&
           b->begin < a->begin + slots->units[unit].bytes;
}

/* May what is in the place not be displaced by something with this need? */
static bool is_busy(
    const struct lam_slots *slots, const struct lam_slots_place *place, uint64_t need)
{
    if (place->state == LAM_PLACE_READY)
        return place->holders != 0 || next_use(slots, place->unit) <= need;
    return place->state != LAM_PLACE_FREE;
}

/* A way to load a unit. */
struct way {
    uint32_t place;
    uint32_t gate;       /* or NOWHERE */
    bool displaces;      /* something useful */
    uint64_t displaced;  /* its next use */
    uint64_t late_begin; /* what place and gate share, from the place's begin */
    uint64_t late_end;
    uint64_t read_bytes;
};

static void displace(const struct lam_slots *slots, struct way *way, uint32_t p)
{
    uint64_t use = next_use(slots, slots->places[p].unit);

    if (!way->displaces || use < way->displaced)
        way->displaced = use;
    way->displaces = true;
}

/* Bytes that can be read while the gate is shut. */
static uint64_t early_of(const struct way *way)
{
    uint64_t end = way->late_end < way->read_bytes ? way->late_end : way->read_bytes;

    return way->read_bytes - (end > way->late_begin ? end - way->late_begin : 0);
}

static void set_late(const struct lam_slots *slots, struct way *way, uint32_t unit)
{
    const struct lam_slots_place *place = &slots->places[way->place];
    const struct lam_slots_place *gate = &slots->places[way->gate];
    uint64_t gate_end = gate->begin + slots->units[gate->unit].bytes;
    uint64_t bytes = slots->units[unit].bytes;

    way->late_begin = gate->begin > place->begin ? gate->begin - place->begin : 0;
    way->late_end = gate_end - place->begin < bytes ? gate_end - place->begin : bytes;
}

/* Is `place` the gate, or the gate of what is loaded there, and so on? */
static bool is_behind(const struct lam_slots *slots, uint32_t gate, uint32_t place)
{
    while (gate != NOWHERE && gate != place)
        gate = slots->places[gate].state == LAM_PLACE_LOADING ? slots->places[gate].gate : NOWHERE;
    return gate == place;
}

/* Can `unit`, needed in `need` steps, be loaded into place p? Then *ret_way is how. */
static bool find_way(
    const struct lam_slots *slots, uint32_t unit, uint64_t need, uint32_t p, struct way *ret_way)
{
    const struct lam_slots_place *place = &slots->places[p];
    bool is_part_place = slots->part_unit != NOWHERE && p == slots->n_slots - 1;
    struct way way = {.place = p, .gate = NOWHERE, .read_bytes = slots->units[unit].bytes};

    if (is_part_place != (unit == slots->part_unit) || is_busy(slots, place, need))
        return false;
    if (is_part_place && slots->part_valid)
        way.read_bytes -= slots->part_bytes;
    if (place->state == LAM_PLACE_READY)
        displace(slots, &way, p);
    for (uint32_t q = 0; q < slots->n_slots; q++) {
        if (q == p || !lam_slots_overlap(slots, p, unit, q))
            continue;
        if (!is_busy(slots, &slots->places[q], need)) {
            displace(slots, &way, q);
            continue;
        }
        if (way.gate != NOWHERE || slots->places[q].state == LAM_PLACE_STUCK ||
            is_behind(slots, q, p))
            return false;
        way.gate = q;
    }
    if (way.gate != NOWHERE) {
        set_late(slots, &way, unit);
        if (early_of(&way) == 0)
            return false;
    }
    *ret_way = way;
    return true;
}

/* Gates open in the order of these: what is held first, and earlier in the pass. */
static uint64_t opens_after(const struct lam_slots *slots, uint32_t gate)
{
    const struct lam_slots_place *place = &slots->places[gate];

    return next_use(slots, place->unit) + (place->holders != 0 ? 0 : 2 * slots->n_units);
}

/* Of two ways of one rank: displaces the first what is needed later, or is it free sooner? */
static bool is_better(const struct lam_slots *slots, const struct way *way, const struct way *other)
{
    if (way->gate != NOWHERE && other->gate != NOWHERE)
        return opens_after(slots, way->gate) < opens_after(slots, other->gate);
    return way->displaces && way->displaced > other->displaced;
}

/* Smaller is better; NOWHERE: not now. */
static uint32_t rank_of(const struct lam_slots *slots, const struct way *way, bool urgent)
{
    bool here = slots->places[way->place].lane == slots->lane;

    if (!way->displaces && way->gate == NOWHERE)
        return 0;
    if (slots->spread)
        return way->gate == NOWHERE ? 1 : 2;
    if (here)
        return way->gate == NOWHERE ? 1 : 2;
    return urgent ? way->gate == NOWHERE ? 3 : 4 : NOWHERE;
}

static bool best_way(
    const struct lam_slots *slots, uint32_t unit, uint64_t need, struct way *ret_way)
{
    /* Better to displace something than to let both the drive and a session wait. */
    bool urgent = slots->n_idle > 0 && is_awaited(slots, unit);
    uint32_t best = NOWHERE;
    struct way way;

    for (uint32_t p = 0; p < slots->n_slots && p < slots->n_backed; p++) {
        uint32_t rank;

        if (!find_way(slots, unit, need, p, &way))
            continue;
        rank = rank_of(slots, &way, urgent);
        if (rank < best || (rank == best && rank != NOWHERE && is_better(slots, &way, ret_way))) {
            best = rank;
            *ret_way = way;
        }
    }
    return best != NOWHERE;
}

/* ---- loads ---- */

/* The first unit ahead of the session that has to be read and has a place to go. */
static bool first_missing(const struct lam_slots *slots, const struct lam_slots_session *session,
    uint32_t *ret_unit, struct way *ret_way, uint64_t *ret_need)
{
    uint32_t u = position(slots, session) % slots->n_units;
    uint32_t seen = 0; /* transit units on the way: more than there are slots is no look-ahead */
    bool kept_missing = slots->counts.kept_loaded < slots->n_kept;
    bool blocked = false;

    for (uint32_t i = 0; i < slots->n_units; i++, u = u + 1 == slots->n_units ? 0 : u + 1) {
        const struct lam_slots_unit *unit = &slots->units[u];
        uint64_t need = need_of(slots, session, u);

        if (!unit->kept && ++seen > slots->n_slots && !kept_missing)
            return false;
        if (unit->place != NOWHERE || unit->fault != LAM_OK ||
            (!unit->kept && (blocked || seen > slots->n_slots)))
            continue;
        if (unit->kept) {
            if (unit->home >= slots->n_backed || slots->places[unit->home].state != LAM_PLACE_FREE)
                continue;
            *ret_way =
                (struct way){.place = unit->home, .gate = NOWHERE, .read_bytes = unit->bytes};
        } else if (!best_way(slots, u, need, ret_way)) {
            blocked = true; /* what comes after it must not take what it waits for */
            continue;
        }
        *ret_unit = u;
        *ret_need = need;
        return true;
    }
    return false;
}

void lam_slots_drop(struct lam_slots *slots, uint32_t p)
{
    struct lam_slots_place *place = &slots->places[p];

    assert(place->state == LAM_PLACE_READY && place->holders == 0);
    slots->units[place->unit].place = NOWHERE;
    slots->counts.ready_bytes -= slots->units[place->unit].bytes;
    place->state = LAM_PLACE_FREE;
}

static void begin_load(
    struct lam_slots *slots, uint32_t u, const struct way *way, struct lam_slots_action *ret)
{
    struct lam_slots_place *place = &slots->places[way->place];
    struct lam_slots_unit *unit = &slots->units[u];
    uint64_t early = early_of(way);

    if (place->state == LAM_PLACE_READY)
        lam_slots_drop(slots, way->place);
    assert(place->state == LAM_PLACE_FREE);
    for (uint32_t q = 0; way->place < slots->n_slots && q < slots->n_slots; q++) {
        if (q != way->place && q != way->gate && lam_slots_overlap(slots, way->place, u, q))
            lam_slots_drop(slots, q);
    }
    *place = (struct lam_slots_place){.begin = place->begin,
        .bytes = place->bytes,
        .lane = place->lane,
        .state = LAM_PLACE_LOADING,
        .unit = u,
        .generation = ++slots->generation,
        .pending_bytes = early,
        .gate = way->gate,
        .late_bytes = way->read_bytes - early};
    unit->place = way->place;
    if (place->lane < slots->n_lanes && (way->displaces || way->gate != NOWHERE))
        slots->lane = place->lane;
    slots->n_loads++;
    slots->load_bytes += early;
    slots->counts.loads++;
    slots->n_idle = 0;
    *ret = (struct lam_slots_action){.kind = LAM_SLOTS_LOAD,
        .unit = u,
        .place = way->place,
        .generation = place->generation,
        .kept = unit->kept,
        .read_bytes = way->read_bytes,
        .late_begin = way->late_begin,
        .late_end = way->late_end};
}

/* How many units the session is behind the next one that stands elsewhere and takes part; a pass if
 * there is none. */
static uint32_t behind(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    uint32_t at = position(slots, session);
    uint32_t least = slots->n_units;

    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *other = &slots->sessions[s];
        uint32_t there;

        if (!is_waiting(slots, other) || other->cursor == session->cursor)
            continue;
        there = position(slots, other);
        there = there >= at ? there - at : slots->n_units - at + there;
        least = there < least ? there : least;
    }
    return least;
}

/* A session that wants something read. */
struct want {
    struct lam_slots_session *session; /* NULL: none */
    uint32_t unit;
    struct way way;
    uint64_t need; /* 0 for all that wait for this very unit */
};

static bool is_sooner(const struct lam_slots *slots, const struct want *a, const struct want *b)
{
    uint32_t behind_a, behind_b;

    if (b->session == NULL || a->need != b->need)
        return b->session == NULL || a->need < b->need;
    behind_a = a->need == 0 ? behind(slots, a->session) : 0;
    behind_b = b->need == 0 ? behind(slots, b->session) : 0;
    if (behind_a != behind_b)
        return behind_a < behind_b;
    return a->session->last_load < b->session->last_load;
}

/* The first thing that the session wants read and that has a way. */
static bool find_want(
    const struct lam_slots *slots, struct lam_slots_session *session, struct want *ret_want)
{
    struct want want = {.session = session};

    if (!first_missing(slots, session, &want.unit, &want.way, &want.need))
        return false;
    if (is_waiting(slots, session) && slots->transit[session->cursor] == want.unit)
        want.need = 0;
    *ret_want = want;
    return true;
}

static bool next_begin(struct lam_slots *slots, struct lam_slots_action *ret)
{
    struct want best = {.session = NULL}, want;

    if (slots->n_loads == LAM_SLOTS_LOADS_MAX ||
        (slots->load_bytes > 0 && slots->load_bytes >= slots->load_bytes_max))
        return false;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        struct lam_slots_session *session = &slots->sessions[s];

        if (session->open && !session->detached && find_want(slots, session, &want) &&
            is_sooner(slots, &want, &best))
            best = want;
    }
    if (best.session == NULL &&
        (slots->counts.sessions > 0 ||
            !first_missing(slots, &nobody, &best.unit, &best.way, &best.need)))
        return false;
    begin_load(slots, best.unit, &best.way, ret);
    if (best.session != NULL)
        best.session->last_load = slots->generation;
    return true;
}

/* ---- gates ---- */

static bool next_open(struct lam_slots *slots, struct lam_slots_action *ret)
{
    for (uint32_t p = 0; p < slots->n_slots; p++) {
        struct lam_slots_place *place = &slots->places[p];
        struct lam_slots_place *gate;

        if (place->state != LAM_PLACE_LOADING || place->gate == NOWHERE || place->cancelled)
            continue;
        gate = &slots->places[place->gate];
        if (is_busy(slots, gate, next_use(slots, place->unit)))
            continue;
        if (gate->state == LAM_PLACE_READY)
            lam_slots_drop(slots, place->gate);
        place->gate = NOWHERE;
        place->pending_bytes += place->late_bytes;
        slots->load_bytes += place->late_bytes;
        slots->n_idle = 0;
        *ret = (struct lam_slots_action){.kind = LAM_SLOTS_OPEN,
            .unit = place->unit,
            .place = p,
            .generation = place->generation};
        return true;
    }
    return false;
}

/* Is there a way without a gate for what is loaded behind one? */
static bool has_free_way(const struct lam_slots *slots, const struct lam_slots_place *place)
{
    struct way way;

    for (uint32_t q = 0; q < slots->n_slots && q < slots->n_backed; q++) {
        if (find_way(slots, place->unit, next_use(slots, place->unit), q, &way) &&
            way.gate == NOWHERE)
            return true;
    }
    return false;
}

/* Does a session wait for a unit that is needed before what is loaded in place p, and has no way to
 * be loaded, or only one behind p? */
static bool is_in_the_way(const struct lam_slots *slots, uint32_t p)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];
        uint32_t u, at;
        struct way way;

        if (!is_waiting(slots, session))
            continue;
        u = slots->transit[session->cursor];
        at = slots->units[u].place;
        if (slots->units[u].fault != LAM_OK ||
            next_use(slots, u) >= next_use(slots, slots->places[p].unit))
            continue;
        if (at == NOWHERE ? !best_way(slots, u, next_use(slots, u), &way)
                          : slots->places[at].state == LAM_PLACE_LOADING &&
                                is_behind(slots, slots->places[at].gate, p))
            return true;
    }
    return false;
}

/* A gate that keeps the drive idle is given up when there is a way without one, for a session that
 * waits, or because units spread by now; and when it shuts out what is needed sooner. */
static bool next_cancel(struct lam_slots *slots, struct lam_slots_action *ret)
{
    for (uint32_t p = 0; p < slots->n_slots && slots->n_idle > 0; p++) {
        struct lam_slots_place *place = &slots->places[p];

        if (place->state != LAM_PLACE_LOADING || place->gate == NOWHERE || place->cancelled)
            continue;
        if (!is_in_the_way(slots, p) &&
            !((slots->spread || is_awaited(slots, place->unit)) && has_free_way(slots, place)))
            continue;
        place->cancelled = true;
        *ret = (struct lam_slots_action){.kind = LAM_SLOTS_CANCEL,
            .unit = place->unit,
            .place = p,
            .generation = place->generation};
        return true;
    }
    return false;
}

/* Units stream through the last lane, which the part place shares, unless somebody sits in it. */
static void settle_lane(struct lam_slots *slots)
{
    uint32_t last = slots->n_lanes - 1;

    for (uint32_t p = 0; p < slots->n_slots; p++) {
        if (slots->places[p].lane == last && slots->places[p].holders != 0)
            return;
    }
    slots->lane = last;
}

bool lam_slots_next_load(struct lam_slots *slots, struct lam_slots_action *ret)
{
    settle_lane(slots);
    return next_open(slots, ret) || next_cancel(slots, ret) || next_begin(slots, ret);
}
