/*
 * service: the gateway as one object: laminar.v1.Generation for clients, laminar.v1.Workers for
 * workers.
 *
 * Everything behind it (scheduler, registry, generations) belongs to the rpc server's I/O thread:
 * there are no locks. One thread more turns long prompts into tokens (aside.h). create, start,
 * shutdown and destroy are for one other thread.
 */
#ifndef LAMINAR_GATEWAY_SERVICE_H
#define LAMINAR_GATEWAY_SERVICE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/trace.h"

struct lam_service;

struct lam_service_config {
    const char *const *listen; /* [n_listen], as in rpc/server.h */
    size_t n_listen;
    uint32_t waiting_max;     /* requests that no worker has started; more get RESOURCE_EXHAUSTED */
    uint64_t orphan_limit_ns; /* how long a request waits while no worker is attached */
    uint64_t step_limit_ns;   /* a worker that takes longer for a step is given up; 0: none is */
    const char *chat_name;    /* chat template instead of the model's own; NULL: the model's */
    const char *ops;          /* as lam_ops_config.listen; NULL: none */
    const struct lam_trace_mark *record; /* as lam_ops_config.record */
};

/* Strings are used until destroy. Errors: those of lam_rpc_server_create; LAM_INVALID_ARGUMENT:
 * chat_name. */
LAM_MUST_USE enum lam_status lam_service_create(
    const struct lam_service_config *config, struct lam_service **ret_service, struct lam_err *err);

/* Listens. Errors: those of lam_rpc_server_start and lam_ops_start. */
LAM_MUST_USE enum lam_status lam_service_start(struct lam_service *service, struct lam_err *err);

/* The port that address i got; 0 for Unix sockets. */
int lam_service_port(const struct lam_service *service, size_t i);

/* Of the operations port; 0 without one, or for a Unix socket. */
int lam_service_ops_port(const struct lam_service *service);

/* Lets generations finish for at most grace_ns, refuses new ones, then ends everything. */
void lam_service_shutdown(struct lam_service *service, uint64_t grace_ns);
void lam_service_destroy(struct lam_service *service); /* after shutdown; NULL is allowed */

#endif
