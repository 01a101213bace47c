/*
 * slots: see the header for the rules. The state is three tables: units, places, sessions. Here are
 * the events and the grants; slots_load.c has what is read next, slots_cycle.c who needs what when.
 */
#include "loader/slots.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "loader/bits.h"
#include "loader/slots_impl.h"
#include "model/scan.h"

#define NOWHERE LAM_SLOTS_NOWHERE

static bool is_held_by(const struct lam_slots_place *place, uint32_t session)
{
    return (place->holders >> session & 1) != 0;
}

static const struct lam_slots_session *session_at(const struct lam_slots *slots, uint32_t session)
{
    assert(session < LAM_SLOTS_SESSIONS_MAX && slots->sessions[session].open);
    return &slots->sessions[session];
}

bool lam_slots_may_take(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    uint32_t n_open = slots->counts.sessions;
    uint32_t taken = slots->n_seats - n_open; /* for those that may still come */

    if (session->held_slots == 0)
        return true;
    if (session->held_slots + 1 > (slots->n_lanes - 1) / n_open)
        return false;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *it = &slots->sessions[s];

        if (it->open)
            taken += it->held_slots > 0 || it->detached ? it->held_slots : 1;
    }
    return taken < slots->n_lanes;
}

/* ---- grants ---- */

static bool next_kept(struct lam_slots *slots, uint32_t s, struct lam_slots_action *ret)
{
    struct lam_slots_session *session = &slots->sessions[s];

    for (uint32_t w = 0; w < slots->n_words; w++) {
        uint64_t news = slots->kept_known[w] & ~session->told[w];
        uint32_t unit = w * 64 + (news ? (uint32_t)__builtin_ctzll(news) : 0);
        struct lam_slots_place *place;

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
        assert(place->state == LAM_PLACE_READY && place->unit == unit);
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
    struct lam_slots_session *session = &slots->sessions[s];
    struct lam_slots_place *place;
    struct lam_slots_unit *unit;
    uint32_t u;

    u = session->next;
    if (session->credits == 0 || u == NOWHERE)
        return false;
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
    if (unit->place == NOWHERE || slots->places[unit->place].state != LAM_PLACE_READY)
        return false;
    place = &slots->places[unit->place];
    if (is_held_by(place, s) || !lam_slots_may_take(slots, session))
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
    slots->counts.steps += lam_slots_step(slots, session);
    return true;
}

static bool next_grant(struct lam_slots *slots, struct lam_slots_action *ret)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        if (!slots->sessions[s].open || slots->sessions[s].detached)
            continue;
        if (next_kept(slots, s, ret) || next_transit(slots, s, ret)) {
            slots->counts.grants += ret->kind == LAM_SLOTS_GRANT;
            return true;
        }
    }
    return false;
}

bool lam_slots_next(struct lam_slots *slots, struct lam_slots_action *ret_action)
{
    return next_grant(slots, ret_action) || lam_slots_next_load(slots, ret_action);
}

/* ---- events ---- */

/* The arrays are those of place `index` in their storage. */
static void init_session(struct lam_slots *slots, struct lam_slots_session *session, uint32_t index)
{
    *session = (struct lam_slots_session){.told = slots->bitmaps + (size_t)index * slots->n_words,
        .cycle = slots->cycles + (size_t)index * 2 * slots->n_units,
        .rank = slots->cycles + ((size_t)index * 2 + 1) * slots->n_units};
}

