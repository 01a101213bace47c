/*
 * slots: see the header for the rules. The state is four tables: units, places, sessions, and the
 * list of the units that are in transit. Walks are short: sessions are few, slots are a handful,
 * and the walk over units ends at the first that needs something.
 */
#include "loader/slots.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "loader/bits.h"

#define NOWHERE UINT32_MAX

enum place_state { FREE, LOADING, READY };

struct place {
    enum place_state state;
    uint32_t unit; /* while not FREE */
    uint64_t generation;
    uint64_t holders; /* bit s: session s */
    bool served;      /* this fill was granted before */
    bool issued;      /* LOADING: all its bytes have been asked for */
};

struct unit {
    bool kept;
    uint64_t bytes;
    uint32_t home;         /* kept: its place; else its index among the transit units */
    uint32_t place;        /* where it is or is being read to, or NOWHERE */
    enum lam_status fault; /* of the last load, until the next try */
};

struct session {
    bool open;
    uint32_t cursor; /* index of the next transit unit to be granted */
    uint32_t credits;
    uint32_t held_slots;
    uint64_t last_load; /* when this session was last served a load: smaller is older */
    uint64_t *told;     /* bitmap of units: kept ones granted, any that were reported failed */
};

struct lam_slots {
    uint32_t n_units, n_slots, n_places, n_kept, n_transit;
    uint32_t n_backed;
    uint32_t n_words;    /* of a bitmap over units */
    uint32_t n_loads;    /* under way */
    uint64_t load_bytes; /* of loads that are not issued */
    uint64_t load_bytes_max;
    uint64_t generation;
    struct unit *units;
    struct place *places;
    uint32_t *transit;    /* [n_transit] unit numbers in pass order */
    uint64_t *kept_known; /* bitmap: kept units that are READY or failed, hence worth telling */
    uint64_t *bitmaps;    /* the storage of all sessions' `told` */
    struct lam_slots_counts counts;
    struct session sessions[LAM_SLOTS_SESSIONS_MAX];
};

static bool is_held_by(const struct place *place, uint32_t session)
{
    return (place->holders >> session & 1) != 0;
}

static const struct session *session_at(const struct lam_slots *slots, uint32_t session)
{
    assert(session < LAM_SLOTS_SESSIONS_MAX && slots->sessions[session].open);
    return &slots->sessions[session];
}

/* What is read when nobody has asked for anything yet: a pass from its start. */
static const struct session nobody = {.credits = 1};

/* Where in the pass the session stands: behind the transit unit that it was granted last. */
static uint32_t position(const struct lam_slots *slots, const struct session *session)
{
    return session->cursor == 0 ? 0 : slots->transit[session->cursor - 1] + 1;
}

static uint32_t count_unheld(const struct lam_slots *slots)
{
    uint32_t n_unheld = 0;

    for (uint32_t p = 0; p < slots->n_slots; p++)
        n_unheld += slots->places[p].holders == 0;
    return n_unheld;
}

/* A session that holds a slot leaves one to others: neither the last unheld one nor, by sharing
 * what others hold, all of them. */
static bool may_take(const struct lam_slots *slots, const struct session *session, bool shared)
{
    return session->held_slots == 0 ||
           (session->held_slots + 1 < slots->n_slots && (shared || count_unheld(slots) > 1));
}

/* How many units ahead of the session `unit` is; a pass more when it cannot be taken now. */
static uint64_t need_of(const struct lam_slots *slots, const struct session *session, uint32_t unit)
{
    uint32_t at = position(slots, session);
    uint64_t ahead = unit >= at ? unit - at : slots->n_units - at + unit;
    bool waits = session->credits > 0 && may_take(slots, session, false);

    return ahead + (waits ? 0 : slots->n_units);
}

/* The soonest need of a unit over all sessions. */
static uint64_t next_use(const struct lam_slots *slots, uint32_t unit)
{
    uint64_t soonest = UINT64_MAX;

    if (slots->counts.sessions == 0)
        return need_of(slots, &nobody, unit);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct session *session = &slots->sessions[s];

        if (session->open && need_of(slots, session, unit) < soonest)
            soonest = need_of(slots, session, unit);
    }
    return soonest;
}

