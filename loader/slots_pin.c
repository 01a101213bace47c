/*
 * slots_pin: units that are to be kept, whatever the policy chose. See slots.h for the rules. What
 * is kept changes between sessions only: a session holds the kept units for as long as it lives.
 */
#include <assert.h>
#include <inttypes.h>

#include "loader/slots_impl.h"

#define NOWHERE LAM_SLOTS_NOWHERE

static enum lam_status check_unit(const struct lam_slots *slots, uint32_t unit, struct lam_err *err)
{
    if (unit < slots->n_units)
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "no unit %" PRIu32 ": the model has %" PRIu32 ", from 0", unit, slots->n_units);
}

static uint32_t distance(uint32_t a, uint32_t b)
{
    return a > b ? a - b : b - a;
}

/* The kept unit whose place the other shall have, or NOWHERE. */
static uint32_t find_victim(const struct lam_slots *slots, uint32_t unit)
{
    uint32_t best = NOWHERE;

    for (uint32_t v = 0; v < slots->n_units; v++) {
        const struct lam_slots_unit *it = &slots->units[v];

        if (!it->kept || it->pinned || slots->places[it->home].bytes < slots->units[unit].bytes)
            continue;
        if (best == NOWHERE || distance(v, unit) < distance(best, unit))
            best = v;
    }
    return best;
}

/* Is it being read, or may bytes of it still come? */
static bool is_moving(const struct lam_slots *slots, uint32_t place)
{
    return place != NOWHERE && (slots->places[place].state == LAM_PLACE_LOADING ||
                                   slots->places[place].state == LAM_PLACE_STUCK);
}

static void leave(struct lam_slots *slots, uint32_t unit)
{
    if (slots->units[unit].place != NOWHERE)
        lam_slots_drop(slots, slots->units[unit].place);
    slots->units[unit].fault = LAM_OK;
    slots->kept_known[unit / 64] &= ~((uint64_t)1 << (unit % 64));
}

static void change_places(struct lam_slots *slots, uint32_t unit, uint32_t victim)
{
    struct lam_slots_unit *in = &slots->units[unit];
    struct lam_slots_unit *out = &slots->units[victim];

    slots->counts.kept_loaded -= out->place != NOWHERE;
    leave(slots, unit);
    leave(slots, victim);
    in->kept = true;
    in->home = out->home;
    out->kept = false;
    lam_slots_begin_cycle(slots, &slots->nobody, NULL, 0);
    if (unit == slots->part_unit)
        slots->part_valid = false; /* nobody fills its place any more */
}

enum lam_status lam_slots_pin(struct lam_slots *slots, uint32_t unit, struct lam_err *err)
{
    enum lam_status status = check_unit(slots, unit, err);
    uint32_t victim;

    if (status != LAM_OK || slots->units[unit].pinned)
        return status;
    if (!slots->units[unit].kept) {
        victim = find_victim(slots, unit);
        if (victim == NOWHERE)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "no room to keep unit %" PRIu32 ": all kept units that are as large are pinned; "
                "unpin one, or give a larger --ram",
                unit);
        if (slots->counts.sessions > 0)
            return lam_fail(err, LAM_FAILED_PRECONDITION,
                "unit %" PRIu32 " would take the place of unit %" PRIu32
                ", which the workers hold: pin before the first of them comes",
                unit, victim);
        if (is_moving(slots, slots->units[unit].place) ||
            is_moving(slots, slots->units[victim].home))
            return lam_fail(err, LAM_ABORTED,
                "unit %" PRIu32 " or %" PRIu32 ", whose place it takes, is being read: try again",
                unit, victim);
        change_places(slots, unit, victim);
    }
    slots->units[unit].pinned = true;
    slots->counts.pinned++;
    return LAM_OK;
}

enum lam_status lam_slots_unpin(struct lam_slots *slots, uint32_t unit, struct lam_err *err)
{
    enum lam_status status = check_unit(slots, unit, err);

    if (status == LAM_OK && slots->units[unit].pinned) {
        slots->units[unit].pinned = false;
        slots->counts.pinned--;
    }
    return status;
}
