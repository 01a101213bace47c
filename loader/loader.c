/* loader: the order of start and stop, which is all that this file knows. */
#include "loader/loader.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/handover.h"
#include "loader/metrics.h"
#include "loader/models.h"
#include "loader/pool.h"
#include "loader/service.h"
#include "loader/sessions.h"
#include "rpc/ops.h"
#include "rpc/server.h"

#define CALLS_MAX 256u
#define SHUTDOWN_GRACE_NS (200 * LAM_NS_PER_MS)
#define TICKS_PER_RETRY 10u /* of 100 ms */

struct lam_loader {
    struct lam_models models;
    struct lam_pool pool;
    struct lam_handover *handover;
    struct lam_service service;
    struct lam_rpc_server *server;
    bool server_started;
    uint32_t n_ticks; /* I/O thread */
    struct lam_ops *ops;

    pthread_t populate_thread;
    bool populating;
    atomic_bool stopping;

    int failure_fd;
    pthread_mutex_t lock; /* guards the failure */
    struct lam_err failure;
};

static void fail_later(struct lam_loader *loader, const struct lam_err *err)
{
    uint64_t one = 1;

    pthread_mutex_lock(&loader->lock);
    loader->failure = *err;
    pthread_mutex_unlock(&loader->lock);
    lam_ignore(write(loader->failure_fd, &one, sizeof(one)) < 0, "an empty eventfd takes 1");
}

static double per_second(uint64_t bytes, uint64_t ns)
{
    return (double)bytes / (double)LAM_GIB / ((double)(ns + 1) / (double)LAM_NS_PER_S);
}

/* Why a first token is late where the machine is slow to give memory. */
static void log_memory(const struct lam_pool *pool)
{
    uint64_t bytes = atomic_load(&pool->ready_bytes);
    uint64_t ns = atomic_load(&pool->ready_ns);
    const char *how = "in pages of 4 KiB";
    char all[24], small[24], rest[64] = "";

    if (strcmp(pool->pages, "hugetlb") == 0)
        how = "in huge pages that were set aside";
    else if (strcmp(pool->pages, "thp") == 0)
        how = "in huge pages by MADV_COLLAPSE";
    if (pool->small_bytes > 0)
        snprintf(rest, sizeof(rest), ", but for %s: they were not to be had in time",
            lam_size_format(pool->small_bytes, small, sizeof(small)));
    lam_info("pool: %s in %.2f s, %.2f GiB/s, %s%s", lam_size_format(bytes, all, sizeof(all)),
        (double)ns / (double)LAM_NS_PER_S, per_second(bytes, ns), how, rest);
}

static bool populate_region(struct lam_loader *loader, struct lam_share *share, uint32_t r)
{
    const struct lam_region *region = &share->layout.regions[r];
    uint64_t before_ns = atomic_load(&loader->pool.ready_ns);
    struct lam_err err = {0};
    char size[24];
    uint64_t ns;

    if (lam_pool_populate(&loader->pool, share->pool_offset + region->pool_offset, region->bytes,
            &err) != LAM_OK) {
        fail_later(loader, &err);
        return false;
    }
    ns = atomic_load(&loader->pool.ready_ns) - before_ns;
    lam_debug("pool: a region of %s in %.2f s, %.2f GiB/s",
        lam_size_format(region->bytes, size, sizeof(size)), (double)ns / (double)LAM_NS_PER_S,
        per_second(region->bytes, ns));
    lam_share_back(share, r);
    return true;
}

/* The model that gets memory next, and its region: in turn from `turn` on, those first for which a
 * session waits. LAM_MODELS_MAX: all have all of theirs. */
static uint32_t next_region(struct lam_loader *loader, uint32_t turn, uint32_t *ret_r)
{
    uint32_t n = loader->models.n_shares, found = LAM_MODELS_MAX;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t m = (turn + i) % n, r;
        bool awaited;

        if (!lam_sessions_next_region(loader->models.shares[m].sessions, &r, &awaited) ||
            (found != LAM_MODELS_MAX && !awaited))
            continue;
        found = m;
        *ret_r = r;
        if (awaited)
            break;
    }
    return found;
}

/* The regions after the first, while units are read into those that are there. What sessions wait
 * for is asked anew before each, so this never waits for anybody. */
static void *populate(void *arg)
{
    struct lam_loader *loader = arg;
    uint32_t turn = 0;

    for (;;) {
        uint32_t m, r;

        lam_fault_pass("region");
        m = next_region(loader, turn, &r);
        if (m == LAM_MODELS_MAX)
            break;
        if (atomic_load(&loader->stopping) ||
            !populate_region(loader, &loader->models.shares[m], r))
            return NULL;
        turn = m + 1;
    }
    log_memory(&loader->pool);
    return NULL;
}

