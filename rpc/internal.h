/*
 * internal: the server's two objects, for the files of the server (server.c, call.c, health.c,
 * reflection.c). Private to rpc/.
 *
 * Who may touch what:
 * - marked [io]: the I/O thread alone, from start to the end of shutdown;
 * - marked [lock]: whoever holds the object's lock. Lock order: health_lock, then a call's lock;
 *   `lock` of the server is a leaf;
 * - unmarked: constant after lam_rpc_server_start, or after the call was opened.
 */
#ifndef LAMINAR_RPC_INTERNAL_H
#define LAMINAR_RPC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "rpc/address.h"
#include "rpc/core.h"
#include "rpc/server.h"

/* What a completion is about; a tag is the address of one of these, inside the object it belongs
 * to. */
enum lam_event {
    LAM_EVENT_ARRIVED,  /* a new call */
    LAM_EVENT_CLOSED,   /* the call ended, well or not */
    LAM_EVENT_RECEIVED, /* a message, or the client's half-close */
    LAM_EVENT_SENT,     /* the batch of headers, message, status that was under way */
    LAM_EVENT_NUDGED,   /* lam_rpc_call_nudge */
    LAM_EVENT_COUNT,
};

struct lam_event_tag {
    enum lam_event event;
    struct lam_rpc_call *call;
};

/* A status text travels in a header: short, and what the client's header limit takes even when each
 * byte is percent-encoded. */
#define LAM_STATUS_TEXT_BYTES 512

struct lam_rpc_route {
    const struct lam_rpc_method *method;
    void *service;
    bool standard; /* health or reflection */
};

struct lam_outgoing {
    struct lam_outgoing *next;
    size_t n_bytes;
    unsigned char bytes[];
};

struct lam_rpc_call {
    struct lam_rpc_server *server;
    const struct lam_rpc_route *route; /* NULL: refused at the door */
    struct lam_event_tag tags[LAM_EVENT_COUNT];
    atomic_uint refs;
    void *user;
    char *peer; /* gpr_free */
    uint64_t deadline_ns;

    grpc_call_details details;    /* [io] until opened */
    grpc_metadata_array metadata; /* [io] */
    grpc_byte_buffer *received;   /* [io] */
    int cancelled;                /* [io] set by the core before CLOSED */
    bool closed;                  /* [io] CLOSED has come */
    bool receiving;               /* [io] */

    pthread_mutex_t lock;
    grpc_call *core;                         /* [lock] once opened; dead when `ended` */
    struct lam_outgoing *head;               /* [lock] waiting messages, oldest first */
    struct lam_outgoing **tail;              /* [lock] */
    size_t n_queued;                         /* [lock] waiting, and the one under way */
    bool sending;                            /* [lock] a batch is under way */
    bool nudging;                            /* [lock] NUDGED is under way */
    bool headers_sent;                       /* [lock] */
    bool finishing;                          /* [lock] lam_rpc_call_finish was called */
    bool finished;                           /* [lock] the status is under way or sent */
    bool ended;                              /* [lock] nothing may be sent any more */
    grpc_byte_buffer *outgoing;              /* [lock] the message under way */
    enum lam_status status;                  /* [lock] */
    char status_text[LAM_STATUS_TEXT_BYTES]; /* [lock] */
};

/* A service name with its health. */
struct lam_rpc_health {
    char *name;
    bool serving; /* [health_lock] */
};

struct lam_health_watch;

struct lam_rpc_server {
    struct lam_rpc_server_config config; /* strings copied */
    char **listen;
    int *ports;
    struct lam_address_file *files;
    struct lam_rpc_route *routes;
    size_t n_routes;

    pthread_mutex_t health_lock;
    struct lam_rpc_health *health; /* [health_lock] from start on; health[0] is the process */
    size_t n_health;
    struct lam_health_watch *watches; /* [health_lock] */

    grpc_server *core; /* NULL unless started */
    grpc_completion_queue *queue;
    pthread_t thread;
    bool started; /* the I/O thread runs */

    struct lam_rpc_call *arriving; /* [io] the object that the next call will use */
    bool stopped;                  /* [io] the core has no more calls */
    uint64_t wake_ns;              /* [io] when on_wake is due */
    struct lam_buf scratch;        /* [io] the message being delivered */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* one of these numbers is smaller */
    size_t n_calls;         /* [lock] open, of any kind; call.c counts */
    size_t n_service_calls; /* [lock] those of the services */
    size_t n_cores;         /* [lock] 1 from start until the core has closed its connections */
    bool leaving;           /* [lock] no new calls of the services */
};

/* call.c. All [io]. */

/* An object for a call that has not come yet; NULL without memory. */
struct lam_rpc_call *lam_call_create(struct lam_rpc_server *server);
/* The call has come. route NULL: it is ended at once with `status` and `text`. */
void lam_call_open(struct lam_rpc_call *call, const struct lam_rpc_route *route,
    enum lam_status status, const char *text);
void lam_call_handle(struct lam_rpc_call *call, enum lam_event event, bool ok);

/* health.c, reflection.c: their methods, for lam_rpc_server_add_standard. */
extern const struct lam_rpc_method lam_health_methods[2];
extern const struct lam_rpc_method lam_reflection_methods[2];

/* Ends every Watch, behind what it still has to tell. [any thread] */
void lam_health_end(struct lam_rpc_server *server);

#endif
