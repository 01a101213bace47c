/*
 * service: the worker's side of Workers.Attach (proto/laminar/v1/worker.proto): says hello, sends
 * the model's header when asked, then answers each Step with a StepResult.
 *
 * A gateway that goes away, or that sends a step which does not hold together, costs the
 * attachment: the slots are cleared and the worker dials again, after 0.2 s at first and 5 s in the
 * end. A unit that cannot be had costs the worker: run returns the reason.
 */
#ifndef LAMINAR_WORKER_SERVICE_H
#define LAMINAR_WORKER_SERVICE_H

#include "common/status.h"
#include "worker/engine.h"
#include "worker/metrics.h"
#include "worker/units.h"

struct lam_service;

struct lam_service_config {
    const char *gateway;   /* gRPC address */
    const char *worker_id; /* unique among the gateway's workers */
    const char *device;    /* "cpu", "cuda:0" */
    struct lam_units *units;
    struct lam_engine *engine;
    struct lam_worker_metrics *metrics; /* NULL: nobody asks */
};

/* What the config points to must outlive the service. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_service_create(
    const struct lam_service_config *config, struct lam_service **ret_service, struct lam_err *err);
void lam_service_destroy(struct lam_service *service); /* NULL is allowed */

/*
 * Serves until lam_service_stop (LAM_OK) or until the loader is lost or a unit cannot be had (that
 * status). Logs what happens to the attachment. Uses the engine on the calling thread.
 */
LAM_MUST_USE enum lam_status lam_service_run(struct lam_service *service, struct lam_err *err);

/* Ends run after the pass in progress, whose result is still sent. [any thread] */
void lam_service_stop(struct lam_service *service);

/* To be called when the loader is lost: an idle worker then ends at once, not at the next step.
 * [any thread] */
void lam_service_lose_loader(struct lam_service *service);

#endif
