/*
 * queue: streams and events. Nothing that is queued happens until somebody waits for it, and then
 * only what leads to it: what the host touches too early, and what a stream does not wait for, is
 * seen in the results. Called under the runtime's lock.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_QUEUE_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/kernels/simulated/machine.h"

struct CUevent_st {
    uint64_t recorded; /* times that it was queued to be reached */
    uint64_t reached;
    uint64_t reached_ns;
};

enum sim_op_kind { SIM_LAUNCH, SIM_COPY, SIM_FILL, SIM_CALL, SIM_RECORD, SIM_WAIT };

struct sim_op {
    enum sim_op_kind kind;
    struct sim_op *next;
    struct CUevent_st *event;
    uint64_t times; /* of the event */
    void *to;
    const void *from;
    uint64_t bytes;
    int value;
    void (*call)(const void *params); /* the host's own code in a stream: cuBLAS */
    struct sim_launch launch;
    _Alignas(16) unsigned char params[];
};

struct CUstream_st {
    struct sim_op *first;
    struct sim_op **last; /* where the next one is hung in */
    struct CUstream_st *next;
    /* Launches from this one on may run beside each other: nothing lies between them. */
    uint64_t chain_begin;
};

struct CUstream_st *sim_stream_create(void); /* NULL: no memory */
void sim_stream_destroy(struct CUstream_st *stream);

/* An operation with room for what a launch or call gets; NULL: no memory. */
struct sim_op *sim_op_new(enum sim_op_kind kind, size_t param_bytes);
void sim_queue(struct CUstream_st *stream, struct sim_op *op);

/* Until the stream is empty; until the event is reached so many times. */
void sim_drain(struct CUstream_st *stream);
void sim_reach(struct CUevent_st *event, uint64_t times);
/* One operation of any stream, if there is one that can be done. */
bool sim_step(void);

#endif
