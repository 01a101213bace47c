/* models: how a pool is divided, which names are one file, and two models in one loader. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/size.h"
#include "loader/loader.h"
#include "tests/unit/loader/model_file.h"
#include "tests/unit/loader/pool_worker.h"

#define N 2

static const struct lam_share_options options; /* the usual */

static struct model_file files[N];

static int set_up(void **state)
{
    (void)state;
    model_file_make(&files[0], 96);
    model_file_make(&files[1], 4064);
    for (uint64_t i = files[1].n_bytes / 2; i < files[1].n_bytes; i++)
        files[1].bytes[i] ^= 0x5a; /* other weights, mostly */
    model_file_write(&files[1]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < N; i++)
        model_file_remove(&files[i]);
    return 0;
}

/* ---- dividing ---- */

/* A model of n units of so many pages each. */
static void fake_share(struct lam_share *share, struct lam_unit *units, uint32_t n, uint64_t pages)
{
    memset(share, 0, sizeof(*share));
    for (uint32_t u = 0; u < n; u++)
        units[u] = (struct lam_unit){.file_offset = u * pages * 4096, .bytes = pages * 4096};
    share->file.align = 4096;
    share->file.manifest.units = units;
    share->file.manifest.n_units = n;
}

static void a_pool_is_divided_by_size(void **state)
{
    static struct lam_models models;
    struct lam_unit large[80], small[10];
    uint64_t full, least, parts[LAM_MODELS_MAX];

    (void)state;
    models.n_shares = 2;
    fake_share(&models.shares[0], large, 80, 100);
    fake_share(&models.shares[1], small, 10, 10);
    full = (80 * 100 + 10 * 10) * 4096;
    least = 3 * (100 + 10) * 4096;
    for (uint64_t budget = 0; budget < full + full / 4; budget += full / 64) {
        lam_models_split(&models, budget, parts);
        assert_true(parts[0] + parts[1] <= budget);
        assert_true(parts[0] + parts[1] + 2 >= (budget < full ? budget : full));
        assert_true(parts[0] <= 80 * 100 * 4096 && parts[1] <= 10 * 10 * 4096);
        if (budget >= least) {
            assert_true(parts[0] >= 3 * 100 * 4096);
            assert_true(parts[1] >= 3 * 10 * 4096);
        }
    }
    /* Halfway from the least to all, each is halfway. */
    lam_models_split(&models, least + (full - least) / 2, parts);
    assert_in_range(parts[0], (300 + 3850) * 4096 - 4096, (300 + 3850) * 4096);
    assert_in_range(parts[1], (30 + 35) * 4096 - 4096, (30 + 35) * 4096);
}

static void names_of_one_file_are_one_model(void **state)
{
    static struct lam_models models;
    char link[64], dotted[64];
    const char *paths[] = {files[0].path, link, files[1].path, dotted};
    struct lam_err err = {0};

    (void)state;
    snprintf(link, sizeof(link), "%s/link.gguf", files[1].dir);
    assert_int_equal(symlink(files[0].path, link), 0);
    snprintf(dotted, sizeof(dotted), "%s/./model.gguf", files[1].dir);
    if (lam_models_open(&models, paths, 4, &options, &err) != LAM_OK)
        fail_msg("%s", err.text);
    assert_int_equal(models.n_shares, 2);
    assert_int_equal(lam_models_find(&models, ""), 1);
    assert_int_equal(lam_models_find(&models, files[0].path), 1);
    assert_int_equal(lam_models_find(&models, link), 1);
    assert_int_equal(lam_models_find(&models, files[1].path), 2);
    assert_int_equal(lam_models_find(&models, dotted), 2);
    assert_int_equal(lam_models_find(&models, "/etc/passwd"), 0);
    assert_null(lam_models_at(&models, 0));
    assert_ptr_equal(lam_models_at(&models, 2), &models.shares[1]);
    assert_null(lam_models_at(&models, 3));
    lam_models_close(&models);
    assert_int_equal(unlink(link), 0);
}

