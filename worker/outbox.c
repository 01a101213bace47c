/* outbox: see outbox.h. */
#include "worker/outbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/mem.h"

#define PLACES 2u

struct lam_outbox {
    struct lam_buf places[PLACES]; /* message number n lies in places[n % PLACES] */
    pthread_t thread;
    bool thread_made;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct lam_rpc_stream *stream; /* NULL: closed, or it has refused a message */
    uint64_t n_put;
    uint64_t n_gone; /* that the thread may send */
    uint64_t n_done; /* sent or dropped */
    bool ending;
};

static void *run(void *arg)
{
    struct lam_outbox *outbox = arg;

    pthread_mutex_lock(&outbox->lock);
    for (;;) {
        struct lam_rpc_stream *stream = outbox->stream;
        const struct lam_buf *message = &outbox->places[outbox->n_done % PLACES];
        bool sent;

        if (outbox->n_done == outbox->n_gone) {
            if (outbox->ending)
                break;
            pthread_cond_wait(&outbox->changed, &outbox->lock);
            continue;
        }
        pthread_mutex_unlock(&outbox->lock);
        sent = stream && lam_rpc_stream_send(stream, message->data, message->size, NULL) == LAM_OK;
        pthread_mutex_lock(&outbox->lock);
        if (!sent)
            outbox->stream = NULL;
        outbox->n_done++;
        pthread_cond_broadcast(&outbox->changed);
    }
    pthread_mutex_unlock(&outbox->lock);
    return NULL;
}

enum lam_status lam_outbox_create(
    size_t message_bytes_max, struct lam_outbox **ret_outbox, struct lam_err *err)
{
    struct lam_outbox *outbox = lam_calloc(1, sizeof *outbox);
    pthread_condattr_t attr;

    if (!outbox)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for answers to the gateway");
    for (uint32_t i = 0; i < PLACES; i++)
        outbox->places[i] = LAM_BUF(message_bytes_max);
    pthread_mutex_init(&outbox->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&outbox->changed, &attr);
    pthread_condattr_destroy(&attr);
    outbox->thread_made = pthread_create(&outbox->thread, NULL, run, outbox) == 0;
    if (!outbox->thread_made) {
        lam_outbox_destroy(outbox);
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread for answers to the gateway");
    }
    *ret_outbox = outbox;
    return LAM_OK;
}

void lam_outbox_destroy(struct lam_outbox *outbox)
{
    if (!outbox)
        return;
    pthread_mutex_lock(&outbox->lock);
    assert(outbox->n_done == outbox->n_put);
    outbox->ending = true;
    pthread_cond_broadcast(&outbox->changed);
    pthread_mutex_unlock(&outbox->lock);
    if (outbox->thread_made)
        pthread_join(outbox->thread, NULL);
    pthread_cond_destroy(&outbox->changed);
    pthread_mutex_destroy(&outbox->lock);
    for (uint32_t i = 0; i < PLACES; i++)
        lam_buf_done(&outbox->places[i]);
    lam_free(outbox);
}

void lam_outbox_open(struct lam_outbox *outbox, struct lam_rpc_stream *stream)
{
    pthread_mutex_lock(&outbox->lock);
    assert(outbox->n_done == outbox->n_put);
    outbox->stream = stream;
    pthread_mutex_unlock(&outbox->lock);
}

/* Under the lock. */
static void let_go(struct lam_outbox *outbox)
{
    if (outbox->n_gone == outbox->n_put)
        return;
    outbox->n_gone = outbox->n_put;
    pthread_cond_broadcast(&outbox->changed);
}

void lam_outbox_go(struct lam_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    let_go(outbox);
    pthread_mutex_unlock(&outbox->lock);
}

enum lam_status lam_outbox_put(
    struct lam_outbox *outbox, const ProtobufCMessage *message, struct lam_err *err)
{
    struct lam_buf *place;

    pthread_mutex_lock(&outbox->lock);
    if (outbox->n_put - outbox->n_done == PLACES)
        let_go(outbox);
    while (outbox->n_put - outbox->n_done == PLACES)
        pthread_cond_wait(&outbox->changed, &outbox->lock);
    pthread_mutex_unlock(&outbox->lock);
    place = &outbox->places[outbox->n_put % PLACES]; /* ours: only we raise n_put */
    if (!lam_message_pack(message, place))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the gateway");
    pthread_mutex_lock(&outbox->lock);
    outbox->n_put++;
    pthread_mutex_unlock(&outbox->lock);
    return LAM_OK;
}

bool lam_outbox_flush(struct lam_outbox *outbox, uint64_t timeout_ns)
{
    uint64_t until_ns = lam_now_ns() + timeout_ns;
    const struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S), .tv_nsec = (long)(until_ns % LAM_NS_PER_S)};
    int rc = 0;
    bool sent;

    pthread_mutex_lock(&outbox->lock);
    let_go(outbox);
    while (outbox->n_done < outbox->n_put && rc == 0)
        rc = pthread_cond_timedwait(&outbox->changed, &outbox->lock, &until);
    sent = outbox->n_done == outbox->n_put;
    pthread_mutex_unlock(&outbox->lock);
    return sent;
}

void lam_outbox_close(struct lam_outbox *outbox)
{
    pthread_mutex_lock(&outbox->lock);
    let_go(outbox);
    while (outbox->n_done < outbox->n_put)
        pthread_cond_wait(&outbox->changed, &outbox->lock);
    outbox->stream = NULL;
    pthread_mutex_unlock(&outbox->lock);
}
