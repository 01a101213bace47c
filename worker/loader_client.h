/*
 * loader_client: the worker's unary questions to the loader (proto/laminar/v1/loader.proto): the
 * model's numbers, its header, extents of the file. The leases are in lease.h.
 *
 * One thread. Every answer is checked against what was asked for.
 */
#ifndef LAMINAR_WORKER_LOADER_CLIENT_H
#define LAMINAR_WORKER_LOADER_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/status.h"
#include "rpc/client.h"

/* Ranges and bytes of one ReadExtent: the protocol's limits. */
#define LAM_LOADER_RANGES_MAX 4096u
#define LAM_LOADER_EXTENT_BYTES_MAX ((uint64_t)1 << 20)

struct lam_loader_client {
    const char *address; /* for error texts; outlives the client */
    uint64_t timeout_ns;
    struct lam_rpc_channel *channel;
    struct lam_buf request;
    struct lam_buf response;
    struct lam_arena arena; /* of the answer */
    uint64_t *offsets;      /* [LAM_LOADER_RANGES_MAX] of a question */
};

struct lam_loader_model {
    uint64_t handle;
    uint64_t digest;
    uint64_t header_bytes;
    uint64_t file_bytes;
    uint32_t n_units;
    uint32_t n_slots;       /* for streamed units; 0: all stay */
    uint64_t n_ahead_bytes; /* that keep the drive busy */
    bool table_kept;        /* unit n_units is kept: the embedding */
};

/* Waits until the loader answers. Errors: LAM_UNAVAILABLE names the address. */
LAM_MUST_USE enum lam_status lam_loader_client_init(struct lam_loader_client *client,
    const char *address, uint64_t timeout_ns, struct lam_err *err);
void lam_loader_client_done(struct lam_loader_client *client); /* a zeroed struct is allowed */

/* path: of the model file as the loader sees it; "" for the one that it was started with. */
LAM_MUST_USE enum lam_status lam_loader_client_register(struct lam_loader_client *client,
    const char *path, struct lam_loader_model *ret_model, struct lam_err *err);

/* out: [model->header_bytes]. */
LAM_MUST_USE enum lam_status lam_loader_client_header(struct lam_loader_client *client,
    const struct lam_loader_model *model, void *out, struct lam_err *err);

/* What is read by several questions. */
struct lam_loader_reads {
    uint32_t n; /* questions */
    /* Question i: fills offsets, within the limits above (asserted), sets what is read at each of
     * them, and returns how many they are. */
    uint32_t (*ask)(void *arg, uint32_t i, uint64_t *offsets, uint64_t *ret_bytes_each);
    /* Its answer, back to back; in order, and data is gone afterwards. */
    void (*take)(void *arg, uint32_t i, const unsigned char *data);
    void *arg;
};

/* At most LAM_LOADER_READS_MAX questions are under way at a time. After an error some answers were
 * not taken. */
#define LAM_LOADER_READS_MAX 4u
LAM_MUST_USE enum lam_status lam_loader_client_read(struct lam_loader_client *client,
    uint64_t handle, const struct lam_loader_reads *reads, struct lam_err *err);

#endif
