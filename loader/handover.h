/*
 * handover: the pool socket (proto/pool_socket.h): gives the pool's descriptor to workers and
 * watches them.
 *
 * One thread waits for connections, for their end, and, through a pidfd of each peer, for the end
 * of the process, so the death of a worker is noticed within milliseconds and without a timer.
 * Where a pidfd cannot be had (another pid namespace), the connection alone is watched: it ends
 * with the process too.
 */
#ifndef LAMINAR_LOADER_HANDOVER_H
#define LAMINAR_LOADER_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "proto/pool_socket.h"

#define LAM_HANDOVER_PEERS_MAX 64u

struct lam_handover;

struct lam_handover_config {
    const char *path; /* of the socket; a leftover of a dead loader is replaced */
    int pool_fd;
    uint64_t pool_bytes;
    /* The peer that got this token is gone. On the handover's thread, without a lock. */
    void (*on_gone)(void *arg, const unsigned char *token, int pid);
    void *arg;
};

/* Errors: LAM_ALREADY_EXISTS when somebody listens on the path, LAM_INVALID_ARGUMENT when it is too
 * long, LAM_PERMISSION_DENIED, LAM_NOT_FOUND (no such directory). */
LAM_MUST_USE enum lam_status lam_handover_start(const struct lam_handover_config *config,
    struct lam_handover **ret_handover, struct lam_err *err);

/* Closes all connections (without on_gone) and removes the socket. NULL is allowed. */
void lam_handover_stop(struct lam_handover *handover);

/* Is the peer that got this token still connected? A peer that goes after a yes is reported by
 * on_gone. [any thread] */
bool lam_handover_knows(struct lam_handover *handover, const void *token, size_t token_bytes);

#endif
