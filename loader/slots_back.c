/*
 * slots_back: which places have memory, and which is to get it next. See slots.h for the rules.
 *
 * A machine may take seconds to give memory, and a session may begin with units whose places lie at
 * the end of the pool: what it needs first comes first.
 */
#include <assert.h>

#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

void lam_slots_back(struct lam_slots *slots, uint32_t place)
{
    assert(place < slots->n_places);
    slots->places[place].backed = true;
}

/* The first place of the lanes without memory, or NOWHERE. */
static uint32_t bare_slot(const struct lam_slots *slots)
{
    for (uint32_t p = 0; p < slots->n_slots; p++) {
        if (!slots->places[p].backed)
            return p;
    }
    return NOWHERE;
}

/* The place without memory that the session needs first, and in how many steps; or NOWHERE. slot:
 * what units that stream have to take. */
static uint32_t lacked_by(const struct lam_slots *slots, const struct lam_slots_session *session,
    uint32_t slot, uint64_t *ret_need)
{
    for (uint32_t i = 0; i < session->n_cycle; i++) {
        uint32_t u = session->cycle[(session->at + i) % session->n_cycle];
        const struct lam_slots_unit *unit = &slots->units[u];
        uint32_t p = unit->kept ? unit->home : slot;

        if (unit->place != NOWHERE || unit->fault != LAM_OK || p == NOWHERE ||
            slots->places[p].backed)
            continue;
        *ret_need = lam_slots_need_of(slots, session, u);
        return p;
    }
    return NOWHERE;
}

uint32_t lam_slots_lacks(const struct lam_slots *slots)
{
    const struct lam_slots_session *first = NULL;
    uint32_t slot = bare_slot(slots), best = NOWHERE;
    uint64_t soonest = 0;

    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        const struct lam_slots_session *session = &slots->sessions[s];
        uint64_t need = 0;
        uint32_t p = NOWHERE;

        if (session->open && !session->detached)
            p = lacked_by(slots, session, slot, &need);
        if (p == NOWHERE ||
            (first != NULL &&
                (need != soonest ? need > soonest : session->last_load >= first->last_load)))
            continue;
        first = session;
        soonest = need;
        best = p;
    }
    return best;
}
