/*
 * fake_gateway: Workers.Attach in this process, scripted by the test's thread. It asks for the
 * header at each hello; a worker counts as attached when the header is whole. Waits give up after
 * some seconds.
 */
#ifndef LAMINAR_TESTS_UNIT_WORKER_FAKE_GATEWAY_H
#define LAMINAR_TESTS_UNIT_WORKER_FAKE_GATEWAY_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "rpc/server.h"

#define FAKE_TOKENS_MAX 8

/* The last hello. */
struct fake_gateway_seen {
    char worker_id[32];
    char device[32];
    int32_t context_tokens, max_sequences, max_rows, kv_page_tokens, kv_pages, max_steps;
    uint64_t header_bytes;
    struct lam_buf header; /* the gateway's */
};

#define FAKE_RESULTS_MAX 4

struct fake_token {
    uint32_t seq, epoch;
    int32_t token;
};

struct fake_result {
    uint64_t id;
    uint64_t pool_ready_bytes;
    double pool_ready_seconds;
    size_t n_tokens;
    struct fake_token tokens[FAKE_TOKENS_MAX];
};

struct fake_rows {
    uint32_t seq, epoch, position;
    const int32_t *tokens;
    size_t n_tokens;
    bool sampled; /* instead of tokens: the one drawn last */
    bool sample;  /* greedily */
};

struct fake_gateway {
    char dir[32];
    char address[64];
    struct lam_rpc_server *server;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct lam_rpc_call *call; /* of the attached worker, referenced */
    uint32_t n_attached;       /* so far */
    uint32_t n_results;        /* that nobody has waited for yet, the oldest first: */
    struct fake_result results[FAKE_RESULTS_MAX];
    struct fake_gateway_seen seen;
};

void fake_gateway_start(struct fake_gateway *gateway);
void fake_gateway_stop(struct fake_gateway *gateway);

/* False when the nth attachment does not come. ret_seen may be NULL. */
bool fake_gateway_wait_attached(
    struct fake_gateway *gateway, uint32_t nth, struct fake_gateway_seen *ret_seen);

void fake_gateway_step(struct fake_gateway *gateway, uint64_t id, const struct fake_rows *rows,
    size_t n_rows, const uint32_t *to_free, size_t n_free);

bool fake_gateway_wait_result(struct fake_gateway *gateway, struct fake_result *ret_result);

/* Ends the attachment. */
void fake_gateway_drop(struct fake_gateway *gateway);

#endif