enum lam_status lam_slots_open(struct lam_slots *slots, const uint32_t *units, size_t n_units,
    uint32_t *ret_session, struct lam_err *err)
{
    enum lam_status status = lam_slots_check_cycle(slots, units, n_units, err);

    if (status != LAM_OK)
        return status;
    if (slots->n_transit > 0 && slots->counts.sessions == slots->n_seats)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "the loader has memory to stream for %" PRIu32 " workers at a time, and they are here: "
            "start it with --workers %" PRIu32 ", or with a larger --ram",
            slots->n_seats, slots->n_seats + 1);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        struct lam_slots_session *session = &slots->sessions[s];

        if (session->open)
            continue;
        init_session(slots, session, s);
        lam_slots_begin_cycle(slots, session, units, n_units);
        session->open = true;
        slots->counts.sessions++;
        *ret_session = s;
        return LAM_OK;
    }
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "the loader has %u sessions already: end one, or start another loader",
        LAM_SLOTS_SESSIONS_MAX);
}

void lam_slots_detach(struct lam_slots *slots, uint32_t session)
{
    lam_ignore(session_at(slots, session) == NULL, "asserts only");
    slots->sessions[session].detached = true;
    slots->sessions[session].credits = 0;
}

void lam_slots_close(struct lam_slots *slots, uint32_t session)
{
    lam_ignore(session_at(slots, session) == NULL, "asserts only");
    for (uint32_t p = 0; p < slots->n_places; p++) {
        slots->places[p].holders &= ~((uint64_t)1 << session);
    }
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
    struct lam_slots_place *place;

    lam_ignore(session_at(slots, session) == NULL, "asserts only");
    if (p == NOWHERE || !is_held_by(&slots->places[p], session) ||
        slots->places[p].generation != generation)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "unit %" PRIu32 " is not held in generation %" PRIu64
            ": released twice, or never granted",
            unit, generation);
    place = &slots->places[p];
    place->holders &= ~((uint64_t)1 << session);
    if (!slots->units[unit].kept)
        slots->sessions[session].held_slots--;
    return LAM_OK;
}

void lam_slots_idle(struct lam_slots *slots)
{
    slots->n_idle++;
}

/* Is there a session with nothing to stream in common with this one? */
static bool has_stranger(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *it = &slots->sessions[s];

        if (it->open && it->next != NOWHERE && !lam_slots_share(slots, session, it))
            return true;
    }
    return false;
}

void lam_slots_pace(struct lam_slots *slots, uint32_t s, uint64_t step_bytes)
{
    const struct lam_slots_session *session = session_at(slots, s);
    struct lam_scan scan = {.n_units = session->n_cycle,
        .n_lanes = slots->n_lanes,
        .slot_bytes = slots->slot_bytes,
        .early_bytes = slots->early_bytes,
        .part_bytes = slots->part_bytes,
        .step_bytes = step_bytes};
    uint32_t n_lanes;

    for (uint32_t i = 0; i < session->n_cycle; i++)
        scan.n_transit += !slots->units[session->cycle[i]].kept;
    n_lanes = lam_scan_lanes(&scan);
    slots->spread = n_lanes > 1 || has_stranger(slots, session);
    slots->n_resting = slots->n_lanes - n_lanes;
}

static struct lam_slots_place *load_at(
    const struct lam_slots *slots, uint32_t p, uint64_t generation)
{
    struct lam_slots_place *place = &slots->places[p];

    assert(p < slots->n_places && place->generation == generation);
    assert(place->state == LAM_PLACE_LOADING || place->state == LAM_PLACE_STUCK);
    return place;
}

static void forget_pending(struct lam_slots *slots, struct lam_slots_place *place)
{
    slots->load_bytes[slots->units[place->unit].drive] -= place->pending_bytes;
    place->pending_bytes = 0;
}

void lam_slots_issued(struct lam_slots *slots, uint32_t p, uint64_t generation)
{
    forget_pending(slots, load_at(slots, p, generation));
}

static void fail_unit(
    struct lam_slots *slots, struct lam_slots_place *place, enum lam_status status)
{
    struct lam_slots_unit *unit = &slots->units[place->unit];

    unit->place = NOWHERE;
    if (status == LAM_CANCELLED)
        return;
    unit->fault = status;
    if (unit->kept)
        lam_bit_set(slots->kept_known, place->unit);
    if (place->unit == slots->part_unit)
        slots->part_valid = false; /* who knows which part was wrong */
}

