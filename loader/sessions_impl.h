/* sessions_impl: what sessions.c (events from outside) and sessions_act.c (what follows from them)
 * share. Private to the two. */
#ifndef LAMINAR_LOADER_SESSIONS_IMPL_H
#define LAMINAR_LOADER_SESSIONS_IMPL_H

#include <pthread.h>

#include "common/buf.h"
#include "loader/regions.h"
#include "loader/sessions.h"

struct session {
    bool open;
    struct lam_rpc_call *call; /* alive until its on_done has been through here; NULL: detached */
    unsigned char token[LAM_POOL_TOKEN_BYTES];
};

struct lam_sessions {
    struct lam_sessions_config config;
    struct lam_reader *reader;
    struct lam_checker *checker;
    struct lam_handover *handover;

    pthread_mutex_t lock; /* guards all below */
    struct lam_slots *slots;
    struct lam_regions regions;
    struct lam_watch watch;
    struct session sessions[LAM_SLOTS_SESSIONS_MAX];
    struct lam_buf message;
    bool lost;           /* the file changed: nothing is tried any more */
    bool *failing;       /* [n_units] that was said, and it has not been read since */
    uint32_t fault_unit; /* what the text is about */
    char fault_text[sizeof(((struct lam_err *)NULL)->text)];
};

/* All of these: lock held. */

/* Carries out all that the state machine wants by now. After every event. */
void lam_sessions_settle(struct lam_sessions *sessions);

/* What each session waits for from now on: the part of settle that is due when a load has come as
 * far as its check. */
void lam_sessions_note_waits(struct lam_sessions *sessions);

/* Where the unit's first byte lies when it is in that place: within the layout. */
uint64_t lam_sessions_offset(const struct lam_sessions *sessions, uint32_t unit, uint32_t place);

#endif