static void on_tick(void *arg)
{
    struct lam_loader *loader = arg;

    if (++loader->n_ticks % TICKS_PER_RETRY != 0)
        return;
    for (uint32_t i = 0; i < loader->models.n_shares; i++)
        lam_share_tick(&loader->models.shares[i]);
}

/* On the handover's thread. A worker may have a session with each model. */
static void on_gone(void *arg, const unsigned char *token, int pid)
{
    struct lam_loader *loader = arg;

    for (uint32_t i = 0; i < loader->models.n_shares; i++)
        lam_sessions_on_gone(loader->models.shares[i].sessions, token, pid);
}

static enum lam_status open_models(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    enum lam_status status =
        lam_models_open(&loader->models, config->models, config->n_models, &config->share, err);

    for (uint32_t i = 0; i < loader->models.n_shares && status == LAM_OK; i++) {
        if (!config->no_checksums)
            status = lam_share_open_record(&loader->models.shares[i], config->integrity_cache, err);
    }
    return status;
}

static enum lam_status make_parts(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    const struct lam_share *first = &loader->models.shares[0];
    struct lam_handover_config handover = {
        .path = config->pool_socket, .on_gone = on_gone, .arg = loader};
    enum lam_status status = lam_models_lay_out(&loader->models, config->ram, err);

    if (status == LAM_OK)
        status = lam_pool_init(
            loader->models.pool_bytes, first->layout.regions[0].bytes, &loader->pool, err);
    if (status == LAM_OK)
        status = lam_models_start(&loader->models, &loader->pool, err);
    handover.pool_fd = loader->pool.fd;
    handover.pool_bytes = loader->pool.bytes;
    if (status == LAM_OK)
        status = lam_handover_start(&handover, &loader->handover, err);
    for (uint32_t i = 0; i < loader->models.n_shares && status == LAM_OK; i++)
        lam_share_connect(&loader->models.shares[i], loader->handover);
    return status;
}

static enum lam_status make_server(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    struct lam_rpc_server_config server = {.listen = config->listen,
        .n_listen = config->n_listen,
        .message_bytes_max = LAM_SERVICE_REQUEST_BYTES_MAX,
        .calls_max = CALLS_MAX,
        .no_keepalive = true, /* the pool socket tells who is alive */
        .on_tick = on_tick,
        .tick_arg = loader};
    enum lam_status status;

    loader->service.models = &loader->models;
    loader->service.pool = &loader->pool;
    status = lam_service_init(&loader->service, err);
    if (status == LAM_OK)
        status = lam_rpc_server_create(&server, &loader->server, err);
    if (status == LAM_OK)
        status = lam_service_add(&loader->service, loader->server, err);
    if (status == LAM_OK)
        status = lam_rpc_server_add_standard(loader->server, err);
    if (status == LAM_OK)
        status = lam_rpc_server_start(loader->server, err);
    loader->server_started = status == LAM_OK;
    return status;
}

/* On the thread of the operations port. */
static bool write_metrics(void *arg, struct lam_buf *out)
{
    struct lam_loader *loader = arg;

    return lam_loader_metrics_write(&loader->models, &loader->pool, out);
}

static const char *unhealthy(void *arg)
{
    struct lam_loader *loader = arg;

    if (lam_loader_failure(loader, NULL) != LAM_OK)
        return "the machine refused a part of the pool: give a smaller --ram";
    for (uint32_t i = 0; i < loader->models.n_shares; i++) {
        if (lam_checker_lost(loader->models.shares[i].checker, NULL) != LAM_OK)
            return "a model file has changed since it was opened: restart the loader";
    }
    return NULL;
}

static enum lam_status make_ops(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    struct lam_ops_config ops = {.listen = config->ops,
        .process = "laminar-loader",
        .record = config->record,
        .arg = loader,
        .write_metrics = write_metrics,
        .unhealthy = unhealthy};

    return config->ops == NULL ? LAM_OK : lam_ops_start(&ops, &loader->ops, err);
}

static void log_integrity(const struct lam_share *share)
{
    struct lam_integrity_counts counts;

    if (share->integrity == NULL) {
        lam_warn("checksums are off: damaged weights would be computed on");
        return;
    }
    lam_integrity_count(share->integrity, &counts);
    lam_info("checksums of %" PRIu64 " of %" PRIu64 " chunks are known from earlier runs",
        counts.known, counts.chunks);
    if (lam_integrity_note(share->integrity)[0] != '\0')
        lam_warn("%s", lam_integrity_note(share->integrity));
}

