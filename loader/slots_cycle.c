/*
 * slots_cycle: in which order a session takes units, how far it is from each, and where two
 * sessions meet. See slots.h for the rules.
 *
 * A cycle is a list of units and its inverse, the rank of each unit in it. Distances are counted in
 * steps of a session's own cycle: that is what it has to take before it needs a unit.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "loader/bits.h"
#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

enum lam_status lam_slots_check_cycle(
    const struct lam_slots *slots, const uint32_t *units, size_t n_units, struct lam_err *err)
{
    if (n_units > slots->n_units)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "a cycle of %zu units is longer than the model, which has %" PRIu32, n_units,
            slots->n_units);
    for (size_t i = 0; i < n_units; i++) {
        if (units[i] >= slots->n_units)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "no unit %" PRIu32 " for a cycle: the model has %" PRIu32 ", from 0", units[i],
                slots->n_units);
        if (i > 0 && units[i] <= units[i - 1])
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "unit %" PRIu32 " comes after unit %" PRIu32
                " in a cycle: give each once, in ascending order",
                units[i], units[i - 1]);
    }
    return LAM_OK;
}

/* The first transit unit of the cycle from that index on, round and round, or NOWHERE. */
static uint32_t transit_from(
    const struct lam_slots *slots, const struct lam_slots_session *session, uint32_t from)
{
    for (uint32_t i = 0; i < session->n_cycle; i++) {
        uint32_t u = session->cycle[(from + i) % session->n_cycle];

        if (!slots->units[u].kept)
            return u;
    }
    return NOWHERE;
}

void lam_slots_begin_cycle(const struct lam_slots *slots, struct lam_slots_session *session,
    const uint32_t *units, size_t n_units)
{
    uint32_t n = n_units == 0 ? slots->n_pass : (uint32_t)n_units;

    for (uint32_t u = 0; u < slots->n_units; u++)
        session->rank[u] = NOWHERE;
    memset(session->told, 0xff, slots->n_words * sizeof(*session->told));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u = n_units == 0 ? i : units[i];

        session->cycle[i] = u;
        session->rank[u] = i;
        lam_bit_clear(session->told, u);
    }
    session->n_cycle = n;
    session->at = 0;
    session->next = transit_from(slots, session, 0);
}

uint32_t lam_slots_step(const struct lam_slots *slots, struct lam_slots_session *session)
{
    uint32_t rank = session->rank[session->next];
    bool wraps;

    session->next = transit_from(slots, session, rank + 1);
    wraps = session->rank[session->next] <= rank;
    session->at = wraps ? 0 : rank + 1;
    return session->rank[session->next] + (wraps ? session->n_cycle : 0) - rank;
}

uint32_t lam_slots_stride(const struct lam_slots *slots, uint32_t s, uint32_t unit)
{
    const struct lam_slots_session *session = &slots->sessions[s];
    uint32_t n = 1;

    assert(session->rank[unit] != NOWHERE && !slots->units[unit].kept);
    while (
        slots
            ->units[session->cycle[(session->rank[unit] + session->n_cycle - n) % session->n_cycle]]
            .kept)
        n++;
    return n;
}

uint64_t lam_slots_need_of(
    const struct lam_slots *slots, const struct lam_slots_session *session, uint32_t unit)
{
    uint32_t rank = session->rank[unit];
    bool waits = session->credits > 0 && lam_slots_may_take(slots, session);

    if (rank == NOWHERE)
        return LAM_SLOTS_NEVER;
    return (uint64_t)rank + (rank < session->at ? session->n_cycle : 0) - session->at +
           (waits ? 0 : slots->n_units);
}

uint64_t lam_slots_next_use(const struct lam_slots *slots, uint32_t unit)
{
    uint64_t soonest = LAM_SLOTS_NEVER;

    if (slots->counts.sessions == 0)
        return lam_slots_need_of(slots, &slots->nobody, unit);
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];

        if (session->open && !session->detached &&
            lam_slots_need_of(slots, session, unit) < soonest)
            soonest = lam_slots_need_of(slots, session, unit);
    }
    return soonest;
}

bool lam_slots_is_waiting(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    return session->open && session->credits > 0 && session->next != NOWHERE &&
           (session->held_slots == 0 || slots->n_idle > 1);
}

/* The first unit that `other` streams from now on and `session` streams too, or NOWHERE. */
static uint32_t meeting_of(const struct lam_slots *slots, const struct lam_slots_session *session,
    const struct lam_slots_session *other)
{
    for (uint32_t i = 0; i < other->n_cycle; i++) {
        uint32_t u = other->cycle[(other->rank[other->next] + i) % other->n_cycle];

        if (!slots->units[u].kept && session->rank[u] != NOWHERE)
            return u;
    }
    return NOWHERE;
}

bool lam_slots_share(const struct lam_slots *slots, const struct lam_slots_session *a,
    const struct lam_slots_session *b)
{
    return meeting_of(slots, a, b) != NOWHERE;
}

/* How many units that both stream lie before the session and ahead of that one. */
static uint32_t common_until(const struct lam_slots *slots, const struct lam_slots_session *session,
    const struct lam_slots_session *other, uint32_t meeting)
{
    uint32_t n = 0;

    for (uint32_t i = session->rank[session->next]; session->cycle[i] != meeting;
         i = (i + 1) % session->n_cycle)
        n += !slots->units[session->cycle[i]].kept && other->rank[session->cycle[i]] != NOWHERE;
    return n;
}

uint32_t lam_slots_behind(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    uint32_t least = slots->n_units;

    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *other = &slots->sessions[s];
        uint32_t meeting, n;

        if (other == session || !lam_slots_is_waiting(slots, other))
            continue;
        meeting = meeting_of(slots, session, other);
        if (meeting == NOWHERE || meeting == session->next)
            continue;
        n = common_until(slots, session, other, meeting);
        least = n < least ? n : least;
    }
    return least;
}
