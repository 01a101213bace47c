/*
 * slots_ahead: what drives read while it is another one's turn. See slots.h for the rules.
 *
 * The places ahead share no memory with others and are never needed for anything else, so a load
 * into one is decided by itself: no gate, no lane, nothing to be given up for it.
 */
#include <assert.h>

#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

bool lam_slots_is_full(const struct lam_slots *slots, uint32_t drive)
{
    return slots->load_bytes[drive] > 0 && slots->load_bytes[drive] >= slots->load_bytes_max;
}

bool lam_slots_is_ahead(const struct lam_slots *slots, uint32_t place)
{
    return place >= slots->n_slots && place - slots->n_slots < slots->n_ahead;
}

/* Does the session wait for something that is not on its way? */
static bool is_stuck(const struct lam_slots *slots, const struct lam_slots_session *session)
{
    const struct lam_slots_unit *unit;

    if (!lam_slots_is_waiting(slots, session))
        return false;
    unit = &slots->units[session->next];
    if (unit->place == NOWHERE)
        return unit->fault == LAM_OK && !lam_slots_is_full(slots, unit->drive);
    return slots->places[unit->place].state == LAM_PLACE_LOADING &&
           slots->places[unit->place].gate != NOWHERE;
}

/* Half of all loads are left to the drives whose turn it is. */
static bool may_read_ahead(const struct lam_slots *slots)
{
    if (slots->n_ahead == 0 || slots->n_loads >= LAM_SLOTS_LOADS_MAX / 2)
        return false;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        if (is_stuck(slots, &slots->sessions[s]))
            return false;
    }
    return true;
}

/* Until when something in the place may be of use that what is there is not; 0: never. */
static uint64_t room_in(const struct lam_slots *slots, const struct lam_slots_place *place)
{
    uint64_t use;

    if (!place->backed)
        return 0;
    if (place->state == LAM_PLACE_FREE)
        return LAM_SLOTS_NEVER;
    if (place->state != LAM_PLACE_READY || place->holders != 0)
        return 0;
    use = lam_slots_next_use(slots, place->unit);
    return place->served || use == LAM_SLOTS_NEVER ? use : 0;
}

uint32_t lam_slots_find_ahead(const struct lam_slots *slots, uint64_t *ret_use)
{
    uint32_t best = NOWHERE;
    uint64_t latest = 0;

    if (!may_read_ahead(slots))
        return NOWHERE;
    for (uint32_t i = 0; i < slots->n_ahead; i++) {
        uint64_t use = room_in(slots, &slots->places[slots->n_slots + i]);

        if (use > latest) {
            best = slots->n_slots + i;
            latest = use;
        }
    }
    *ret_use = latest;
    return best;
}
