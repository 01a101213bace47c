/* queue: see queue.h. */
#include "tests/kernels/simulated/queue.h"

#include <assert.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "tests/kernels/simulated/block.h"
#include "tests/kernels/simulated/fault.h"

static struct CUstream_st *streams;
static uint64_t n_launches;

struct CUstream_st *sim_stream_create(void)
{
    struct CUstream_st *stream = lam_calloc(1, sizeof(*stream));

    if (stream == NULL)
        return NULL;
    stream->last = &stream->first;
    stream->next = streams;
    streams = stream;
    return stream;
}

void sim_stream_destroy(struct CUstream_st *stream)
{
    struct CUstream_st **at = &streams;

    sim_drain(stream);
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    lam_free(stream);
}

struct sim_op *sim_op_new(enum sim_op_kind kind, size_t param_bytes)
{
    struct sim_op *op = lam_calloc(1, sizeof(*op) + param_bytes);

    if (op != NULL)
        op->kind = kind;
    return op;
}

void sim_queue(struct CUstream_st *stream, struct sim_op *op)
{
    *stream->last = op;
    stream->last = &op->next;
}

/* Launches take turns in what the hardware leaves open, in an order that repeats. */
static uint64_t order_of(uint64_t launch)
{
    return launch * UINT64_C(0x9E3779B97F4A7C15) >> 60;
}

static void launch(struct CUstream_st *stream, struct sim_op *op)
{
    n_launches++;
    if (!op->launch.overlaps || stream->chain_begin == 0)
        stream->chain_begin = n_launches;
    (void)sim_run(&op->launch, n_launches, stream->chain_begin, order_of(n_launches));
}

/* After a fault nothing happens any more, but everything is reached. */
static void perform(struct CUstream_st *stream, struct sim_op *op)
{
    if (op->kind == SIM_RECORD) {
        op->event->reached = op->times;
        op->event->reached_ns = lam_now_ns();
    }
    if (op->kind != SIM_LAUNCH)
        stream->chain_begin = 0;
    if (sim_fault_text() != NULL)
        return;
    if (op->kind == SIM_LAUNCH)
        launch(stream, op);
    else if (op->kind == SIM_COPY)
        memcpy(op->to, op->from, op->bytes);
    else if (op->kind == SIM_FILL)
        memset(op->to, op->value, op->bytes);
    else if (op->kind == SIM_CALL)
        op->call(op->params);
}

/* The stream's next operation; false: there is none, or it waits for another stream. */
static bool advance(struct CUstream_st *stream)
{
    struct sim_op *op = stream->first;

    if (op == NULL || (op->kind == SIM_WAIT && op->event->reached < op->times))
        return false;
    stream->first = op->next;
    if (op->next == NULL)
        stream->last = &stream->first;
    perform(stream, op);
    lam_free(op);
    return true;
}

/* The stream that brings the event there for the `times`-th time. */
static struct CUstream_st *stream_of(const struct CUevent_st *event, uint64_t times)
{
    for (struct CUstream_st *stream = streams; stream != NULL; stream = stream->next) {
        for (const struct sim_op *op = stream->first; op != NULL; op = op->next) {
            if (op->kind == SIM_RECORD && op->event == event && op->times == times)
                return stream;
        }
    }
    return NULL;
}

void sim_reach(struct CUevent_st *event, uint64_t times)
{
    while (event->reached < times) {
        struct CUstream_st *stream = stream_of(event, event->reached + 1);
        assert(stream != NULL); /* it was queued in one of them */
        if (!advance(stream))   /* no loops: a wait is for what was queued before it */
            sim_reach(stream->first->event, stream->first->times);
    }
}

void sim_drain(struct CUstream_st *stream)
{
    while (stream->first != NULL) {
        if (!advance(stream))
            sim_reach(stream->first->event, stream->first->times);
    }
}

bool sim_step(void)
{
    for (struct CUstream_st *stream = streams; stream != NULL; stream = stream->next) {
        if (advance(stream))
            return true;
    }
    return false;
}
