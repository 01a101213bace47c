/*
 * server: gRPC server on the C core. rpc/ is the only folder that includes <grpc/...>.
 *
 * One I/O thread per server runs every callback, so a service needs no lock for state that only
 * callbacks touch. Functions marked [any thread] may be called from elsewhere.
 *
 * Life of a call: on_open, then on_message for each message, on_half_close when the client has no
 * more to send, and exactly one on_done at the end, whatever happened (finished, cancelled,
 * deadline, connection lost). Once the service has finished the call, only on_done follows. After
 * on_done the pointer is dead unless somebody holds a reference.
 *
 * What would keep the I/O thread too long is done on another thread, which holds a reference to the
 * call and says lam_rpc_call_nudge when it has something for the service.
 *
 * A sent message is queued until the transport takes it; a message taken is not a message
 * delivered. Bound what you queue by your own credits.
 */
#ifndef LAMINAR_RPC_SERVER_H
#define LAMINAR_RPC_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct lam_rpc_server;
struct lam_rpc_call;

/* One method. Any callback may be NULL. `service` is the pointer given to lam_rpc_server_add. */
struct lam_rpc_method {
    const char *path; /* "/laminar.v1.Loader/Stream" */
    void (*on_open)(void *service, struct lam_rpc_call *call);
    /* bytes live until the callback returns. */
    void (*on_message)(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);
    void (*on_half_close)(void *service, struct lam_rpc_call *call);
    void (*on_nudge)(void *service, struct lam_rpc_call *call); /* see lam_rpc_call_nudge */
    /* cancelled: the client went away or the deadline passed before the finish took effect. */
    void (*on_done)(void *service, struct lam_rpc_call *call, bool cancelled);
};

struct lam_rpc_server_config {
    const char *const *listen; /* [n_listen] "unix:/path", "127.0.0.1:50051"; port 0 picks one */
    size_t n_listen;
    size_t message_bytes_max; /* larger messages end the call with RESOURCE_EXHAUSTED */
    uint32_t calls_max;       /* open calls; more get RESOURCE_EXHAUSTED */
    bool no_keepalive; /* clients are processes of this machine that may be stopped for long */
    void (*on_tick)(void *arg); /* about every 100 ms on the I/O thread; may be NULL */
    void (*on_wake)(void *arg); /* see lam_rpc_server_wake_at; may be NULL */
    void *tick_arg;             /* of both */
};

/*
 * Makes a server; nothing listens yet.
 * Errors: LAM_FAILED_PRECONDITION when the limit of open files is too low to be safe.
 */
LAM_MUST_USE enum lam_status lam_rpc_server_create(const struct lam_rpc_server_config *config,
    struct lam_rpc_server **ret_server, struct lam_err *err);

/* Before start. methods: [n_methods], static storage. The service name is taken from the paths. */
LAM_MUST_USE enum lam_status lam_rpc_server_add(struct lam_rpc_server *server,
    const struct lam_rpc_method *methods, size_t n_methods, void *service, struct lam_err *err);

/*
 * Adds grpc.health.v1 (Check, Watch) and server reflection (v1, v1alpha). Before start.
 * Health of "" and of every added service begins as NOT_SERVING; set it below.
 */
LAM_MUST_USE enum lam_status lam_rpc_server_add_standard(
    struct lam_rpc_server *server, struct lam_err *err);

/* on_wake is called once, on the I/O thread, when lam_now_ns() is at_ns or 1 to 2 ms more. The
 * last wish counts; UINT64_MAX: never. [callbacks] */
void lam_rpc_server_wake_at(struct lam_rpc_server *server, uint64_t at_ns);

/* service: "" for the process, or "laminar.v1.Generation". [any thread] */
void lam_rpc_server_set_serving(struct lam_rpc_server *server, const char *service, bool serving);

/* Binds and starts the I/O thread. Errors: LAM_ALREADY_EXISTS (port or path in use), ... all
 * named. */
LAM_MUST_USE enum lam_status lam_rpc_server_start(
    struct lam_rpc_server *server, struct lam_err *err);

/* The port that address i of the config got; 0 for Unix sockets. */
int lam_rpc_server_port(const struct lam_rpc_server *server, size_t i);

/*
 * Health NOT_SERVING, no new calls, waits up to grace_ns for open ones, then cancels the rest;
 * returns when the I/O thread has ended. Unlinks Unix socket files that it made. [any thread but
 * the I/O thread]
 */
void lam_rpc_server_shutdown(struct lam_rpc_server *server, uint64_t grace_ns);
void lam_rpc_server_destroy(struct lam_rpc_server *server); /* after shutdown; NULL is allowed */

/* The caller's own pointer, NULL at first. */
void lam_rpc_call_set_user(struct lam_rpc_call *call, void *user);
void *lam_rpc_call_user(const struct lam_rpc_call *call);

/*
 * Queues a copy of bytes for the client. [any thread]
 * Returns false when the call has ended or memory is out: nothing was queued.
 */
bool lam_rpc_call_send(struct lam_rpc_call *call, const void *bytes, size_t n_bytes);

/* Messages queued and not yet taken by the transport. [any thread] */
size_t lam_rpc_call_queued(struct lam_rpc_call *call);

/* Ends the call after what is queued. text: for the client; may be NULL. Later calls do nothing.
 * [any thread] */
void lam_rpc_call_finish(struct lam_rpc_call *call, enum lam_status status, const char *text);

/* lam_rpc_call_send and an OK finish: the answer of a unary method. [any thread] */
void lam_rpc_call_reply(struct lam_rpc_call *call, const void *bytes, size_t n_bytes);

/*
 * on_nudge follows on the I/O thread: once for each call of this function, or once for several.
 * Not when the service has finished the call, or the call has ended. [any thread]
 */
void lam_rpc_call_nudge(struct lam_rpc_call *call);

/* Nanoseconds until the client's deadline; UINT64_MAX without one. [any thread] */
uint64_t lam_rpc_call_time_left_ns(const struct lam_rpc_call *call);

/* "ipv4:10.0.0.7:41234" or "unix:"; lives as long as the call. */
const char *lam_rpc_call_peer(const struct lam_rpc_call *call);

/* Keeps the pointer (not the call) alive past on_done. [any thread] */
void lam_rpc_call_ref(struct lam_rpc_call *call);
void lam_rpc_call_unref(struct lam_rpc_call *call);

#endif