/* ---- grants ---- */

static bool next_kept(struct lam_slots *slots, uint32_t s, struct lam_slots_action *ret)
{
    struct session *session = &slots->sessions[s];

    for (uint32_t w = 0; w < slots->n_words; w++) {
        uint64_t news = slots->kept_known[w] & ~session->told[w];
        uint32_t unit = w * 64 + (news ? (uint32_t)__builtin_ctzll(news) : 0);
        struct place *place;

        if (news == 0)
            continue;
        lam_bit_set(session->told, unit);
        place = &slots->places[slots->units[unit].home];
        *ret = (struct lam_slots_action){.session = s, .unit = unit, .kept = true};
        if (slots->units[unit].fault != LAM_OK) {
            ret->kind = LAM_SLOTS_FAULT;
            ret->status = slots->units[unit].fault;
            return true;
        }
        assert(place->state == READY && place->unit == unit);
        ret->kind = LAM_SLOTS_GRANT;
        ret->place = slots->units[unit].home;
        ret->generation = place->generation;
        place->holders |= (uint64_t)1 << s;
        slots->counts.hits += place->served;
        place->served = true;
        return true;
    }
    return false;
}

static bool next_transit(struct lam_slots *slots, uint32_t s, struct lam_slots_action *ret)
{
    struct session *session = &slots->sessions[s];
    struct place *place;
    struct unit *unit;
    uint32_t u;

    if (session->credits == 0 || slots->n_transit == 0)
        return false;
    u = slots->transit[session->cursor];
    unit = &slots->units[u];
    *ret = (struct lam_slots_action){.session = s, .unit = u, .place = unit->place};
    if (unit->fault != LAM_OK) {
        if (lam_bit_is_set(session->told, u))
            return false;
        lam_bit_set(session->told, u);
        ret->kind = LAM_SLOTS_FAULT;
        ret->status = unit->fault;
        return true;
    }
    if (unit->place == NOWHERE || slots->places[unit->place].state != READY)
        return false;
    place = &slots->places[unit->place];
    if (is_held_by(place, s) || !may_take(slots, session, place->holders != 0))
        return false;
    ret->kind = LAM_SLOTS_GRANT;
    ret->generation = place->generation;
    place->holders |= (uint64_t)1 << s;
    slots->counts.hits += place->served;
    slots->counts.transit_grants++;
    slots->counts.transit_hits += place->served;
    place->served = true;
    session->held_slots++;
    session->credits--;
    session->cursor = (session->cursor + 1) % slots->n_transit;
    return true;
}

static bool next_grant(struct lam_slots *slots, struct lam_slots_action *ret)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        if (!slots->sessions[s].open)
            continue;
        if (next_kept(slots, s, ret) || next_transit(slots, s, ret)) {
            slots->counts.grants += ret->kind == LAM_SLOTS_GRANT;
            return true;
        }
    }
    return false;
}

/* ---- loads ---- */

/* A slot for a unit that is needed in `need` steps: a free one, else that of the latest need after
 * it. */
static uint32_t find_slot(const struct lam_slots *slots, uint64_t need)
{
    uint32_t best = NOWHERE;
    uint64_t best_use = need;

    for (uint32_t p = 0; p < slots->n_slots && p < slots->n_backed; p++) {
        const struct place *place = &slots->places[p];
        uint64_t use;

        if (place->state == FREE)
            return p;
        if (place->state == LOADING || place->holders != 0)
            continue;
        use = next_use(slots, place->unit);
        if (use > best_use) {
            best = p;
            best_use = use;
        }
    }
    return best;
}

