/*
 * slots_world: a naive record of what slots.h does, kept beside it: who holds what, and what lies
 * in each byte of the pool. After every action and event the two are compared. A byte of a load may
 * be anything from the moment that it may be read until the load has ended, so memory that is
 * written to too early shows as a lease whose bytes are wrong. Asserts.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_SLOTS_WORLD_H
#define LAMINAR_TESTS_UNIT_LOADER_SLOTS_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "loader/slots.h"

#define WORLD_UNITS_MAX 24
#define WORLD_SESSIONS 3
#define WORLD_AHEAD_MAX 8
#define WORLD_PLACES_MAX (WORLD_UNITS_MAX + 9 + WORLD_AHEAD_MAX)
#define WORLD_NO_UNIT UINT32_MAX
#define WORLD_UNIT_BYTES 10u /* a lane's place; every third unit is smaller */
#define WORLD_POOL_MAX ((WORLD_UNITS_MAX + 8 + WORLD_AHEAD_MAX) * 2 * WORLD_UNIT_BYTES)

/* What a pool looks like. */
struct world_shape {
    uint32_t n_units;
    uint32_t kept; /* bitmap of units */
    uint32_t n_lanes;
    uint32_t early;      /* bytes by which the two places of a lane are shifted; 0: one place */
    uint32_t part;       /* bytes of the first transit unit that stay; 0: none */
    uint32_t seats;      /* 0: as many as lanes */
    uint32_t loads_max;  /* load_bytes_max, in whole units */
    uint64_t step_bytes; /* of lam_slots_pace, up to twice as much */
    uint32_t ahead;      /* places */
    uint32_t drives;     /* bitmap of the units that lie on the second of two drives; 0: one */
    uint32_t cycles[WORLD_SESSIONS]; /* bitmaps of units; 0: all */
    bool
        bare; /* only the first lane has memory, or without lanes the first place: see world_back */
};

struct world_lease {
    uint32_t session, unit, place;
    uint64_t generation;
};

struct world_place {
    uint32_t unit;
    uint64_t generation;
    bool loading, issued, gated, cancelled, stuck, filled, granted;
    uint64_t read_bytes, late_begin, late_end;
};

struct world {
    struct lam_slots *slots;
    bool known; /* the caller has played this far before: no need to compare all again */
    uint32_t n_seats;
    uint64_t step_bytes;
    struct lam_layout layout;
    bool backed[WORLD_PLACES_MAX];
    bool kept[WORLD_UNITS_MAX];
    uint32_t drives[WORLD_UNITS_MAX];
    struct lam_place layout_places[WORLD_PLACES_MAX];
    uint64_t unit_bytes[WORLD_UNITS_MAX];
    uint16_t content[WORLD_POOL_MAX]; /* unit and offset in it; 0: anything */
    struct world_place places[WORLD_PLACES_MAX];
    uint64_t last_generation;
    struct world_lease leases[WORLD_UNITS_MAX * WORLD_SESSIONS];
    uint32_t n_leases;
    bool open[WORLD_SESSIONS];
    bool detached[WORLD_SESSIONS];
    uint32_t id[WORLD_SESSIONS];
    uint32_t cycle[WORLD_SESSIONS];     /* of the session when it opens; may change before that */
    uint32_t next_unit[WORLD_SESSIONS]; /* the transit unit to be granted; or WORLD_NO_UNIT */
    uint32_t credits[WORLD_SESSIONS];
    uint32_t kept_granted[WORLD_SESSIONS];
    uint64_t n_grants, n_loads, n_faults, n_cancels, n_ahead;
    uint64_t load_bytes; /* asked for so far */
};

void world_init(struct world *w, const struct world_shape *shape);
void world_done(struct world *w);

/* Carries out all actions that follow. */
void world_settle(struct world *w);

/* Events, without what follows from them. */
void world_open(struct world *w, uint32_t s);   /* stays closed when all seats are taken */
void world_detach(struct world *w, uint32_t s); /* its leases stay, and may be released still */
void world_close(struct world *w, uint32_t s);
void world_credit(struct world *w, uint32_t s, uint32_t n);
void world_release(struct world *w, uint32_t lease);
void world_loaded(struct world *w, uint32_t place, enum lam_status status);
void world_back(struct world *w, uint32_t place); /* it gets memory, and all of its lane */
void world_expired(struct world *w, uint32_t place);

/* Can that load end well now? */
bool world_can_end(const struct world *w, uint32_t place);
/* Is nothing under way on the drive? */
bool world_is_idle(const struct world *w);

/* Everything that can end well or is cancelled does, and what follows; once. */
void world_finish_loads(struct world *w);

/* One step of a drive that reads a unit at a time, and of sessions that compute in no time. */
void world_step(struct world *w, uint32_t n_sessions);

/* Event number `event` of those possible now; false when there are not so many. Each is followed by
 * all of its consequences. */
bool world_play(struct world *w, uint32_t event, uint32_t n_sessions, bool faults);

/* Whatever happened: loads end, everybody releases and gives credit, and each open session gets the
 * whole cycle twice. Nothing may be stuck. */
void world_drain(struct world *w);

#endif
