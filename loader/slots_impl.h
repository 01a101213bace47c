/* slots_impl: the tables of the state machine, shared by slots.c (events, grants), slots_load.c
 * (what is read next, and where to), slots_ahead.c (what is read ahead of its drive's turn),
 * slots_back.c (which places have memory), slots_cycle.c (who needs what when) and slots_pin.c.
 * Private to loader/slots*.c. */
#ifndef LAMINAR_LOADER_SLOTS_IMPL_H
#define LAMINAR_LOADER_SLOTS_IMPL_H

#include "loader/slots.h"

#define LAM_SLOTS_NOWHERE UINT32_MAX
#define LAM_SLOTS_NEVER ((uint64_t)UINT32_MAX) /* needed; leaves room for sums */

enum lam_slots_state { LAM_PLACE_FREE, LAM_PLACE_LOADING, LAM_PLACE_READY, LAM_PLACE_STUCK };

struct lam_slots_place {
    uint64_t begin; /* in the pool */
    uint64_t bytes; /* of the largest unit that it can take */
    uint32_t lane;
    bool backed; /* has memory */
    enum lam_slots_state state;
    uint32_t unit; /* while not FREE */
    uint64_t generation;
    uint64_t holders; /* bit s: session s */
    bool served;      /* this fill was granted before */

    /* LOADING */
    uint64_t pending_bytes; /* may be asked for, and are not */
    uint32_t gate;          /* the place whose memory is waited for, or NOWHERE */
    uint64_t late_bytes;    /* behind the gate */
    bool cancelled;
};

struct lam_slots_unit {
    bool kept;
    bool pinned; /* hence kept */
    uint32_t drive;
    uint64_t bytes;
    uint32_t home;         /* kept: its place */
    uint32_t place;        /* where it is or is being read to, or NOWHERE */
    enum lam_status fault; /* of the last load, until the next try */
};

struct lam_slots_session {
    bool open;
    bool detached; /* holds, and wants nothing */
    uint32_t credits;
    uint32_t held_slots;
    uint64_t last_load; /* when its turn to be served a load was last: smaller is older */
    /* Bitmap of units: kept ones that were granted, any reported failed, all out of the cycle. */
    uint64_t *told;

    uint32_t n_cycle;
    uint32_t *cycle; /* [n_cycle] its units, ascending */
    uint32_t *rank;  /* [n_units] the unit's index in the cycle, or NOWHERE */
    uint32_t next;   /* transit unit to be granted; NOWHERE: the cycle has none */
    uint32_t at;     /* index in the cycle: behind the transit unit granted last; 0: a new pass */
};

struct lam_slots {
    uint32_t n_units, n_slots, n_ahead, n_lanes, n_places, n_kept, n_transit;
    uint32_t n_pass;  /* units without the table: the cycle of who names none */
    uint32_t n_seats; /* sessions at a time */
    uint32_t n_drives;
    uint32_t n_words;                          /* of a bitmap over units */
    uint32_t n_loads;                          /* under way */
    uint64_t load_bytes[LAM_SLOTS_DRIVES_MAX]; /* pending, of all loads of a drive */
    uint64_t load_bytes_max;
    uint64_t generation;

    uint32_t part_unit; /* whose end stays in its place, or NOWHERE */
    uint64_t part_bytes;
    bool part_valid;

    uint64_t slot_bytes, early_bytes; /* of a lane */

    uint32_t lane; /* that units stream through */
    bool spread;   /* over several lanes instead: all but the first n_resting, and one of these for
                  * each session after the first */
    uint32_t n_resting;
    uint32_t n_idle; /* times that the drive was found idle since the last load or OPEN */

    struct lam_slots_unit *units;
    struct lam_slots_place *places;
    uint64_t *kept_known; /* bitmap: kept units that are READY or failed, hence worth telling */
    uint64_t *bitmaps;    /* the storage of all sessions' `told` */
    uint32_t *cycles;     /* the storage of their `cycle` and `rank` */
    struct lam_slots_counts counts;
    struct lam_slots_session sessions[LAM_SLOTS_SESSIONS_MAX];
    struct lam_slots_session nobody; /* for whom a pass from its start is read without sessions */
};

/* Does the session leave each other one its lane if it holds one unit more? A unit that another
 * session holds too counts like any other: it may stay when the other gives it back. */
bool lam_slots_may_take(const struct lam_slots *slots, const struct lam_slots_session *session);

/* Would the session go on at once if its next unit were there? One that holds another may be busy
 * with it: only when nothing has moved for long does it count as waiting for both. */
bool lam_slots_is_waiting(const struct lam_slots *slots, const struct lam_slots_session *session);

/* Errors: LAM_INVALID_ARGUMENT, see lam_slots_open. */
LAM_MUST_USE enum lam_status lam_slots_check_cycle(
    const struct lam_slots *slots, const uint32_t *units, size_t n_units, struct lam_err *err);

/* The session stands at the start of this cycle; n_units 0: of all units of a pass. */
void lam_slots_begin_cycle(const struct lam_slots *slots, struct lam_slots_session *session,
    const uint32_t *units, size_t n_units);

/* It has been granted its next unit: there is another one, that many steps on. */
uint32_t lam_slots_step(const struct lam_slots *slots, struct lam_slots_session *session);

/* How many steps of its cycle `unit` is ahead of the session; a pass more when it cannot be taken
 * now; NEVER out of its cycle. */
uint64_t lam_slots_need_of(
    const struct lam_slots *slots, const struct lam_slots_session *session, uint32_t unit);

/* The soonest need of a unit over all sessions. */
uint64_t lam_slots_next_use(const struct lam_slots *slots, uint32_t unit);

/* Do both stream some unit? Each has a next one. */
bool lam_slots_share(const struct lam_slots *slots, const struct lam_slots_session *a,
    const struct lam_slots_session *b);

/* The session waits. Before it comes to the unit where it meets another one that waits, it reads
 * units that the other streams too, and reads again later: how many, of the other for which they
 * are fewest? The model's units if there is none, or if it is the other that is to come. */
uint32_t lam_slots_behind(const struct lam_slots *slots, const struct lam_slots_session *session);

/* What is in the place is of no use any more. */
void lam_slots_drop(struct lam_slots *slots, uint32_t place);

/* The next OPEN, CANCEL or LOAD. */
bool lam_slots_next_load(struct lam_slots *slots, struct lam_slots_action *ret);

/* Is the drive asked for enough? */
bool lam_slots_is_full(const struct lam_slots *slots, uint32_t drive);

/* Is it one of those for what is read ahead? */
bool lam_slots_is_ahead(const struct lam_slots *slots, uint32_t place);

/* Where something may be read to now ahead of its drive's turn, or NOWHERE. It has to be needed
 * before *ret_use. */
uint32_t lam_slots_find_ahead(const struct lam_slots *slots, uint64_t *ret_use);

/* Do the place, with `unit` in it, and what is in the other one share memory? */
bool lam_slots_overlap(
    const struct lam_slots *slots, uint32_t place, uint32_t unit, uint32_t other);

#endif