uint32_t lam_slots_loaded(
    struct lam_slots *slots, uint32_t p, uint64_t generation, enum lam_status status)
{
    struct lam_slots_place *place = load_at(slots, p, generation);
    struct lam_slots_unit *unit = &slots->units[place->unit];

    slots->n_loads--;
    if (place->state == LAM_PLACE_STUCK) {
        place->state = LAM_PLACE_FREE;
        return place->unit;
    }
    forget_pending(slots, place);
    if (status != LAM_OK) {
        place->state = LAM_PLACE_FREE;
        fail_unit(slots, place, status);
        return place->unit;
    }
    assert(place->gate == NOWHERE);
    place->state = LAM_PLACE_READY;
    slots->counts.kept_loaded += unit->kept && place->unit < slots->n_pass;
    slots->counts.ready_bytes += unit->bytes;
    if (unit->kept)
        lam_bit_set(slots->kept_known, place->unit);
    if (place->unit == slots->part_unit && p + 1 == slots->n_slots)
        slots->part_valid = true;
    return place->unit;
}

uint32_t lam_slots_expired(
    struct lam_slots *slots, uint32_t p, uint64_t generation, enum lam_status status)
{
    struct lam_slots_place *place = load_at(slots, p, generation);

    assert(place->state == LAM_PLACE_LOADING && status != LAM_OK);
    forget_pending(slots, place);
    place->state = LAM_PLACE_STUCK;
    fail_unit(slots, place, status);
    return place->unit;
}

bool lam_slots_is_stuck(const struct lam_slots *slots, uint32_t place)
{
    return slots->places[place].state == LAM_PLACE_STUCK;
}

uint32_t lam_slots_retry(struct lam_slots *slots)
{
    uint32_t n_faults = 0;

    for (uint32_t u = 0; u < slots->n_units; u++) {
        struct lam_slots_unit *unit = &slots->units[u];

        if (unit->fault == LAM_OK)
            continue;
        n_faults++;
        unit->fault = LAM_OK;
        lam_bit_clear(slots->kept_known, u);
        for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
            if (slots->sessions[s].open && slots->sessions[s].rank[u] != NOWHERE)
                lam_bit_clear(slots->sessions[s].told, u);
        }
    }
    return n_faults;
}

bool lam_slots_kept_ready(const struct lam_slots *slots, uint32_t unit, uint32_t *ret_place)
{
    const struct lam_slots_unit *it = &slots->units[unit];

    assert(unit < slots->n_units);
    if (!it->kept || it->place == NOWHERE || slots->places[it->place].state != LAM_PLACE_READY)
        return false;
    *ret_place = it->place;
    return true;
}

/* A lane is what most hinders its use: held, then being read to, then ready. */
static void count_lane(
    const struct lam_slots *slots, uint32_t lane, struct lam_slots_counts *counts)
{
    bool held = false, loading = false, ready = false;

    for (uint32_t p = 0; p < slots->n_slots; p++) {
        const struct lam_slots_place *place = &slots->places[p];

        if (place->lane != lane || place->state == LAM_PLACE_FREE)
            continue;
        held = held || place->holders != 0;
        loading = loading || place->state != LAM_PLACE_READY;
        ready = true;
    }
    counts->slots_held += held;
    counts->slots_loading += !held && loading;
    counts->slots_ready += !held && !loading && ready;
    counts->slots_free += !ready;
}

void lam_slots_count(const struct lam_slots *slots, struct lam_slots_counts *ret_counts)
{
    struct lam_slots_counts counts = slots->counts;

    for (uint32_t p = 0; p < slots->n_places; p++)
        counts.leases += (uint32_t)__builtin_popcountll(slots->places[p].holders);
    for (uint32_t lane = 0; lane < slots->n_lanes; lane++)
        count_lane(slots, lane, &counts);
    *ret_counts = counts;
}

