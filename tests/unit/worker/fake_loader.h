/*
 * fake_loader: the loader's two doors (gRPC and pool socket) over a tiny_model, in this process,
 * obedient or misbehaving in one chosen way. A released unit is overwritten with 0xff at once.
 */
#ifndef LAMINAR_TESTS_UNIT_WORKER_FAKE_LOADER_H
#define LAMINAR_TESTS_UNIT_WORKER_FAKE_LOADER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "proto/pool_socket.h"
#include "rpc/server.h"
#include "tests/unit/worker/tiny_model.h"

/* What it says of its pool with the n-th unit that it grants: n more, in n ns. */
#define FAKE_READY_BYTES 4096u

enum fake_mode {
    FAKE_OBEDIENT,
    FAKE_TABLE,       /* keeps the embedding table too */
    FAKE_TABLE_LOOSE, /* says so, and grants it as a unit that streams */
    FAKE_NO_DESCRIPTOR,
    FAKE_TWO_DESCRIPTORS,
    FAKE_WRONG_MAGIC,
    FAKE_WRONG_SIZE,
    FAKE_UNSEALED,
    FAKE_SHORT_GREETING,
    FAKE_SHORT_HEADER,
    FAKE_LONG_HEADER,
    FAKE_HUGE_HEADER,
    FAKE_WRONG_UNITS,
    FAKE_SHORT_EXTENT,
    /* From here on: when the unit `at` is due. */
    FAKE_FAULT,
    FAKE_SILENCE,
    FAKE_END,
    FAKE_UNIT_BEYOND,
    FAKE_OFFSET_BEYOND,
    FAKE_OFFSET_SKEWED,
    FAKE_TWICE,
    FAKE_GARBAGE,
};

/* A ReadExtent that is not answered yet. */
struct fake_extent;

struct fake_loader {
    const struct tiny_model *tiny;
    enum fake_mode mode;
    uint32_t at;
    uint32_t n_kept; /* units 0, 2, 4 .. are kept until there are so many */
    char dir[32];
    char address[64]; /* for gRPC */
    char pool_path[64];
    struct lam_rpc_server *server;
    int listener;
    int connection;
    pthread_t greeter;
    int memfd;
    unsigned char *pool;
    uint64_t pool_bytes;
    uint64_t *pool_offsets; /* [n_units], and the table's */
    unsigned char token[LAM_POOL_TOKEN_BYTES];
    /* The I/O thread's: */
    uint32_t *cycle; /* [n_cycle] of the session */
    uint32_t n_cycle;
    uint32_t next; /* of the cycle */
    uint32_t credits;
    uint64_t generation;
    uint64_t *granted; /* of each: generation, 0: not held */
    atomic_uint n_held;
    atomic_uint n_held_most;
    atomic_uint n_released;
    atomic_uint n_sent; /* units */
    atomic_uint n_sessions;
    atomic_uint n_requests; /* messages with credit */
    atomic_uint n_extents;  /* ReadExtent calls */
    /* Set before them: so many ReadExtent calls must be under way before the first is answered. */
    uint32_t n_together;
    struct fake_extent *waiting; /* [n_waiting], the I/O thread's */
    uint32_t n_waiting;
    atomic_uint n_wrong; /* releases of what is not held, wrong tokens */
};

void fake_loader_start(struct fake_loader *loader, const struct tiny_model *tiny,
    enum fake_mode mode, uint32_t at, uint32_t n_kept);

/* The process "dies": streams end, the pool socket closes. */
void fake_loader_kill(struct fake_loader *loader);
void fake_loader_stop(struct fake_loader *loader); /* kill, if still alive, and free */

#endif
