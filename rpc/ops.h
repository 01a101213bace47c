/*
 * ops: the operations port: plain HTTP for Prometheus, for probes and for traces, apart from gRPC.
 *
 *     GET /metrics           the service's metrics as Prometheus text
 *     GET /healthz           200 "ok", or 503 and the reason
 *     GET /trace?seconds=N   records spans (common/trace.h) for N seconds, 1 to 60, and answers
 *                            with them as JSON that Perfetto opens; 409 while another one records
 *     GET /trace             the same at once, of a process that records from its start
 *
 * One thread of its own (libmicrohttpd), and one more while somebody records; at most 32
 * connections; everything else is 404 or 405.
 */
#ifndef LAMINAR_RPC_OPS_H
#define LAMINAR_RPC_OPS_H

#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "common/trace.h"

struct lam_ops;

struct lam_ops_config {
    /* "127.0.0.1:9464" or "[::1]:9464", port 0 picks one; or "unix:/path". All pointers are used
     * until the stop. */
    const char *listen;
    const char *process;                 /* in traces: "laminar-loader" */
    const struct lam_trace_mark *record; /* since the start; NULL: records when asked */
    void *arg;
    /* Appends the metrics text; false: no memory. Called on the ops thread. */
    bool (*write_metrics)(void *arg, struct lam_buf *out);
    /* NULL when healthy, else a short static reason. Called on the ops thread. */
    const char *(*unhealthy)(void *arg);
};

/* Errors: LAM_INVALID_ARGUMENT (address), LAM_ALREADY_EXISTS (port or path in use), named. */
LAM_MUST_USE enum lam_status lam_ops_start(
    const struct lam_ops_config *config, struct lam_ops **ret_ops, struct lam_err *err);

int lam_ops_port(const struct lam_ops *ops); /* 0: a Unix socket */

void lam_ops_stop(struct lam_ops *ops); /* NULL is allowed */

/*
 * Asks the ops port of another process for `path` ("/metrics") and appends the body to *out.
 * Errors: LAM_UNAVAILABLE (nobody listens), LAM_DEADLINE_EXCEEDED, LAM_INVALID_ARGUMENT (the
 * address), LAM_FAILED_PRECONDITION (it answers with something else than 200, which the text
 * quotes), LAM_DATA_LOSS (half an answer, or one that is no HTTP), LAM_RESOURCE_EXHAUSTED (more
 * than out may hold).
 */
LAM_MUST_USE enum lam_status lam_ops_get(const char *address, const char *path, uint64_t timeout_ns,
    struct lam_buf *out, struct lam_err *err);

#endif