enum lam_slots_wait lam_slots_wait_of(
    const struct lam_slots *slots, uint32_t s, uint32_t *ret_place)
{
    const struct lam_slots_session *session = session_at(slots, s);
    const struct lam_slots_unit *unit;

    *ret_place = NOWHERE;
    if (session->next == NOWHERE)
        return LAM_SLOTS_WAIT_NONE;
    unit = &slots->units[session->next];
    if (unit->place != NOWHERE && slots->places[unit->place].state == LAM_PLACE_READY)
        return LAM_SLOTS_WAIT_WORKER; /* else it would have been granted */
    if (session->credits == 0 || session->held_slots > 0)
        return LAM_SLOTS_WAIT_NONE;
    *ret_place = unit->place;
    return unit->place != NOWHERE || unit->fault != LAM_OK || slots->n_loads > 0
               ? LAM_SLOTS_WAIT_DISK
               : LAM_SLOTS_WAIT_SLOT;
}

/* Is a's load not to touch what it shares with b? */
static bool waits_for(const struct lam_slots_place *a, uint32_t b)
{
    return (a->state == LAM_PLACE_LOADING || a->state == LAM_PLACE_STUCK) && a->gate == b;
}

static void check_place(const struct lam_slots *slots, uint32_t p)
{
    const struct lam_slots_place *place = &slots->places[p];

    assert(place->generation <= slots->generation);
    assert(place->holders == 0 || place->state == LAM_PLACE_READY);
    if (place->state == LAM_PLACE_FREE)
        return;
    assert(place->backed);
    assert(slots->units[place->unit].place == p || place->state == LAM_PLACE_STUCK);
    assert(slots->units[place->unit].kept == (p >= slots->n_slots + slots->n_ahead));
    assert(p < slots->n_slots || (place->gate == NOWHERE && place->late_bytes == 0));
    for (uint32_t other = 0; other < p; other++) {
        const struct lam_slots_place *it = &slots->places[other];

        if (it->state == LAM_PLACE_FREE)
            continue;
        assert(it->unit != place->unit || it->state == LAM_PLACE_STUCK ||
               place->state == LAM_PLACE_STUCK);
        assert(!lam_slots_overlap(slots, p, place->unit, other) || waits_for(place, other) ||
               waits_for(it, p));
    }
}

void lam_slots_check(const struct lam_slots *slots)
{
    uint32_t n_loads = 0;
    uint64_t load_bytes[LAM_SLOTS_DRIVES_MAX] = {0};

    for (uint32_t p = 0; p < slots->n_places; p++) {
        check_place(slots, p);
        n_loads += slots->places[p].state == LAM_PLACE_LOADING ||
                   slots->places[p].state == LAM_PLACE_STUCK;
        if (slots->places[p].pending_bytes > 0)
            load_bytes[slots->units[slots->places[p].unit].drive] += slots->places[p].pending_bytes;
    }
    assert(memcmp(load_bytes, slots->load_bytes, sizeof(load_bytes)) == 0);
    assert(n_loads == slots->n_loads && n_loads <= LAM_SLOTS_LOADS_MAX);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        uint32_t held = 0;

        for (uint32_t p = 0; p < slots->n_slots + slots->n_ahead; p++)
            held += is_held_by(&slots->places[p], s);
        assert(!slots->sessions[s].open || held == slots->sessions[s].held_slots);
        assert(slots->sessions[s].open || held == 0);
    }
}

/* ---- life ---- */

