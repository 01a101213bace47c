/* loader: the order of start and stop, which is all that this file knows. */
#include "loader/loader.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/checker.h"
#include "loader/extent.h"
#include "loader/file.h"
#include "loader/handover.h"
#include "loader/integrity.h"
#include "loader/memory.h"
#include "loader/policy.h"
#include "loader/pool.h"
#include "loader/service.h"
#include "loader/sessions.h"
#include "rpc/server.h"

#define CALLS_MAX 256u
#define SHUTDOWN_GRACE_NS (200 * LAM_NS_PER_MS)
#define TICKS_PER_RETRY 10u /* of 100 ms */

struct lam_loader {
    struct lam_file file;
    bool file_open;
    struct lam_layout layout;
    struct lam_pool pool;
    struct lam_integrity *integrity; /* NULL: checksums are off */
    struct lam_sessions *sessions;
    struct lam_checker *checker;
    struct lam_reader *reader;
    struct lam_handover *handover;
    struct lam_extents *extents;
    struct lam_service service;
    struct lam_rpc_server *server;
    bool server_started;
    uint32_t n_ticks; /* I/O thread */

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

/* The regions after the first, in order, while units are read into those before. */
static void *populate(void *arg)
{
    struct lam_loader *loader = arg;
    const struct lam_layout *layout = &loader->layout;

    for (uint32_t r = 1; r < layout->n_regions && !atomic_load(&loader->stopping); r++) {
        const struct lam_region *region = &layout->regions[r];
        struct lam_err err = {0};

        if (lam_pool_populate(&loader->pool, region->pool_offset, region->bytes, &err) != LAM_OK) {
            fail_later(loader, &err);
            return NULL;
        }
        lam_reader_add_region(loader->reader, r);
        lam_sessions_back(loader->sessions, region->pool_offset + region->bytes);
    }
    return NULL;
}

static void on_tick(void *arg)
{
    struct lam_loader *loader = arg;

    if (++loader->n_ticks % TICKS_PER_RETRY == 0)
        lam_sessions_tick(loader->sessions);
}

static enum lam_status make_pool(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    const struct lam_manifest *manifest = &loader->file.manifest;
    uint64_t full_bytes =
        lam_policy_bytes_full(manifest->units, manifest->n_units, loader->file.align);
    struct lam_memory memory;
    uint64_t budget_bytes;
    enum lam_status status = lam_memory_read(&memory, err);

    if (status == LAM_OK)
        status = lam_memory_budget(&memory, config->ram, full_bytes, &budget_bytes, err);
    if (status == LAM_OK)
        status = lam_policy_layout(manifest->units, manifest->n_units, loader->file.align,
            budget_bytes, &loader->layout, err);
    if (status == LAM_OK)
        status = lam_pool_init(
            loader->layout.pool_bytes, loader->layout.regions[0].bytes, &loader->pool, err);
    return status;
}

static enum lam_status make_parts(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    struct lam_reader_config reader = {.file = &loader->file,
        .pool_base = loader->pool.base,
        .regions = loader->layout.regions,
        .n_regions = loader->layout.n_regions,
        .choice = config->engine,
        .on_done = lam_checker_on_load_end,
        .on_issued = lam_checker_on_issued};
    struct lam_checker_config checker = {.file = &loader->file,
        .integrity = loader->integrity,
        .layout = &loader->layout,
        .pool_base = loader->pool.base,
        .on_done = lam_sessions_on_load_end,
        .on_issued = lam_sessions_on_issued,
        .on_lost = lam_sessions_on_lost};
    struct lam_handover_config handover = {.path = config->pool_socket,
        .pool_fd = loader->pool.fd,
        .pool_bytes = loader->pool.bytes,
        .on_gone = lam_sessions_on_gone};
    enum lam_status status =
        lam_sessions_create(&loader->file, &loader->layout, &loader->sessions, err);

    checker.arg = loader->sessions;
    handover.arg = loader->sessions;
    if (status == LAM_OK)
        status = lam_checker_create(&checker, &loader->checker, err);
    reader.arg = loader->checker;
    if (status == LAM_OK)
        status = lam_reader_create(&reader, &loader->reader, err);
    if (status == LAM_OK)
        status = lam_handover_start(&handover, &loader->handover, err);
    if (status != LAM_OK)
        return status;
    lam_checker_connect(loader->checker, loader->reader);
    lam_sessions_connect(loader->sessions, loader->checker, loader->handover);
    return lam_extents_create(&loader->file, loader->integrity, loader->pool.base, loader->sessions,
        &loader->extents, err);
}

static enum lam_status make_server(
    struct lam_loader *loader, const struct lam_loader_config *config, struct lam_err *err)
{
    struct lam_rpc_server_config server = {.listen = config->listen,
        .n_listen = config->n_listen,
        .message_bytes_max = LAM_SERVICE_REQUEST_BYTES_MAX,
        .calls_max = CALLS_MAX,
        .on_tick = on_tick,
        .tick_arg = loader};
    enum lam_status status;