static void log_share(const struct lam_share *share, const struct lam_pool *pool)
{
    const struct lam_manifest *manifest = &share->file.manifest;
    struct lam_reader_info info;
    char total[24], part[24];

    lam_reader_info(share->reader, &info);
    lam_info("%s: %s in %" PRIu32 " units, %" PRIu32 " of them stay%s in a pool of %s (%s pages)",
        share->file.path, lam_size_format(manifest->unit_bytes_total, total, sizeof(total)),
        manifest->n_units, share->layout.n_kept - share->layout.has_table,
        share->layout.has_table ? " and the embedding" : "",
        lam_size_format(share->layout.pool_bytes, part, sizeof(part)), pool->pages);
    lam_info("reading by %s, %s, %s buffers, requests of %" PRIu64 " KiB, %" PRIu32
             " under way; copies of the file: %" PRIu32 ", drives: %" PRIu32,
        info.engine, info.direct ? "direct" : "through the page cache",
        info.fixed_buffers ? "registered" : "plain", info.request_bytes / LAM_KIB, info.depth,
        info.n_copies, info.n_drives);
    if (info.note[0] != '\0')
        lam_warn("%s", info.note);
    if (!info.fixed_buffers && strcmp(info.engine, "io_uring") == 0)
        lam_warn(
            "the kernel refused to register the pool, so reads cost more CPU time: raise the limit "
            "of locked memory (ulimit -l)");
    log_integrity(share);
}

/* Says once what was found and chosen. */
static void log_start(const struct lam_loader *loader)
{
    for (uint32_t i = 0; i < loader->models.n_shares; i++)
        log_share(&loader->models.shares[i], &loader->pool);
    if (loader->pool.note[0] != '\0')
        lam_info("%s", loader->pool.note);
    if (loader->ops != NULL && lam_ops_port(loader->ops) != 0)
        lam_info("metrics and health on port %d", lam_ops_port(loader->ops));
}

enum lam_status lam_loader_create(
    const struct lam_loader_config *config, struct lam_loader **ret_loader, struct lam_err *err)
{
    struct lam_loader *loader = lam_calloc(1, sizeof(*loader));
    enum lam_status status;
    int error;

    if (loader == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the loader");
    pthread_mutex_init(&loader->lock, NULL);
    loader->failure_fd = eventfd(0, EFD_CLOEXEC);
    if (loader->failure_fd < 0) {
        status = lam_fail_errno(err, errno, "cannot make an eventfd for the loader");
        goto fail;
    }
    status = open_models(loader, config, err);
    if (status == LAM_OK)
        status = make_parts(loader, config, err);
    if (status == LAM_OK)
        status = make_server(loader, config, err);
    if (status == LAM_OK)
        status = make_ops(loader, config, err);
    if (status != LAM_OK)
        goto fail;
    log_start(loader);
    for (uint32_t i = 0; i < loader->models.n_shares; i++)
        lam_share_back(&loader->models.shares[i], 0);
    error = pthread_create(&loader->populate_thread, NULL, populate, loader);
    if (error != 0) {
        status = lam_fail_errno(err, error, "cannot start a thread to populate the pool");
        goto fail;
    }
    loader->populating = true;
    lam_rpc_server_set_serving(loader->server, LAM_SERVICE_NAME, true);
    lam_rpc_server_set_serving(loader->server, "", true);
    *ret_loader = loader;
    return LAM_OK;

fail:
    lam_loader_destroy(loader);
    return status;
}

int lam_loader_ops_port(const struct lam_loader *loader)
{
    return loader->ops != NULL ? lam_ops_port(loader->ops) : 0;
}

int lam_loader_failure_fd(const struct lam_loader *loader)
{
    return loader->failure_fd;
}

enum lam_status lam_loader_failure(struct lam_loader *loader, struct lam_err *err)
{
    struct lam_err failure;

    pthread_mutex_lock(&loader->lock);
    failure = loader->failure;
    pthread_mutex_unlock(&loader->lock);
    if (failure.status != LAM_OK && err != NULL)
        *err = failure;
    return failure.status;
}

void lam_loader_destroy(struct lam_loader *loader)
{
    if (loader == NULL)
        return;
    atomic_store(&loader->stopping, true);
    if (loader->populating)
        pthread_join(loader->populate_thread, NULL);
    /* From the outside in: nobody calls a part that is gone. */
    lam_ops_stop(loader->ops);
    if (loader->server_started)
        lam_rpc_server_shutdown(loader->server, SHUTDOWN_GRACE_NS);
    lam_handover_stop(loader->handover);
    lam_models_close(&loader->models);
    lam_rpc_server_destroy(loader->server);
    lam_service_done(&loader->service);
    lam_pool_done(&loader->pool);
    if (loader->failure_fd >= 0)
        close(loader->failure_fd);
    pthread_mutex_destroy(&loader->lock);
    lam_free(loader);
}
