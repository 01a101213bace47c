/* live_loader: see the header. */
#include "tests/unit/loader/live_loader.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"

struct model_file live_model;
struct lam_manifest live_manifest;
const char *live_path = live_model.path;
const char *live_ops;
struct lam_share_options live_options;
static struct lam_gguf *gguf;
static struct lam_spec spec;

struct lam_loader *live_start(const char *ram, enum lam_reader_choice engine)
{
    char listen[64], pool_socket[64];
    const char *addresses[1] = {listen};
    struct lam_loader_config config = {.models = &live_path,
        .n_models = 1,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ops = live_ops,
        .share = live_options,
        .ram = ram};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    config.share.engine = engine;
    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", live_model.dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", live_model.dir);
    if (lam_loader_create(&config, &loader, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return loader;
}

static void parse_model(void)
{
    assert_int_equal(
        lam_gguf_parse(live_model.bytes, live_model.n_bytes, live_model.n_bytes, &gguf, NULL),
        LAM_OK);
    assert_int_equal(lam_spec_read(gguf, &spec, NULL), LAM_OK);
    assert_int_equal(lam_manifest_build(gguf, &spec, &live_manifest, NULL), LAM_OK);
}

void live_use_model(uint64_t shift)
{
    model_file_make(&live_model, shift);
    parse_model();
}

void live_read_model(const char *dir)
{
    model_file_read(&live_model, dir);
    parse_model();
}

void live_drop_model(void)
{
    lam_manifest_done(&live_manifest);
    lam_gguf_destroy(gguf);
    model_file_remove(&live_model);
}

int live_set_up(void **state)
{
    (void)state;
    live_use_model(96);
    return 0;
}

int live_tear_down(void **state)
{
    (void)state;
    live_drop_model();
    return 0;
}

/* A --ram of that share of the model, with room for the alignment. */
const char *live_share(uint32_t percent, char text[32])
{
    uint64_t bytes = live_manifest.unit_bytes_total + live_manifest.n_units * 8192ull;

    snprintf(text, 32, "%llukib", (unsigned long long)(bytes * percent / 100 / 1024 + 1));
    return text;
}

void live_check_unit(const struct pool_worker *worker, const struct pool_event *event)
{
    const struct lam_unit *unit = &live_manifest.units[event->unit];

    assert_true(event->pool_offset + unit->bytes <= worker->pool_bytes);
    assert_memory_equal(
        worker->pool + event->pool_offset, live_model.bytes + unit->file_offset, unit->bytes);
}

/* Walks whole passes, one unit at a time like a worker, and compares every byte. */
void live_walk(struct pool_worker *worker, uint32_t n_passes)
{
    struct pool_event units[64] = {{0}};
    bool here[64] = {false};

    assert_true(live_manifest.n_units <= 64);
    pool_worker_credit(worker, 3);
    for (uint32_t pass = 0; pass < n_passes; pass++) {
        for (uint32_t u = 0; u < live_manifest.n_units; u++) {
            while (!here[u]) {
                struct pool_event event;
                struct lam_err err = {0};

                if (pool_worker_next(worker, &event, &err) != LAM_OK)
                    fail_msg("%s", err.text);
                assert_false(event.fault);
                assert_false(here[event.unit]);
                here[event.unit] = true;
                units[event.unit] = event;
            }
            live_check_unit(worker, &units[u]);
            if (units[u].kept)
                continue;
            here[u] = false;
            pool_worker_release(worker, u, units[u].generation);
            pool_worker_credit(worker, 1);
        }
    }
}

uint32_t live_leases_after(struct pool_worker *observer, uint64_t limit_ns)
{
    uint64_t until = lam_now_ns() + limit_ns;
    uint32_t leases;

    do {
        leases = pool_worker_stats(observer)->leases;
    } while (leases > 0 && lam_now_ns() < until);
    return leases;
}

/* Reads on to the end of the stream and returns how it ended. */
enum lam_status live_end_of(struct pool_worker *worker, struct lam_err *err)
{
    struct pool_event event;
    enum lam_status status;

    do
        status = pool_worker_next(worker, &event, err);
    while (status == LAM_OK);
    return status;
}
