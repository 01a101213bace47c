/*
 * slots_load: what is read next, and where to. See slots.h for the rules.
 *
 * A walk over units ends at the first that is missing and has a place; a walk over places is over a
 * handful of slots, each compared with the others of its lane.
 */
#include <assert.h>

#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

static bool is_awaited(const struct lam_slots *slots, uint32_t unit)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];

        if (lam_slots_is_waiting(slots, session) && session->next == unit)
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
    uint64_t use;

    if (place->state != LAM_PLACE_READY || place->holders != 0)
        return place->state != LAM_PLACE_FREE;
    use = lam_slots_next_use(slots, place->unit);
    return use <= need && use != LAM_SLOTS_NEVER;
}

/* A way to load a unit. */
struct way {
    uint32_t place;
    uint32_t gate;       /* or NOWHERE */
    bool drops;          /* something of no use to any session that is here */
    bool displaces;      /* something useful */
    uint64_t displaced;  /* its next use */
    uint64_t late_begin; /* what place and gate share, from the place's begin */
    uint64_t late_end;
    uint64_t read_bytes;
};

static void displace(const struct lam_slots *slots, struct way *way, uint32_t p)
{
    uint64_t use = lam_slots_next_use(slots, slots->places[p].unit);

    if (use == LAM_SLOTS_NEVER) {
        way->drops = true;
        return;
    }
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
    /* Somebody may sit for ever on what the unit's own place shares with others. */
    bool is_strayed = unit == slots->part_unit && !is_part_place && slots->n_idle > 1;
    struct way way = {.place = p, .gate = NOWHERE, .read_bytes = slots->units[unit].bytes};

    if (!place->backed || (is_part_place != (unit == slots->part_unit) && !is_strayed) ||
        is_busy(slots, place, need))
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

    return lam_slots_next_use(slots, place->unit) + (place->holders != 0 ? 0 : 2 * slots->n_units);
}

/* Of two ways of one rank: displaces the first less, or what is needed later, or is it free sooner?
 */
static bool is_better(const struct lam_slots *slots, const struct way *way, const struct way *other)
{
    if (way->gate != NOWHERE && other->gate != NOWHERE)
        return opens_after(slots, way->gate) < opens_after(slots, other->gate);
    if (!way->displaces)
        return other->drops && !way->drops;
    return way->displaced > other->displaced;
}

/* Smaller is better; NOWHERE: not now. */
static uint32_t rank_of(const struct lam_slots *slots, const struct way *way, bool urgent)
{
    uint32_t lane = slots->places[way->place].lane;
    bool here =
        slots->spread ? lane + slots->counts.sessions > slots->n_resting : lane == slots->lane;

    if (!way->displaces && way->gate == NOWHERE)
        return 0;
    if (way->gate == NOWHERE)
        return here ? 1 : urgent ? 2 : NOWHERE;
    return here ? 3 : urgent ? 4 : NOWHERE;
}

