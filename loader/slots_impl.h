/* slots_impl: the tables of the state machine, shared by slots.c (events, grants) and slots_load.c
 * (what is read next, and where to). Private to loader/slots*.c. */
#ifndef LAMINAR_LOADER_SLOTS_IMPL_H
#define LAMINAR_LOADER_SLOTS_IMPL_H

#include "loader/slots.h"

#define LAM_SLOTS_NOWHERE UINT32_MAX

enum lam_slots_state { LAM_PLACE_FREE, LAM_PLACE_LOADING, LAM_PLACE_READY, LAM_PLACE_STUCK };

struct lam_slots_place {
    uint64_t begin; /* in the pool */
    uint64_t bytes; /* of the largest unit that it can take */
    uint32_t lane;
    enum lam_slots_state state;
    uint32_t unit; /* while not FREE */
    uint64_t generation;
    uint64_t holders; /* bit s: session s */
    bool served;      /* this fill was granted before */
    bool held_long;   /* the drive had nothing better to do than to wait for this hold to end */

    /* LOADING */
    uint64_t pending_bytes; /* may be asked for, and are not */
    uint32_t gate;          /* the place whose memory is waited for, or NOWHERE */
    uint64_t late_bytes;    /* behind the gate */
    bool cancelled;
};

struct lam_slots_unit {
    bool kept;
    bool pinned; /* hence kept */
    uint64_t bytes;
    uint32_t home;         /* kept: its place */
    uint32_t place;        /* where it is or is being read to, or NOWHERE */
    enum lam_status fault; /* of the last load, until the next try */
};

struct lam_slots_session {
    bool open;
    bool detached;   /* holds, and wants nothing */
    uint32_t cursor; /* index of the next transit unit to be granted */
    uint32_t credits;
    uint32_t held_slots;
    uint64_t last_load; /* when this session was last served a load: smaller is older */
    uint64_t *told;     /* bitmap of units: kept ones that were granted, any reported failed */
};

struct lam_slots {
    uint32_t n_units, n_slots, n_lanes, n_places, n_kept, n_transit;
    uint32_t n_seats; /* sessions at a time */
    uint32_t n_backed;
    uint32_t n_words;    /* of a bitmap over units */
    uint32_t n_loads;    /* under way */
    uint64_t load_bytes; /* pending, of all loads */
    uint64_t load_bytes_max;
    uint64_t generation;

    uint32_t part_unit; /* whose end stays in its place, or NOWHERE */
    uint64_t part_bytes;
    bool part_valid;

    uint32_t lane;   /* that units stream through */
    bool spread;     /* over all lanes instead */
    uint32_t slow;   /* how much speaks for spreading */
    uint32_t n_idle; /* times that the drive was found idle since the last load or OPEN */

    struct lam_slots_unit *units;
    struct lam_slots_place *places;
    uint32_t *transit;    /* [n_transit] unit numbers in pass order */
    uint64_t *kept_known; /* bitmap: kept units that are READY or failed, hence worth telling */
    uint64_t *bitmaps;    /* the storage of all sessions' `told` */
    struct lam_slots_counts counts;
    struct lam_slots_session sessions[LAM_SLOTS_SESSIONS_MAX];
};

/* Does the session leave each other one its lane if it holds one unit more? A unit that another
 * session holds too counts like any other: it may stay when the other gives it back. */
bool lam_slots_may_take(const struct lam_slots *slots, const struct lam_slots_session *session);

/* Lists the units that are in transit. */
void lam_slots_list_transit(struct lam_slots *slots);

/* What is in the place is of no use any more. */
void lam_slots_drop(struct lam_slots *slots, uint32_t place);

/* The next OPEN, CANCEL or LOAD. */
bool lam_slots_next_load(struct lam_slots *slots, struct lam_slots_action *ret);

/* Do the place, with `unit` in it, and what is in the other one share memory? */
bool lam_slots_overlap(
    const struct lam_slots *slots, uint32_t place, uint32_t unit, uint32_t other);

#endif
