/*
 * slots: who may use which place of the pool, and what is read next. A pure state machine: no I/O,
 * no clock, no thread. Events go in through the functions below; lam_slots_next gives out, one at a
 * time, the actions that follow from them, until there is none.
 *
 *     place:    FREE --load--> LOADING(g) --loaded--> READY(g) --load of another unit--> ...
 *                 ^-- failed, cancelled --' |              only while nobody holds it
 *                 ^------ loaded ----- STUCK(g), after expired: bytes may still land
 *
 * Places [0, n_slots) are the layout's transit slots, which hold any unit in turn; the n_ahead
 * places after them do too, see Drives; the others belong to one kept unit each, in pass order, and
 * are filled once. Each fill takes a new generation, larger than all before; a session holds a
 * (unit, generation) from its grant to its release or its end.
 *
 * Overlap. The places of one lane share memory. A load into one may begin while another is in use:
 * the bytes that both cover are left out (late) until an OPEN says that the other, the gate, is of
 * no use to anybody any more. At most one gate a load. A gate that stays shut while there is
 * another way is given up: CANCEL, then a load elsewhere.
 *
 * Lanes. As long as sessions give units back quickly, units stream through one lane, which its
 * gates keep busy, and the other lanes rest and keep what they have: that is worth a unit more in
 * memory for each of them. Sessions that compute for long on a unit leave the drive idle behind a
 * shut gate: then units spread over one lane more than there are sessions, so that each is read
 * while the one before is computed on. model/scan.h has the rule, lam_slots_pace the facts.
 * Sessions that stream nothing in common have a lane each. A resting lane keeps only what a session
 * will take again: the rest (units of a session that is gone, or read while there was none) is read
 * over like free memory.
 *
 * Grants. A session goes round a cycle of units: all, or some in ascending order; no other unit is
 * read or granted for it. A kept unit of it is granted once, as soon as it is there, and costs no
 * credit. The others are granted in cyclic order, one for each credit.
 *
 * Seats. A lease is never taken back from a live holder, so room for others is kept in advance:
 * each open session is sure of one lane, and so is each that may still be opened, up to n_seats;
 * one more is refused. A session takes a second lane and more only from what is left over, and no
 * more than its part of the lanes when others are there. So sessions that sleep on what they hold,
 * all but one of them, leave that one a lane.
 *
 * Drives. Units of one model may lie on several, and each drive is asked for as much as one alone
 * would be. The drive of the unit that a session needs next has its turn. The others read their
 * next units, in cyclic order, into the places ahead once the lanes have no room, and only they: so
 * lanes, seats and gates are what they would be without, and nothing that is read ahead can delay
 * what is needed next. Such a load takes a place that is free, or that has served and is needed
 * again later than its unit; what was read ahead stays until it has been granted once, so no read
 * is for nothing. While a session waits for what no drive can read now, nothing is read ahead
 * either: the drives become idle, which is how such knots are found and undone.
 *
 * Faults. A unit that could not be read is reported to every session that it is due for, once for
 * each failed try, and stays due: no credit is used up and no unit is passed over. lam_slots_retry
 * lets the next try begin.
 *
 * Loads. The unit that some session needs soonest is read first; with no session, the order is that
 * of a pass from its start. A place is taken from units that are needed later than the one it is
 * for, the latest first: for one session that is "the unit just released", for several they share
 * every read for as long as they are in phase. A session without credit counts a whole pass later
 * than others. Sessions that wait for different units are served in turn, but those that stream the
 * same units give their turns to the one that is fewest of these behind another: it catches up, and
 * from then on they share each read, whereas in turn they would read everything twice for ever.
 * With the same cycle the other waits for it less than a pass, once; with cycles that differ,
 * before the first unit that both have, less than a pass, in each.
 *
 * Invariants (lam_slots_check): a held place is READY; no unit is in two places; two places that
 * share memory are in use together only behind a gate; a session holds a unit once; generations
 * only grow. Errors of callers from outside are statuses; those of the loader itself are
 * assertions.
 */
#ifndef LAMINAR_LOADER_SLOTS_H
#define LAMINAR_LOADER_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/policy.h"