/* The first unit ahead of the session that has to be read and has a place to go. */
static bool first_missing(const struct lam_slots *slots, const struct session *session,
    uint32_t *ret_unit, uint32_t *ret_place, uint64_t *ret_need)
{
    uint32_t u = position(slots, session) % slots->n_units;
    uint32_t seen = 0; /* transit units on the way: more than there are slots is no look-ahead */
    bool kept_missing = slots->counts.kept_loaded < slots->n_kept;

    for (uint32_t i = 0; i < slots->n_units; i++, u = u + 1 == slots->n_units ? 0 : u + 1) {
        const struct unit *unit = &slots->units[u];
        uint64_t need = need_of(slots, session, u);
        uint32_t place;

        if (!unit->kept && ++seen > slots->n_slots && !kept_missing)
            return false;
        if (unit->place != NOWHERE || unit->fault != LAM_OK ||
            (!unit->kept && seen > slots->n_slots))
            continue;
        place = unit->kept ? unit->home : find_slot(slots, need);
        if (place == NOWHERE || place >= slots->n_backed)
            continue;
        *ret_unit = u;
        *ret_place = place;
        *ret_need = need;
        return true;
    }
    return false;
}

static void begin_load(
    struct lam_slots *slots, uint32_t u, uint32_t p, struct lam_slots_action *ret)
{
    struct place *place = &slots->places[p];
    struct unit *unit = &slots->units[u];

    assert(place->state != LOADING && place->holders == 0);
    if (place->state == READY) {
        slots->units[place->unit].place = NOWHERE;
        slots->counts.ready_bytes -= slots->units[place->unit].bytes;
    }
    *place = (struct place){.state = LOADING, .unit = u, .generation = ++slots->generation};
    unit->place = p;
    slots->n_loads++;
    slots->load_bytes += unit->bytes;
    slots->counts.loads++;
    *ret = (struct lam_slots_action){.kind = LAM_SLOTS_LOAD,
        .unit = u,
        .place = p,
        .generation = place->generation,
        .kept = unit->kept};
}

static bool next_load(struct lam_slots *slots, struct lam_slots_action *ret)
{
    struct session *best = NULL;
    uint32_t unit = 0, place = 0, u, p;
    uint64_t need = UINT64_MAX, n;

    if (slots->n_loads == LAM_SLOTS_LOADS_MAX ||
        (slots->n_loads > 0 && slots->load_bytes >= slots->load_bytes_max))
        return false;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        struct session *session = &slots->sessions[s];

        if (!session->open || !first_missing(slots, session, &u, &p, &n))
            continue;
        if (best == NULL || n < need || (n == need && session->last_load < best->last_load)) {
            best = session;
            unit = u;
            place = p;
            need = n;
        }
    }
    if (best == NULL &&
        (slots->counts.sessions > 0 || !first_missing(slots, &nobody, &unit, &place, &need)))
        return false;
    begin_load(slots, unit, place, ret);
    if (best != NULL)
        best->last_load = slots->generation;
    return true;
}

bool lam_slots_next(struct lam_slots *slots, struct lam_slots_action *ret_action)
{
    return next_grant(slots, ret_action) || next_load(slots, ret_action);
}

/* ---- events ---- */

void lam_slots_back(struct lam_slots *slots, uint32_t n_places)
{
    assert(n_places >= slots->n_backed && n_places <= slots->n_places);
    slots->n_backed = n_places;
}

enum lam_status lam_slots_open(struct lam_slots *slots, uint32_t *ret_session, struct lam_err *err)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        struct session *session = &slots->sessions[s];

        if (session->open)
            continue;
        *session =
            (struct session){.open = true, .told = slots->bitmaps + (size_t)s * slots->n_words};
        memset(session->told, 0, slots->n_words * sizeof(*session->told));
        slots->counts.sessions++;
        *ret_session = s;
        return LAM_OK;
    }
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "the loader has %u sessions already: end one, or start another loader",
        LAM_SLOTS_SESSIONS_MAX);
}

void lam_slots_close(struct lam_slots *slots, uint32_t session)
{
    lam_ignore(session_at(slots, session) == NULL, "asserts only");
    for (uint32_t p = 0; p < slots->n_places; p++)
        slots->places[p].holders &= ~((uint64_t)1 << session);
    slots->sessions[session].open = false;
    slots->counts.sessions--;
}

enum lam_status lam_slots_credit(
    struct lam_slots *slots, uint32_t session, uint32_t n_units, struct lam_err *err)
{
    uint32_t have = session_at(slots, session)->credits;

    if (n_units > LAM_SLOTS_CREDITS_MAX - have)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%" PRIu32 " credits on top of %" PRIu32 " are more than the maximum of %u", n_units,
            have, LAM_SLOTS_CREDITS_MAX);
    slots->sessions[session].credits += n_units;
    return LAM_OK;
}

