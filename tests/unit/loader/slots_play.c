/* slots_play: which events a world may meet, and the end of all stories. See slots_world.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/loader/slots_world.h"

static bool holds(const struct world *w, uint32_t s)
{
    uint32_t i = 0;

    while (i < w->n_leases && w->leases[i].session != s)
        i++;
    return i < w->n_leases;
}

static bool play_session(struct world *w, uint32_t event, uint32_t *n, uint32_t s)
{
    if ((*n)++ == event) {
        if (w->open[s])
            world_close(w, s);
        else
            world_open(w, s);
        return true;
    }
    if (!w->open[s] || w->detached[s])
        return false;
    if (w->credits[s] < 2 && (*n)++ == event) {
        world_credit(w, s, 1);
        return true;
    }
    if (holds(w, s) && (*n)++ == event) {
        world_detach(w, s);
        return true;
    }
    return false;
}

static bool play_load(struct world *w, uint32_t event, uint32_t *n, uint32_t p, bool faults)
{
    struct world_place *place = &w->places[p];

    if (!place->loading)
        return false;
    if (world_can_end(w, p) && (*n)++ == event) {
        world_loaded(w, p, LAM_OK);
        return true;
    }
    if (place->cancelled && (*n)++ == event) {
        world_loaded(w, p, LAM_CANCELLED);
        return true;
    }
    if (!place->issued && !place->stuck && (*n)++ == event) {
        place->issued = true;
        lam_slots_issued(w->slots, p, place->generation);
        return true;
    }
    if ((faults || place->stuck) && (*n)++ == event) {
        world_loaded(w, p, place->stuck ? LAM_DEADLINE_EXCEEDED : LAM_DATA_LOSS);
        return true;
    }
    if (faults && !place->stuck && (*n)++ == event) {
        world_expired(w, p);
        return true;
    }
    return false;
}

static bool play_one(struct world *w, uint32_t event, uint32_t n_sessions, bool faults)
{
    uint32_t n = 0;

    for (uint32_t s = 0; s < n_sessions; s++) {
        if (play_session(w, event, &n, s))
            return true;
    }
    for (uint32_t p = 0; p < w->layout.n_places; p++) {
        if (play_load(w, event, &n, p, faults))
            return true;
    }
    for (uint32_t i = 0; i < w->n_leases; i++) {
        if (n++ == event) {
            world_release(w, i);
            return true;
        }
    }
    for (uint32_t p = 0; p < w->layout.n_places; p++) {
        if (!w->backed[p] && n++ == event) {
            world_back(w, p);
            return true;
        }
    }
    if (faults && n++ == event) {
        lam_slots_retry(w->slots);
        return true;
    }
    if (w->layout.n_slots > w->layout.n_lanes && world_is_idle(w) && n++ == event) {
        lam_slots_idle(w->slots);
        return true;
    }
    return false;
}

bool world_play(struct world *w, uint32_t event, uint32_t n_sessions, bool faults)
{
    if (!play_one(w, event, n_sessions, faults))
        return false;
    world_settle(w);
    return true;
}

/* Memory for one more place, as a loader gives it. */
static void back_next(struct world *w)
{
    uint32_t p = lam_slots_lacks(w->slots);

    if (p == UINT32_MAX) {
        for (p = 0; p < w->layout.n_places && w->backed[p];)
            p++;
    }
    if (p < w->layout.n_places)
        world_back(w, p);
}

void world_drain(struct world *w)
{
    uint32_t kept_all = 0;
    uint32_t target[WORLD_SESSIONS];

    for (uint32_t u = 0; u < w->layout.n_units; u++)
        kept_all |= w->kept[u] ? 1u << u : 0;
    for (uint32_t s = 0; s < WORLD_SESSIONS; s++) {
        if (w->open[s] && w->detached[s])
            world_close(w, s);
        target[s] = w->open[s] ? 2 * (uint32_t)__builtin_popcount(w->cycle[s] & ~kept_all) : 0;
    }
    for (uint32_t round = 0;; round++) {
        bool more = false;

        assert_true(round < 80 * WORLD_UNITS_MAX);
        lam_slots_retry(w->slots);
        back_next(w);
        world_settle(w);
        for (uint32_t p = 0; p < w->layout.n_places; p++) {
            if (w->places[p].stuck)
                world_loaded(w, p, LAM_DEADLINE_EXCEEDED);
        }
        world_finish_loads(w);
        if (world_is_idle(w))
            lam_slots_idle(w->slots);
        world_settle(w);
        while (w->n_leases > 0) {
            if (!w->kept[w->leases[0].unit] && target[w->leases[0].session] > 0)
                target[w->leases[0].session]--;
            world_release(w, 0);
        }
        for (uint32_t s = 0; s < WORLD_SESSIONS; s++) {
            if (!w->open[s])
                continue;
            if (w->credits[s] == 0)
                world_credit(w, s, 1);
            more = more || target[s] > 0 || w->kept_granted[s] != (kept_all & w->cycle[s]);
        }
        world_settle(w);
        if (!more)
            return;
    }
}
