/*
 * service: the methods of laminar.v1.Loader. Takes messages apart, checks them, and hands them to
 * the sessions and extents of their model; holds no state of its own but a scratch arena. The user
 * pointer of a stream is the share that its session was opened with. Every function here runs on
 * the server's I/O thread.
 */
#ifndef LAMINAR_LOADER_SERVICE_H
#define LAMINAR_LOADER_SERVICE_H

#include "common/mem.h"
#include "common/status.h"
#include "loader/models.h"
#include "loader/pool.h"
#include "rpc/server.h"

#define LAM_SERVICE_NAME "laminar.v1.Loader"
#define LAM_SERVICE_REQUEST_BYTES_MAX 65536u
#define LAM_SERVICE_CHUNK_BYTES ((uint64_t)1 << 20)

/* Fill the first two, then lam_service_init. */
struct lam_service {
    struct lam_models *models;
    const struct lam_pool *pool;
    struct lam_arena arena; /* of the message that is being handled */
};

LAM_MUST_USE enum lam_status lam_service_init(struct lam_service *service, struct lam_err *err);
void lam_service_done(struct lam_service *service); /* a zeroed struct is allowed */

/* Adds the methods to a server that has not started. */
LAM_MUST_USE enum lam_status lam_service_add(
    struct lam_service *service, struct lam_rpc_server *server, struct lam_err *err);

#endif