#define LAM_SLOTS_SESSIONS_MAX 64u
#define LAM_SLOTS_CREDITS_MAX 65536u
#define LAM_SLOTS_LOADS_MAX 32u /* reads under way at a time; half of them ahead */
#define LAM_SLOTS_DRIVES_MAX 8u

struct lam_slots;

struct lam_slots_config {
    const struct lam_layout *layout;
    const uint64_t *unit_bytes; /* [n_units] of their windows */
    uint32_t n_seats; /* sessions at a time; 1..n_lanes, any number if all units are kept */
    /* Of a drive another load starts while fewer bytes than this may be asked for and are not. */
    uint64_t load_bytes_max;
};

/* Copies the tables; no place has memory yet: see lam_slots_back. */
LAM_MUST_USE enum lam_status lam_slots_create(
    const struct lam_slots_config *config, struct lam_slots **ret_slots, struct lam_err *err);
void lam_slots_destroy(struct lam_slots *slots); /* NULL is allowed */

/* The place has memory behind it from now on, and may be used. In any order; twice is fine. */
void lam_slots_back(struct lam_slots *slots, uint32_t place);

/* The place without memory that some session needs soonest, or UINT32_MAX: no session lacks one.
 * Kept units need their own place, the others any place of the lanes. Of sessions that need one
 * equally soon it is for the one whose turn to be served a load is longest ago. */
uint32_t lam_slots_lacks(const struct lam_slots *slots);

/* A session begins, at the first unit of its cycle, without credit. units[n_units]: the cycle,
 * strictly ascending; none: all units of a pass. Errors: LAM_INVALID_ARGUMENT (no such cycle);
 * LAM_RESOURCE_EXHAUSTED when all seats are taken. */
LAM_MUST_USE enum lam_status lam_slots_open(struct lam_slots *slots, const uint32_t *units,
    size_t n_units, uint32_t *ret_session, struct lam_err *err);

/* The session asks for nothing any more, and what it holds stays held: its process may still
 * read it. Only lam_slots_close follows. */
void lam_slots_detach(struct lam_slots *slots, uint32_t session);

/* The session reads nothing any more: all that it held is free. */
void lam_slots_close(struct lam_slots *slots, uint32_t session);

/* Errors: LAM_INVALID_ARGUMENT when the session would have more than LAM_SLOTS_CREDITS_MAX. */
LAM_MUST_USE enum lam_status lam_slots_credit(
    struct lam_slots *slots, uint32_t session, uint32_t n_units, struct lam_err *err);

/* Errors: LAM_FAILED_PRECONDITION: the session does not hold this unit in this generation. */
LAM_MUST_USE enum lam_status lam_slots_release(struct lam_slots *slots, uint32_t session,
    uint32_t unit, uint64_t generation, struct lam_err *err);

/* All bytes of that load that may be asked for have been: the reader has nothing to do for it but
 * wait. The next load starts now and not earlier, so its drive stays busy, and what it displaces
 * may serve once more until then. */
void lam_slots_issued(struct lam_slots *slots, uint32_t place, uint64_t generation);

/* The load of that place has ended; no more bytes will arrive in it. LAM_CANCELLED: it ended
 * because of a CANCEL. Returns the unit. */
uint32_t lam_slots_loaded(
    struct lam_slots *slots, uint32_t place, uint64_t generation, enum lam_status status);

/* The load has failed, but bytes may still arrive: nobody uses the place before lam_slots_loaded
 * is called for it after all. Returns the unit. */
uint32_t lam_slots_expired(
    struct lam_slots *slots, uint32_t place, uint64_t generation, enum lam_status status);

/* Is that the state of the place? */
bool lam_slots_is_stuck(const struct lam_slots *slots, uint32_t place);

/* No drive has had anything to do for a while (some milliseconds), and again for a long while. */
void lam_slots_idle(struct lam_slots *slots);

/* How many bytes the drive reads while this session works on a unit, by what was seen of late. */
void lam_slots_pace(struct lam_slots *slots, uint32_t session, uint64_t step_bytes);

/* How many steps of its cycle the session went from the unit that streams before this one. */
uint32_t lam_slots_stride(const struct lam_slots *slots, uint32_t session, uint32_t unit);