enum lam_status lam_slots_release(struct lam_slots *slots, uint32_t session, uint32_t unit,
    uint64_t generation, struct lam_err *err)
{
    uint32_t p = unit < slots->n_units ? slots->units[unit].place : NOWHERE;
    struct place *place;

    lam_ignore(session_at(slots, session) == NULL, "asserts only");
    if (p == NOWHERE || !is_held_by(&slots->places[p], session) ||
        slots->places[p].generation != generation)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "unit %" PRIu32 " is not held in generation %" PRIu64
            ": released twice, or never granted",
            unit, generation);
    place = &slots->places[p];
    place->holders &= ~((uint64_t)1 << session);
    if (p < slots->n_slots)
        slots->sessions[session].held_slots--;
    return LAM_OK;
}

void lam_slots_issued(struct lam_slots *slots, uint32_t p, uint64_t generation)
{
    struct place *place = &slots->places[p];

    assert(p < slots->n_places && place->state == LOADING && place->generation == generation);
    assert(!place->issued);
    place->issued = true;
    slots->load_bytes -= slots->units[place->unit].bytes;
}

uint32_t lam_slots_loaded(
    struct lam_slots *slots, uint32_t p, uint64_t generation, enum lam_status status)
{
    struct place *place = &slots->places[p];
    struct unit *unit;

    assert(p < slots->n_places && place->state == LOADING && place->generation == generation);
    unit = &slots->units[place->unit];
    slots->n_loads--;
    slots->load_bytes -= place->issued ? 0 : unit->bytes;
    if (status == LAM_OK) {
        place->state = READY;
        slots->counts.kept_loaded += unit->kept;
        slots->counts.ready_bytes += unit->bytes;
    } else {
        place->state = FREE;
        unit->place = NOWHERE;
        unit->fault = status;
    }
    if (unit->kept)
        lam_bit_set(slots->kept_known, place->unit);
    return place->unit;
}

uint32_t lam_slots_retry(struct lam_slots *slots)
{
    uint32_t n_faults = 0;

    for (uint32_t u = 0; u < slots->n_units; u++) {
        struct unit *unit = &slots->units[u];

        if (unit->fault == LAM_OK)
            continue;
        n_faults++;
        unit->fault = LAM_OK;
        lam_bit_clear(slots->kept_known, u);
        for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
            if (slots->sessions[s].open)
                lam_bit_clear(slots->sessions[s].told, u);
        }
    }
    return n_faults;
}

bool lam_slots_kept_ready(const struct lam_slots *slots, uint32_t unit, uint32_t *ret_place)
{
    const struct unit *it = &slots->units[unit];

    assert(unit < slots->n_units);
    if (!it->kept || it->place == NOWHERE || slots->places[it->place].state != READY)
        return false;
    *ret_place = it->place;
    return true;
}

void lam_slots_count(const struct lam_slots *slots, struct lam_slots_counts *ret_counts)
{
    struct lam_slots_counts counts = slots->counts;

    for (uint32_t p = 0; p < slots->n_places; p++) {
        const struct place *place = &slots->places[p];
        bool is_slot = p < slots->n_slots;

        counts.leases += (uint32_t)__builtin_popcountll(place->holders);
        counts.slots_free += is_slot && place->state == FREE;
        counts.slots_loading += is_slot && place->state == LOADING;
        counts.slots_ready += is_slot && place->state == READY && place->holders == 0;
        counts.slots_held += is_slot && place->holders != 0;
    }
    *ret_counts = counts;
}

enum lam_slots_wait lam_slots_wait_of(
    const struct lam_slots *slots, uint32_t s, uint32_t *ret_place)
{
    const struct session *session = session_at(slots, s);
    const struct unit *unit;

    *ret_place = NOWHERE;
    if (slots->n_transit == 0)
        return LAM_SLOTS_WAIT_NONE;
    unit = &slots->units[slots->transit[session->cursor]];
    if (unit->place != NOWHERE && slots->places[unit->place].state == READY)
        return LAM_SLOTS_WAIT_WORKER; /* else it would have been granted */
    if (session->credits == 0 || session->held_slots > 0)
        return LAM_SLOTS_WAIT_NONE;
    *ret_place = unit->place;
    return unit->place != NOWHERE || unit->fault != LAM_OK || slots->n_loads > 0
               ? LAM_SLOTS_WAIT_DISK
               : LAM_SLOTS_WAIT_SLOT;
}