static void the_17th_model_is_refused(void **state)
{
    static struct lam_models models;
    const char *paths[LAM_MODELS_MAX + 1];
    struct lam_err err = {0};

    (void)state;
    for (uint32_t i = 0; i <= LAM_MODELS_MAX; i++)
        paths[i] = files[0].path;
    assert_int_equal(
        lam_models_open(&models, paths, LAM_MODELS_MAX + 1, &options, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "17 models"));
    assert_int_equal(lam_models_open(&models, paths, LAM_MODELS_MAX, &options, &err), LAM_OK);
    assert_int_equal(models.n_shares, 1);
    lam_models_close(&models);
}

/* ---- serving ---- */

static struct lam_loader *start(const char *ram)
{
    char listen[64], pool_socket[64];
    const char *paths[] = {files[0].path, files[1].path, files[0].path};
    const char *addresses[] = {listen};
    struct lam_loader_config config = {.models = paths,
        .n_models = 3,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = ram};
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};

    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", files[0].dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", files[0].dir);
    if (lam_loader_create(&config, &loader, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return loader;
}

static void read_manifest(const struct model_file *file, struct lam_manifest *ret_manifest)
{
    struct lam_gguf *gguf;
    struct lam_spec spec;

    assert_int_equal(
        lam_gguf_parse(file->bytes, file->n_bytes, file->n_bytes, &gguf, NULL), LAM_OK);
    assert_int_equal(lam_spec_read(gguf, &spec, NULL), LAM_OK);
    assert_int_equal(lam_manifest_build(gguf, &spec, ret_manifest, NULL), LAM_OK);
    lam_gguf_destroy(gguf);
}

/* Takes the next unit of each worker in turn, so that both models stream at the same time. */
static void stream_both(struct pool_worker *workers, const struct lam_manifest *manifests)
{
    for (uint32_t i = 0; i < 200; i++) {
        int m = (int)(i % N);
        struct pool_event event;
        const struct lam_unit *unit;
        struct lam_err err = {0};

        if (pool_worker_next(&workers[m], &event, &err) != LAM_OK)
            fail_msg("%s", err.text);
        assert_false(event.fault);
        unit = &manifests[m].units[event.unit];
        assert_memory_equal(
            workers[m].pool + event.pool_offset, files[m].bytes + unit->file_offset, unit->bytes);
        if (event.kept)
            continue;
        pool_worker_release(&workers[m], event.unit, event.generation);
        pool_worker_credit(&workers[m], 1);
    }
}

static void two_models_stream_side_by_side(void **state)
{
    struct lam_loader *loader = start("9MiB");
    struct lam_manifest manifests[N];
    struct pool_worker workers[N];
    struct lam_err err = {0};
    uint64_t one_bytes, all_bytes;

    (void)state;
    for (int m = 0; m < N; m++) {
        read_manifest(&files[m], &manifests[m]);
        pool_worker_connect(&workers[m], files[0].dir);
        workers[m].model = pool_worker_register(&workers[m], files[m].path, &err)->model;
        assert_int_equal(workers[m].model, m + 1);
        pool_worker_open(&workers[m]);
        pool_worker_credit(&workers[m], 2);
    }
    stream_both(workers, manifests);
    workers[0].model = 1;
    one_bytes = pool_worker_stats_of(&workers[0], 1)->disk_bytes;
    assert_true(one_bytes > 0);
    assert_int_equal(pool_worker_stats_of(&workers[0], 1)->sessions, 1);
    all_bytes = pool_worker_stats_of(&workers[0], 0)->disk_bytes;
    assert_true(all_bytes > one_bytes);
    assert_int_equal(pool_worker_stats_of(&workers[0], 0)->sessions, 2);
    assert_true(workers[0].pool_bytes <= 9 * LAM_MIB);
    assert_null(pool_worker_register(&workers[0], "/etc/passwd", &err));
    assert_int_equal(err.status, LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "--model"));

    /* A dead worker's session ends, whichever model it is with. */
    close(workers[1].connection);
    workers[1].connection = -1;
    while (pool_worker_stats_of(&workers[0], 2)->sessions > 0)
        continue;
    assert_int_equal(pool_worker_stats_of(&workers[0], 2)->leases, 0);
    for (int m = 0; m < N; m++) {
        pool_worker_disconnect(&workers[m]);
        lam_manifest_done(&manifests[m]);
    }
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_is_divided_by_size),
        cmocka_unit_test(names_of_one_file_are_one_model),
        cmocka_unit_test(the_17th_model_is_refused),
        cmocka_unit_test(two_models_stream_side_by_side),
    };

    lam_log_init("models_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
