/*
 * ops: the operations port: plain HTTP for Prometheus and for probes, apart from gRPC.
 *
 *     GET /metrics   the service's metrics as Prometheus text
 *     GET /healthz   200 "ok", or 503 and the reason
 *
 * One thread of its own (libmicrohttpd); at most 32 connections; everything else is 404 or 405.
 */
#ifndef LAMINAR_RPC_OPS_H
#define LAMINAR_RPC_OPS_H

#include "common/buf.h"
#include "common/status.h"

struct lam_ops;

struct lam_ops_config {
    const char *listen; /* "127.0.0.1:9464" or "[::1]:9464"; port 0 picks one */
    void *arg;
    /* Appends the metrics text; false: no memory. Called on the ops thread. */
    bool (*write_metrics)(void *arg, struct lam_buf *out);
    /* NULL when healthy, else a short static reason. Called on the ops thread. */
    const char *(*unhealthy)(void *arg);
};

/* Errors: LAM_INVALID_ARGUMENT (address), LAM_ALREADY_EXISTS (port in use), named. */
LAM_MUST_USE enum lam_status lam_ops_start(
    const struct lam_ops_config *config, struct lam_ops **ret_ops, struct lam_err *err);

int lam_ops_port(const struct lam_ops *ops);

void lam_ops_stop(struct lam_ops *ops); /* NULL is allowed */

#endif