static bool best_way(
    const struct lam_slots *slots, uint32_t unit, uint64_t need, struct way *ret_way)
{
    /* Better to displace something than to let both the drive and a session wait. */
    bool urgent = slots->n_idle > 0 && is_awaited(slots, unit);
    uint32_t best = NOWHERE;
    struct way way;

    for (uint32_t p = 0; p < slots->n_slots; p++) {
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

static bool find_home(
    const struct lam_slots *slots, const struct lam_slots_unit *unit, struct way *ret_way)
{
    if (!slots->places[unit->home].backed || slots->places[unit->home].state != LAM_PLACE_FREE)
        return false;
    *ret_way = (struct way){.place = unit->home, .gate = NOWHERE, .read_bytes = unit->bytes};
    return true;
}

/* The first unit ahead of the session that has to be read and has a place to go. */
static bool first_missing(const struct lam_slots *slots, const struct lam_slots_session *session,
    uint32_t *ret_unit, struct way *ret_way, uint64_t *ret_need)
{
    uint32_t seen = 0; /* transit units on the way: more than there are slots is no look-ahead */
    bool kept_missing = slots->counts.kept_loaded < slots->n_kept;
    uint64_t use = 0;
    uint32_t ahead = lam_slots_find_ahead(slots, &use);
    bool blocked = false;

    for (uint32_t i = 0; i < session->n_cycle; i++) {
        uint32_t u = session->cycle[(session->at + i) % session->n_cycle];
        const struct lam_slots_unit *unit = &slots->units[u];
        uint64_t need;

        seen += !unit->kept && !lam_slots_is_ahead(slots, unit->place);
        if (seen > slots->n_slots && !kept_missing && ahead == NOWHERE)
            return false;
        if (unit->place != NOWHERE || unit->fault != LAM_OK)
            continue;
        need = lam_slots_need_of(slots, session, u);
        if (lam_slots_is_full(slots, unit->drive)) {
            blocked = blocked || !unit->kept;
            continue;
        }
        if (unit->kept) {
            if (!find_home(slots, unit, ret_way))
                continue;
        } else if (blocked || seen > slots->n_slots || !best_way(slots, u, need, ret_way)) {
            blocked = true; /* what comes after it must not take what it waits for */
            if (ahead == NOWHERE || need >= use || unit->drive == slots->units[session->next].drive)
                continue;
            *ret_way = (struct way){.place = ahead, .gate = NOWHERE, .read_bytes = unit->bytes};
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
        .backed = true,
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
    slots->load_bytes[unit->drive] += early;
    slots->counts.loads++;
    if (lam_slots_is_ahead(slots, way->place))
        slots->counts.ahead_loads++;
    else
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

/* A session that wants something read. */
struct want {
    struct lam_slots_session *session;
    uint32_t unit;
    struct way way;
    uint64_t need; /* 0 for all that wait for this very unit */
};

/* The first thing that the session wants read and that has a way. */
static bool find_want(
    const struct lam_slots *slots, struct lam_slots_session *session, struct want *ret_want)
{
    struct want want = {.session = session};

    if (!first_missing(slots, session, &want.unit, &want.way, &want.need))
        return false;
    if (lam_slots_is_waiting(slots, session) && session->next == want.unit)
        want.need = 0;
    *ret_want = want;
    return true;
}

/* Whose turn it is. */
static const struct want *find_turn(const struct want *wants, uint32_t n_wants)
{
    const struct want *turn = &wants[0];

    for (uint32_t i = 1; i < n_wants; i++) {
        if (wants[i].need != turn->need ? wants[i].need < turn->need
                                        : wants[i].session->last_load < turn->session->last_load)
            turn = &wants[i];
    }
    return turn;
}

/* Of those that wait and stream some of what this one does, it included, the one that is fewest
 * units behind: it catches up in the other's turn. */
static const struct want *find_straggler(const struct lam_slots *slots, const struct want *wants,
    uint32_t n_wants, const struct want *turn)
{
    const struct want *best = turn;
    uint32_t least;

    if (turn->need > 0 || !lam_slots_is_waiting(slots, turn->session))
        return turn;
    least = lam_slots_behind(slots, turn->session);
    for (uint32_t i = 0; i < n_wants; i++) {
        uint32_t behind;

        if (wants[i].need > 0 || !lam_slots_is_waiting(slots, wants[i].session) ||
            !lam_slots_share(slots, turn->session, wants[i].session))
            continue;
        behind = lam_slots_behind(slots, wants[i].session);
        if (behind < least) {
            least = behind;
            best = &wants[i];
        }
    }
    return best;
}

/* Nothing new begins before a load that was given up has ended: it would take the place for the
 * sake of which that was done. */
static bool is_cancelling(const struct lam_slots *slots)
{
    for (uint32_t p = 0; p < slots->n_slots; p++) {
        if (slots->places[p].state == LAM_PLACE_LOADING && slots->places[p].cancelled)
            return true;
    }
    return false;
}

static bool are_all_full(const struct lam_slots *slots)
{
    uint32_t d = 0;

    while (d < slots->n_drives && lam_slots_is_full(slots, d))
        d++;
    return d == slots->n_drives;
}

static bool next_begin(struct lam_slots *slots, struct lam_slots_action *ret)
{
    struct want wants[LAM_SLOTS_SESSIONS_MAX + 1];
    const struct want *turn, *best;
    uint32_t n_wants = 0;

    if (slots->n_loads == LAM_SLOTS_LOADS_MAX || is_cancelling(slots) || are_all_full(slots))
        return false;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        struct lam_slots_session *session = &slots->sessions[s];

        if (session->open && !session->detached && find_want(slots, session, &wants[n_wants]))
            n_wants++;
    }
    if (slots->counts.sessions == 0 && find_want(slots, &slots->nobody, &wants[0]))
        n_wants = 1;
    if (n_wants == 0)
        return false;
    turn = find_turn(wants, n_wants);
    best = find_straggler(slots, wants, n_wants, turn);
    begin_load(slots, best->unit, &best->way, ret);
    if (lam_slots_is_ahead(slots, best->way.place))
        return true; /* nobody's turn */
    turn->session->last_load = slots->generation;
    best->session->last_load = slots->generation;
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
        if (is_busy(slots, gate, lam_slots_next_use(slots, place->unit)))
            continue;
        if (gate->state == LAM_PLACE_READY)
            lam_slots_drop(slots, place->gate);
        place->gate = NOWHERE;
        place->pending_bytes += place->late_bytes;
        slots->load_bytes[slots->units[place->unit].drive] += place->late_bytes;
        slots->n_idle = 0;
        *ret = (struct lam_slots_action){.kind = LAM_SLOTS_OPEN,
            .unit = place->unit,
            .place = p,
            .generation = place->generation};
        return true;
    }
    return false;
}

/* Is there a way without a gate for what is loaded behind one, that would be taken? */
static bool has_free_way(const struct lam_slots *slots, const struct lam_slots_place *place)
{
    bool urgent = slots->n_idle > 0 && is_awaited(slots, place->unit);
    struct way way;

    for (uint32_t q = 0; q < slots->n_slots; q++) {
        if (find_way(slots, place->unit, lam_slots_next_use(slots, place->unit), q, &way) &&
            way.gate == NOWHERE && rank_of(slots, &way, urgent) != NOWHERE)
            return true;
    }
    return false;
}

/* What is read to place `at` waits behind somebody's hold, and has no other way; would it have one
 * if the load of place p, which waits for something that nobody holds, were given up? One at a
 * time. */
static bool is_freed_by(const struct lam_slots *slots, uint32_t at, uint32_t p)
{
    const struct lam_slots_place *waiting = &slots->places[at];
    const struct lam_slots_place *gate = &slots->places[slots->places[p].gate];

    return !is_cancelling(slots) && waiting->gate != NOWHERE &&
           slots->places[waiting->gate].holders != 0 && gate->state == LAM_PLACE_READY &&
           gate->holders == 0 &&
           lam_slots_next_use(slots, gate->unit) > lam_slots_next_use(slots, waiting->unit) &&
           !has_free_way(slots, waiting);
}

/* Does a session wait for a unit that is needed before what is loaded in place p, and has no way to
 * be loaded, or only one behind p, or one behind somebody's hold instead of p's? */
static bool is_in_the_way(const struct lam_slots *slots, uint32_t p)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];
        uint32_t u, at;
        struct way way;

        if (!lam_slots_is_waiting(slots, session))
            continue;
        u = session->next;
        at = slots->units[u].place;
        if (slots->units[u].fault != LAM_OK ||
            lam_slots_next_use(slots, u) >= lam_slots_next_use(slots, slots->places[p].unit))
            continue;
        if (at == NOWHERE
                ? !best_way(slots, u, lam_slots_next_use(slots, u), &way)
                : slots->places[at].state == LAM_PLACE_LOADING &&
                      (is_behind(slots, slots->places[at].gate, p) || is_freed_by(slots, at, p)))
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