static void check_place(const struct lam_slots *slots, uint32_t p)
{
    const struct place *place = &slots->places[p];

    assert(place->generation <= slots->generation);
    assert(place->holders == 0 || place->state == READY);
    if (place->state == FREE)
        return;
    assert(p < slots->n_backed && slots->units[place->unit].place == p);
    assert(slots->units[place->unit].kept == (p >= slots->n_slots));
    for (uint32_t other = 0; other < p; other++)
        assert(slots->places[other].state == FREE || slots->places[other].unit != place->unit);
}

void lam_slots_check(const struct lam_slots *slots)
{
    uint32_t n_loads = 0;

    for (uint32_t p = 0; p < slots->n_places; p++) {
        check_place(slots, p);
        n_loads += slots->places[p].state == LOADING;
    }
    assert(n_loads == slots->n_loads && n_loads <= LAM_SLOTS_LOADS_MAX);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        uint32_t held = 0;

        for (uint32_t p = 0; p < slots->n_slots; p++)
            held += is_held_by(&slots->places[p], s);
        assert(!slots->sessions[s].open || held == slots->sessions[s].held_slots);
        assert(slots->sessions[s].open || held == 0);
    }
}

/* ---- life ---- */

static void fill_tables(struct lam_slots *slots, const struct lam_slots_config *config)
{
    uint32_t n_kept = 0, n_transit = 0;

    for (uint32_t u = 0; u < slots->n_units; u++) {
        struct unit *unit = &slots->units[u];

        unit->kept = config->kept[u];
        unit->bytes = config->unit_bytes[u];
        unit->place = NOWHERE;
        if (unit->kept) {
            unit->home = slots->n_slots + n_kept++;
        } else {
            unit->home = n_transit;
            slots->transit[n_transit++] = u;
        }
    }
}

enum lam_status lam_slots_create(
    const struct lam_slots_config *config, struct lam_slots **ret_slots, struct lam_err *err)
{
    struct lam_slots *slots = lam_calloc(1, sizeof(*slots));

    if (slots == NULL)
        goto fail;
    slots->n_units = config->n_units;
    slots->n_slots = config->n_slots;
    slots->load_bytes_max = config->load_bytes_max;
    for (uint32_t u = 0; u < config->n_units; u++)
        slots->n_kept += config->kept[u];
    slots->n_transit = slots->n_units - slots->n_kept;
    slots->n_places = slots->n_slots + slots->n_kept;
    slots->n_words = (slots->n_units + 63) / 64;
    assert(slots->n_units > 0 && (slots->n_slots > 0 || slots->n_transit == 0));

    slots->units = lam_calloc(slots->n_units, sizeof(*slots->units));
    slots->places = lam_calloc(slots->n_places, sizeof(*slots->places));
    slots->transit = lam_calloc((size_t)slots->n_transit + 1, sizeof(*slots->transit));
    slots->kept_known = lam_calloc(slots->n_words, sizeof(*slots->kept_known));
    slots->bitmaps =
        lam_calloc((size_t)slots->n_words * LAM_SLOTS_SESSIONS_MAX, sizeof(*slots->bitmaps));
    if (slots->units == NULL || slots->places == NULL || slots->transit == NULL ||
        slots->kept_known == NULL || slots->bitmaps == NULL)
        goto fail;
    fill_tables(slots, config);
    *ret_slots = slots;
    return LAM_OK;

fail:
    lam_slots_destroy(slots);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of %" PRIu32 " units",
        config->n_units);
}

void lam_slots_destroy(struct lam_slots *slots)
{
    if (slots == NULL)
        return;
    lam_free(slots->units);
    lam_free(slots->places);
    lam_free(slots->transit);
    lam_free(slots->kept_known);
    lam_free(slots->bitmaps);
    lam_free(slots);
}
