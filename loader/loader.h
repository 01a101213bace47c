/*
 * loader: the whole service, put together: models, pool, pool socket, gRPC server.
 *
 * create returns when the first region of each model's pool is populated and workers can connect; a
 * thread populates the other regions, and units are read as their places come up. create and
 * destroy: one thread, the caller.
 */
#ifndef LAMINAR_LOADER_LOADER_H
#define LAMINAR_LOADER_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/models.h"
#include "loader/share.h"

#define LAM_LOADER_MODELS_MAX LAM_MODELS_MAX

struct lam_loader;

struct lam_loader_config {
    const char *const *models; /* [n_models] paths of GGUF files; one given twice is there once */
    size_t n_models;
    const char *const *listen; /* [n_listen] gRPC addresses: "unix:/run/laminar/loader.sock" */
    size_t n_listen;
    const char *pool_socket;             /* path */
    const char *ops;                     /* as lam_ops_config.listen; NULL: none */
    const struct lam_trace_mark *record; /* as lam_ops_config.record */
    const char *ram;                     /* "auto", "75%", "3GiB" */
    struct lam_share_options share;      /* how to read them */
    bool no_checksums;                   /* for measuring what they cost */
    const char *integrity_cache; /* directory of the checksums of earlier runs; NULL: none */
};

/* Errors: those of the parts, each with the thing and the remedy. Logs what it found and chose. */
LAM_MUST_USE enum lam_status lam_loader_create(
    const struct lam_loader_config *config, struct lam_loader **ret_loader, struct lam_err *err);

/* Of the operations port; 0 without one. */
int lam_loader_ops_port(const struct lam_loader *loader);

/* Becomes readable when the loader cannot go on, for example because the machine refused the rest
 * of the pool; lam_loader_failure then says why. The descriptor is the loader's. */
int lam_loader_failure_fd(const struct lam_loader *loader);

/* LAM_OK while all is well. */
LAM_MUST_USE enum lam_status lam_loader_failure(struct lam_loader *loader, struct lam_err *err);

/* Ends all sessions, removes the sockets, gives the memory back. NULL is allowed. */
void lam_loader_destroy(struct lam_loader *loader);

#endif
