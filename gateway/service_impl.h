/*
 * service_impl: what the files of the service share: service.c (life, clock, pump), generate.c (one
 * generation), query.c (the unary methods), text_work.c (what both hand to aside), attach.c
 * (workers). All of it is for the I/O thread, but for what text_work.c does aside.
 */
#ifndef LAMINAR_GATEWAY_SERVICE_IMPL_H
#define LAMINAR_GATEWAY_SERVICE_IMPL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/size.h"
#include "gateway/aside.h"
#include "gateway/emit.h"
#include "gateway/metrics.h"
#include "gateway/registry.h"
#include "gateway/request.h"
#include "gateway/schedule.h"
#include "gateway/service.h"
#include "rpc/message.h"
#include "rpc/ops.h"
#include "rpc/server.h"

/* A client may leave this many tokens unread; then its sequence pauses, and after the limit it
 * ends. */
#define LAM_CREDIT_TOKENS 256u
#define LAM_CREDIT_LIMIT_NS (30 * LAM_NS_PER_S)

/* Requests of clients; the rpc server's own limit leaves room for header chunks. */
#define LAM_REQUEST_BYTES_MAX ((size_t)1 << 20)

/* What such a request may unfold to; a prompt of 1 MiB in ids is 4 MiB. */
#define LAM_REQUEST_ARENA_BYTES (8 * LAM_MIB)
#define LAM_ANSWER_BYTES_MAX ((size_t)(64 * LAM_MIB))

/* A request whose text becomes tokens, or whose ids become text. That is done at once if it is
 * short, else by the thread of aside. */
struct lam_text_work {
    const struct lam_served *served;
    const ProtobufCMessageDescriptor *type;
    /* Sets `request` or `answer`, or `err`. Either thread: it uses nothing but the work. */
    void (*handle)(struct lam_text_work *work, const ProtobufCMessage *message);
    uint64_t drawn_seed;        /* for Generate */
    struct lam_request request; /* of Generate */
    struct lam_buf answer;      /* of the others: packed */
    struct lam_err err;         /* LAM_OK, or what to tell the client */
    struct lam_aside_work aside;
    struct lam_rpc_call *call; /* referenced */
    size_t n_bytes;
    unsigned char bytes[];
};

struct lam_generation {
    struct lam_generation *prev, *next;
    struct lam_service *service;
    struct lam_rpc_call *call;
    struct lam_text_work *work; /* NULL unless its prompt becomes tokens aside */
    struct lam_sched_seq *seq;  /* NULL: not begun, or over */
    struct lam_emit emit;
    uint64_t seed;
    uint32_t n_prompt;
    uint32_t n_completion;
    uint64_t arrived_ns;        /* the request */
    uint64_t started_ns;        /* its first pass */
    uint64_t first_ns, last_ns; /* tokens */
    /* Not yet sent; steps that were under way when the sequence paused bring more. */
    int32_t ids[LAM_CREDIT_TOKENS + LAM_SCHED_STEPS_MAX - 1];
    uint32_t n_ids;
    uint64_t paused_ns; /* since when the client does not read; 0: it does */
};

struct lam_service {
    struct lam_rpc_server *server;
    struct lam_registry *registry;
    struct lam_sched *sched;
    struct lam_aside *aside;
    struct lam_arena arena; /* the message that is being handled */
    struct lam_buf out;     /* the message that is being packed */
    struct lam_generation *generations;
    struct lam_gateway_metrics metrics;
    struct lam_ops_config ops_config;
    struct lam_ops *ops; /* NULL: none */
    uint64_t step_limit_ns;
    atomic_bool draining; /* set by shutdown: after the last generation workers are let go */
};

/* service.c */

/* Carries out what an event led to, then sends every step that can be sent. */
void lam_service_apply(struct lam_service *service, struct lam_sched_actions actions);
void lam_service_pump(struct lam_service *service);

/* Unpacks into the service's arena; NULL: *err says why. bytes_max: of the message. */
ProtobufCMessage *lam_service_read(struct lam_service *service,
    const ProtobufCMessageDescriptor *type, const void *bytes, size_t n_bytes, size_t bytes_max,
    struct lam_err *err);

/* The same, and finishes the call on failure. */
ProtobufCMessage *lam_service_unpack(struct lam_service *service, struct lam_rpc_call *call,
    const ProtobufCMessageDescriptor *type, const void *bytes, size_t n_bytes, size_t bytes_max);

static inline struct lam_metric *lam_service_metric(
    struct lam_service *service, enum lam_gateway_metric metric)
{
    return &service->metrics.items[metric];
}

/* Packs and sends the answer of a unary method. */
void lam_service_reply(
    struct lam_service *service, struct lam_rpc_call *call, const ProtobufCMessage *message);

/* The model, or NULL after finishing the call with UNAVAILABLE. */
const struct lam_served *lam_service_model(struct lam_service *service, struct lam_rpc_call *call);

/* text_work.c */

/*
 * Handles a request. work: served, type, handle and drawn_seed are set, the rest is zero. A short
 * one is handled on return: the outcome is in *work, which lam_text_work_done gives back, and NULL
 * is returned. Else the outcome is in the returned copy when on_nudge comes, and lam_aside_drop is
 * due on it: in on_done at the latest.
 */
LAM_MUST_USE struct lam_text_work *lam_text_work_begin(struct lam_service *service,
    struct lam_rpc_call *call, struct lam_text_work *work, const void *bytes, size_t n_bytes);
void lam_text_work_done(struct lam_text_work *work);

/* generate.c */
void lam_generate_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);
void lam_generate_on_nudge(void *service, struct lam_rpc_call *call);
void lam_generate_on_done(void *service, struct lam_rpc_call *call, bool cancelled);
void lam_generation_apply(
    struct lam_generation *generation, const struct lam_sched_action *action, uint64_t now_ns);
/* Time has passed: sends what a slow client can take now, gives up one that takes nothing. */
void lam_generation_tick(struct lam_generation *generation, uint64_t now_ns);

/* query.c */
void lam_tokenize_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);
void lam_detokenize_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);
void lam_query_on_nudge(void *service, struct lam_rpc_call *call);
void lam_query_on_done(void *service, struct lam_rpc_call *call, bool cancelled);
void lam_get_model_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);

/* attach.c */
void lam_attach_on_open(void *service, struct lam_rpc_call *call);
void lam_attach_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes);
void lam_attach_on_half_close(void *service, struct lam_rpc_call *call);
void lam_attach_on_done(void *service, struct lam_rpc_call *call, bool cancelled);
void lam_attach_send_step(struct lam_service *service, const struct lam_sched_step *step);
/* Time has passed: gives a worker up that owes an answer for too long. */
void lam_attach_tick(struct lam_service *service);
/* Ends all worker streams. */
void lam_attach_dismiss(struct lam_service *service);

#endif
