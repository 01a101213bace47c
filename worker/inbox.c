/*
 * inbox: see inbox.h. Message number n lies in places[n % PLACES]. The thread fills a place when
 * the message before in it has been freed, which the taking of the next one does.
 */
#include "worker/inbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mem.h"
#include "rpc/message.h"

#define PLACES 2u

struct place {
    struct lam_buf bytes;
    struct lam_arena arena;
    const Laminar__V1__GatewayMessage *message;
};

struct lam_inbox {
    struct place places[PLACES];
    pthread_t thread;
    bool thread_made;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct lam_rpc_stream *stream; /* NULL: closed */
    uint64_t n_received, n_taken, n_freed;
    bool ended; /* the stream; nothing more is received */
    bool closing;
    bool ending; /* the thread */
    struct lam_err end;
};

/* Receives into a place. */
static enum lam_status receive(
    struct place *place, struct lam_rpc_stream *stream, struct lam_err *err)
{
    ProtobufCMessage *message;
    bool end = false;
    enum lam_status status = lam_rpc_stream_recv(stream, &place->bytes, &end, err);

    if (status == LAM_OK && end)
        return lam_fail(err, LAM_UNAVAILABLE, "the gateway ended the attachment");
    if (status != LAM_OK)
        return status;
    lam_arena_reset(&place->arena);
    status = lam_message_unpack(&laminar__v1__gateway_message__descriptor, place->bytes.data,
        place->bytes.size, &place->arena, &message, err);
    if (status == LAM_OK)
        place->message = (const Laminar__V1__GatewayMessage *)message;
    return status;
}

/* Under the lock, which is free while the thread blocks: one message, or the end. */
static void take_in(struct lam_inbox *inbox)
{
    struct lam_rpc_stream *stream = inbox->stream;
    struct place *place = &inbox->places[inbox->n_received % PLACES];
    struct lam_err err = {0};
    enum lam_status status;

    pthread_mutex_unlock(&inbox->lock);
    status = receive(place, stream, &err);
    pthread_mutex_lock(&inbox->lock);
    if (status == LAM_OK)
        inbox->n_received++;
    else
        inbox->end = err;
    inbox->ended = status != LAM_OK;
    pthread_cond_broadcast(&inbox->changed);
}

static void *run(void *arg)
{
    struct lam_inbox *inbox = arg;

    pthread_mutex_lock(&inbox->lock);
    while (!inbox->ending) {
        bool full = inbox->n_received - inbox->n_freed == PLACES && !inbox->closing;

        if (!inbox->stream || inbox->ended || full)
            pthread_cond_wait(&inbox->changed, &inbox->lock);
        else
            take_in(inbox);
    }
    pthread_mutex_unlock(&inbox->lock);
    return NULL;
}

enum lam_status lam_inbox_create(
    size_t message_bytes_max, struct lam_inbox **ret_inbox, struct lam_err *err)
{
    struct lam_inbox *inbox = lam_calloc(1, sizeof *inbox);
    enum lam_status status = LAM_OK;

    if (!inbox)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for messages of the gateway");
    pthread_mutex_init(&inbox->lock, NULL);
    pthread_cond_init(&inbox->changed, NULL);
    for (uint32_t i = 0; i < PLACES && status == LAM_OK; i++) {
        inbox->places[i].bytes = LAM_BUF(message_bytes_max);
        status = lam_arena_init(&inbox->places[i].arena, 2 * message_bytes_max, err);
    }
    if (status == LAM_OK) {
        inbox->thread_made = pthread_create(&inbox->thread, NULL, run, inbox) == 0;
        if (!inbox->thread_made)
            status = lam_fail(
                err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread for messages of the gateway");
    }
    if (status != LAM_OK) {
        lam_inbox_destroy(inbox);
        return status;
    }
    *ret_inbox = inbox;
    return LAM_OK;
}

void lam_inbox_destroy(struct lam_inbox *inbox)
{
    if (!inbox)
        return;
    pthread_mutex_lock(&inbox->lock);
    assert(!inbox->stream);
    inbox->ending = true;
    pthread_cond_broadcast(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
    if (inbox->thread_made)
        pthread_join(inbox->thread, NULL);
    pthread_cond_destroy(&inbox->changed);
    pthread_mutex_destroy(&inbox->lock);
    for (uint32_t i = 0; i < PLACES; i++) {
        lam_buf_done(&inbox->places[i].bytes);
        lam_arena_done(&inbox->places[i].arena);
    }
    lam_free(inbox);
}

void lam_inbox_open(struct lam_inbox *inbox, struct lam_rpc_stream *stream)
{
    pthread_mutex_lock(&inbox->lock);
    assert(!inbox->stream);
    inbox->stream = stream;
    inbox->n_received = inbox->n_taken = inbox->n_freed = 0;
    inbox->ended = inbox->closing = false;
    pthread_cond_broadcast(&inbox->changed);
    pthread_mutex_unlock(&inbox->lock);
}

bool lam_inbox_ready(struct lam_inbox *inbox)
{
    bool ready;

    pthread_mutex_lock(&inbox->lock);
    ready = inbox->n_received > inbox->n_taken || inbox->ended;
    pthread_mutex_unlock(&inbox->lock);
    return ready;
}

enum lam_status lam_inbox_take(
    struct lam_inbox *inbox, const Laminar__V1__GatewayMessage **ret_message, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    pthread_mutex_lock(&inbox->lock);
    assert(inbox->stream);
    if (inbox->n_freed != inbox->n_taken) {
        inbox->n_freed = inbox->n_taken;
        if (inbox->n_received - inbox->n_freed == PLACES - 1)
            pthread_cond_broadcast(&inbox->changed); /* the thread has waited for this */
    }
    while (inbox->n_received == inbox->n_taken && !inbox->ended)
        pthread_cond_wait(&inbox->changed, &inbox->lock);
    if (inbox->n_received > inbox->n_taken)
        *ret_message = inbox->places[inbox->n_taken++ % PLACES].message;
    else
        status = lam_fail(err, inbox->end.status, "%s", inbox->end.text);
    pthread_mutex_unlock(&inbox->lock);
    return status;
}

void lam_inbox_close(struct lam_inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->closing = true;
    pthread_cond_broadcast(&inbox->changed);
    while (inbox->stream && !inbox->ended)
        pthread_cond_wait(&inbox->changed, &inbox->lock);
    inbox->stream = NULL;
    pthread_mutex_unlock(&inbox->lock);
}