/* Units whose load failed may be tried again. Returns how many there were. */
uint32_t lam_slots_retry(struct lam_slots *slots);

enum lam_slots_action_kind {
    LAM_SLOTS_LOAD,   /* read `unit` into `place`, then call lam_slots_loaded */
    LAM_SLOTS_OPEN,   /* the late bytes of that load may be read too */
    LAM_SLOTS_CANCEL, /* end that load, then call lam_slots_loaded as ever */
    LAM_SLOTS_GRANT,  /* tell `session` that `unit` is ready in `place` */
    LAM_SLOTS_FAULT,  /* tell `session` that `unit` cannot be read, for the reason `status` */
};

struct lam_slots_action {
    enum lam_slots_action_kind kind;
    uint32_t session;
    uint32_t unit;
    uint32_t place;
    uint64_t generation;
    bool kept;
    enum lam_status status;
    /* LOAD: [0, read_bytes) of the place are wanted, the rest is there; of them
     * [late_begin, late_end) only after an OPEN. */
    uint64_t read_bytes;
    uint64_t late_begin, late_end;
};

/* The next action, which counts as done from here on. False: none until the next event. */
bool lam_slots_next(struct lam_slots *slots, struct lam_slots_action *ret_action);

/* Is this unit in memory for good? Then anybody in the loader may read place *ret_place. */
bool lam_slots_kept_ready(const struct lam_slots *slots, uint32_t unit, uint32_t *ret_place);

struct lam_slots_counts {
    uint64_t loads; /* begun */
    uint64_t grants;
    uint64_t hits;                         /* grants of a fill that had served before */
    uint64_t transit_grants, transit_hits; /* of these, the ones of units that stream */
    uint64_t ahead_loads; /* of `loads`, the ones begun ahead of the drive's turn */
    uint64_t steps;       /* of sessions through their cycles, past kept units too */
    uint32_t sessions;
    uint32_t leases; /* (session, unit) pairs */
    uint32_t kept_loaded;
    uint32_t pinned;
    uint64_t ready_bytes; /* of units that are in the pool now */
    /* Lanes by what they are, each counted once: held before loading before ready. */
    uint32_t slots_free, slots_loading, slots_ready, slots_held;
};

void lam_slots_count(const struct lam_slots *slots, struct lam_slots_counts *ret_counts);

/*
 * Pins: a pinned unit is kept, from now on. If it is not, it takes the place of the nearest kept
 * unit in the pass that is not pinned and lies in a place large enough; that one streams then.
 * Errors: LAM_INVALID_ARGUMENT (no such unit); LAM_RESOURCE_EXHAUSTED (no such place);
 * LAM_FAILED_PRECONDITION when units would have to change places under open sessions;
 * LAM_ABORTED when one of the two is being read just now: try again.
 */
LAM_MUST_USE enum lam_status lam_slots_pin(
    struct lam_slots *slots, uint32_t unit, struct lam_err *err);

/* It stays kept until another pin needs its place. Errors: LAM_INVALID_ARGUMENT. */
LAM_MUST_USE enum lam_status lam_slots_unpin(
    struct lam_slots *slots, uint32_t unit, struct lam_err *err);

/* What a session waits for. */
enum lam_slots_wait {
    LAM_SLOTS_WAIT_NONE,   /* it computes on what it holds, or wants nothing */
    LAM_SLOTS_WAIT_DISK,   /* its next unit is being read, or is behind others that are */
    LAM_SLOTS_WAIT_SLOT,   /* others hold all places that it could be read to */
    LAM_SLOTS_WAIT_WORKER, /* nothing: its next unit is ready, we wait for its credit or release */
    LAM_SLOTS_WAIT_CRC, /* as DISK, but the bytes are there; for lam_watch, never answered here */
    LAM_SLOTS_WAITS,
};

/* ret_place: where its next unit is being read to, UINT32_MAX if it is not. */
enum lam_slots_wait lam_slots_wait_of(
    const struct lam_slots *slots, uint32_t session, uint32_t *ret_place);

/* Asserts the invariants. For tests; costs a walk over everything. */
void lam_slots_check(const struct lam_slots *slots);

#endif
