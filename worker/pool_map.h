/*
 * pool_map: the loader's memory pool in this process: taken from the pool socket
 * (proto/pool_socket.h) and mapped read-only. Nothing that arrives is believed: magic, number of
 * descriptors, size of the memfd, seals.
 *
 * The connection stays open as long as the mapping: it is our sign of life to the loader. The
 * mapping stays readable after the loader's death.
 */
#ifndef LAMINAR_WORKER_POOL_MAP_H
#define LAMINAR_WORKER_POOL_MAP_H

#include <stdint.h>

#include "common/status.h"
#include "proto/pool_socket.h"

struct lam_pool_map {
    const unsigned char *base; /* NULL: not mapped */
    uint64_t bytes;
    unsigned char token[LAM_POOL_TOKEN_BYTES];
    int connection; /* meaningful while base is not NULL */
};

/*
 * Waits up to timeout_ns for the socket `path` to accept and greet.
 * Errors: LAM_UNAVAILABLE names the path; LAM_DATA_LOSS when the greeting is not what it should be.
 */
LAM_MUST_USE enum lam_status lam_pool_map_open(
    const char *path, uint64_t timeout_ns, struct lam_pool_map *ret_map, struct lam_err *err);

void lam_pool_map_close(struct lam_pool_map *map); /* a zeroed struct is allowed */

#endif