static void fill_tables(struct lam_slots *slots, const struct lam_slots_config *config)
{
    uint32_t n_kept = 0;

    for (uint32_t p = 0; p < slots->n_places; p++) {
        slots->places[p].begin = config->layout->places[p].pool_offset;
        slots->places[p].bytes = config->layout->places[p].bytes;
        slots->places[p].lane = config->layout->places[p].lane;
        slots->places[p].gate = NOWHERE;
    }
    if (slots->n_slots > 0)
        slots->slot_bytes = slots->places[0].bytes;
    if (slots->n_slots > 1 && slots->places[1].lane == slots->places[0].lane)
        slots->early_bytes = slots->places[1].begin - slots->places[0].begin;
    for (uint32_t u = 0; u < slots->n_units; u++) {
        struct lam_slots_unit *unit = &slots->units[u];

        unit->kept = config->layout->kept[u];
        unit->drive = config->layout->drives != NULL ? config->layout->drives[u] : 0;
        assert(unit->drive < slots->n_drives);
        unit->bytes = config->unit_bytes[u];
        unit->place = NOWHERE;
        if (unit->kept)
            unit->home = slots->n_slots + slots->n_ahead + n_kept++;
    }
    init_session(slots, &slots->nobody, LAM_SLOTS_SESSIONS_MAX);
    slots->nobody.credits = 1;
    lam_slots_begin_cycle(slots, &slots->nobody, NULL, 0);
}

enum lam_status lam_slots_create(
    const struct lam_slots_config *config, struct lam_slots **ret_slots, struct lam_err *err)
{
    const struct lam_layout *layout = config->layout;
    struct lam_slots *slots = lam_calloc(1, sizeof(*slots));

    if (slots == NULL)
        goto fail;
    slots->n_units = layout->n_units;
    slots->n_pass = layout->n_units - layout->has_table;
    slots->n_lanes = layout->n_lanes;
    slots->n_slots = layout->n_slots;
    slots->n_ahead = layout->n_ahead;
    slots->n_drives = layout->n_drives;
    slots->n_kept = layout->n_kept;
    slots->n_seats = config->n_seats;
    slots->part_unit = layout->part_unit == LAM_POLICY_NO_UNIT ? NOWHERE : layout->part_unit;
    slots->part_bytes = layout->part_bytes;
    slots->load_bytes_max = config->load_bytes_max;
    slots->n_transit = slots->n_units - slots->n_kept;
    slots->n_places = layout->n_places;
    slots->n_words = (slots->n_units + 63) / 64;
    assert(slots->n_places == slots->n_slots + slots->n_ahead + slots->n_kept);
    assert(slots->n_drives > 0 && slots->n_drives <= LAM_SLOTS_DRIVES_MAX);
    assert(slots->n_units > 0 && (slots->n_slots > 0 || slots->n_transit == 0));
    assert(slots->n_transit == 0 || (slots->n_seats > 0 && slots->n_seats <= slots->n_lanes));

    slots->units = lam_calloc(slots->n_units, sizeof(*slots->units));
    slots->places = lam_calloc(slots->n_places, sizeof(*slots->places));
    slots->kept_known = lam_calloc(slots->n_words, sizeof(*slots->kept_known));
    slots->bitmaps =
        lam_calloc((size_t)slots->n_words * (LAM_SLOTS_SESSIONS_MAX + 1), sizeof(*slots->bitmaps));
    slots->cycles = lam_calloc(
        (size_t)slots->n_units * 2 * (LAM_SLOTS_SESSIONS_MAX + 1), sizeof(*slots->cycles));
    if (slots->units == NULL || slots->places == NULL || slots->kept_known == NULL ||
        slots->bitmaps == NULL || slots->cycles == NULL)
        goto fail;
    fill_tables(slots, config);
    *ret_slots = slots;
    return LAM_OK;

fail:
    lam_slots_destroy(slots);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of %" PRIu32 " units",
        layout->n_units);
}

void lam_slots_destroy(struct lam_slots *slots)
{
    if (slots == NULL)
        return;
    lam_free(slots->units);
    lam_free(slots->places);
    lam_free(slots->kept_known);
    lam_free(slots->bitmaps);
    lam_free(slots->cycles);
    lam_free(slots);
}