    loader->service.file = &loader->file;
    loader->service.layout = &loader->layout;
    loader->service.pool = &loader->pool;
    loader->service.reader = loader->reader;
    loader->service.sessions = loader->sessions;
    loader->service.checker = loader->checker;
    loader->service.integrity = loader->integrity;
    loader->service.extents = loader->extents;
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

static void log_integrity(const struct lam_loader *loader)
{
    struct lam_integrity_counts counts;

    if (loader->integrity == NULL) {
        lam_warn("checksums are off: damaged weights would be computed on");
        return;
    }
    lam_integrity_count(loader->integrity, &counts);
    lam_info("checksums of %" PRIu64 " of %" PRIu64 " chunks are known from earlier runs",
        counts.known, counts.chunks);
    if (lam_integrity_note(loader->integrity)[0] != '\0')
        lam_warn("%s", lam_integrity_note(loader->integrity));
}

/* Says once what was found and chosen. */
static void log_start(const struct lam_loader *loader)
{
    const struct lam_manifest *manifest = &loader->file.manifest;
    struct lam_reader_info info;
    char total[24], pool[24];

    lam_reader_info(loader->reader, &info);
    lam_info("%s: %s in %" PRIu32 " units, %" PRIu32 " of them stay in a pool of %s (%s pages)",
        loader->file.path, lam_size_format(manifest->unit_bytes_total, total, sizeof(total)),
        manifest->n_units, loader->layout.n_kept,
        lam_size_format(loader->pool.bytes, pool, sizeof(pool)), loader->pool.pages);
    lam_info("reading by %s, %s, %s buffers", info.engine,
        info.direct ? "direct" : "through the page cache",
        info.fixed_buffers ? "registered" : "plain");
    if (info.note[0] != '\0')
        lam_warn("%s", info.note);
    if (!info.fixed_buffers && strcmp(info.engine, "io_uring") == 0)
        lam_warn(
            "the kernel refused to register the pool, so reads cost more CPU time: raise the limit "
            "of locked memory (ulimit -l)");
    if (loader->pool.note[0] != '\0')
        lam_debug("%s", loader->pool.note);
    log_integrity(loader);
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
    status = lam_file_open(config->model, &loader->file, err);
    loader->file_open = status == LAM_OK;
    if (status == LAM_OK && !config->no_checksums)
        status =
            lam_integrity_open(&loader->file, config->integrity_cache, &loader->integrity, err);
    if (status == LAM_OK)
        status = make_pool(loader, config, err);
    if (status == LAM_OK)
        status = make_parts(loader, config, err);
    if (status == LAM_OK)
        status = make_server(loader, config, err);
    if (status != LAM_OK)
        goto fail;
    log_start(loader);
    lam_sessions_back(loader->sessions, loader->layout.regions[0].bytes);
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
    if (loader->server_started)
        lam_rpc_server_shutdown(loader->server, SHUTDOWN_GRACE_NS);
    lam_handover_stop(loader->handover);
    lam_extents_destroy(loader->extents);
    lam_checker_stop(loader->checker);
    lam_reader_destroy(loader->reader);
    lam_checker_destroy(loader->checker);
    lam_rpc_server_destroy(loader->server);
    lam_service_done(&loader->service);
    lam_sessions_destroy(loader->sessions);
    lam_pool_done(&loader->pool);
    lam_layout_done(&loader->layout);
    lam_integrity_close(loader->integrity);
    if (loader->file_open)
        lam_file_close(&loader->file);
    if (loader->failure_fd >= 0)
        close(loader->failure_fd);
    pthread_mutex_destroy(&loader->lock);
    lam_free(loader);
}
