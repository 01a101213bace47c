/* mirror: what is a copy and what is not, and a loader that reads from both. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "loader/mirror.h"
#include "loader/pool.h"
#include "loader/reader.h"
#include "tests/unit/loader/live_loader.h"

/* On another drive than the model's, where the machine has one. */
static char dir[64];
static char copy_path[160];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t n_ends;

static void write_copy(uint64_t n_bytes)
{
    int fd = open(copy_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    for (uint64_t at = 0; at < n_bytes;) {
        ssize_t n = write(fd, live_model.bytes + at, n_bytes - at);

        assert_true(n > 0);
        at += (uint64_t)n;
    }
    close(fd);
}

static int set_up(void **state)
{
    live_set_up(state);
    snprintf(dir, sizeof(dir), "%s", "/dev/shm/laminar-mirror-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        snprintf(dir, sizeof(dir), "%s", "/tmp/laminar-mirror-XXXXXX");
        assert_non_null(mkdtemp(dir));
    }
    snprintf(copy_path, sizeof(copy_path), "%s%s", dir, strrchr(live_model.path, '/'));
    return 0;
}

static int tear_down(void **state)
{
    unlink(copy_path);
    rmdir(dir);
    return live_tear_down(state);
}

static void only_a_copy_is_a_mirror(void **state)
{
    struct lam_file file;
    struct lam_mirror mirror;
    struct lam_err err = {0};
    int fd;

    (void)state;
    assert_int_equal(lam_file_open(live_model.path, NULL, &file, &err), LAM_OK);
    unlink(copy_path);
    assert_int_equal(lam_mirror_open(&file, dir, &mirror, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, copy_path));
    assert_int_equal(lam_mirror_open(&file, live_model.dir, &mirror, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "the same file"));
    write_copy(live_model.n_bytes - 1);
    assert_int_equal(lam_mirror_open(&file, dir, &mirror, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "bytes, not"));
    write_copy(live_model.n_bytes);
    fd = open(copy_path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "X", 1, (off_t)file.header_bytes - 1), 1);
    close(fd);
    assert_int_equal(lam_mirror_open(&file, dir, &mirror, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "header differs"));

    write_copy(live_model.n_bytes);
    assert_int_equal(lam_mirror_open(&file, dir, &mirror, &err), LAM_OK);
    assert_int_equal(lam_mirror_check(&mirror, &err), LAM_OK);
    assert_int_equal(truncate(copy_path, 4096), 0);
    assert_int_equal(lam_mirror_check(&mirror, &err), LAM_DATA_LOSS);
    lam_mirror_close(&mirror);
    lam_file_close(&file);
}

static void on_done(void *arg, const struct lam_load_end *end)
{
    struct lam_load_end *ret_end = arg;

    pthread_mutex_lock(&lock);
    *ret_end = *end;
    n_ends++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

/* A mirror that was changed is told apart from one that fails, and what was read from it is read
 * again. */
static void a_mirror_that_changes_is_read_no_more(void **state)
{
    struct lam_region region = {.bytes = 16 << 20};
    struct lam_reader_config config = {
        .regions = &region, .n_regions = 1, .n_mirrors = 1, .on_done = on_done};
    struct lam_reader *reader = NULL;
    struct lam_reader_info info;
    struct lam_load_end end;
    struct lam_mirror mirror;
    struct lam_pool pool;
    struct lam_file file;
    struct lam_load load = {.generation = 1};

    (void)state;
    write_copy(live_model.n_bytes);
    assert_int_equal(lam_file_open(live_model.path, NULL, &file, NULL), LAM_OK);
    assert_int_equal(lam_mirror_open(&file, dir, &mirror, NULL), LAM_OK);
    assert_int_equal(lam_pool_init(region.bytes, region.bytes, &pool, NULL), LAM_OK);
    config.file = &file;
    config.mirrors = &mirror;
    config.pool_base = pool.base;
    config.arg = &end;
    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    assert_int_equal(truncate(copy_path, 4096), 0);
    load.window = lam_policy_window(&file.manifest.units[0], file.align);
    lam_reader_load(reader, &load);
    pthread_mutex_lock(&lock);
    while (n_ends < 1)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    assert_int_equal(end.status, LAM_OK);
    assert_memory_equal(pool.base + file.manifest.units[0].file_offset % file.align,
        live_model.bytes + file.manifest.units[0].file_offset, file.manifest.units[0].bytes);
    lam_reader_info(reader, &info);
    assert_int_equal(info.lost, 2);
    assert_int_equal(info.changed, 2);
    lam_reader_destroy(reader);
    lam_pool_done(&pool);
    lam_mirror_close(&mirror);
    lam_file_close(&file);
}

/* Every byte is right from two copies, and still when one of them is cut in the middle. */
static void reads_come_from_all_copies(void **state)
{
    const char *const dirs[1] = {dir};

    (void)state;
    live_options.mirrors = dirs;
    live_options.n_mirrors = 1;
    for (int i = 0; i < 2; i++) {
        char text[32];
        struct lam_loader *loader;
        struct pool_worker worker;

        write_copy(live_model.n_bytes);
        loader = live_start(live_share(25, text), i == 0 ? LAM_READER_AUTO : LAM_READER_PREAD);
        pool_worker_connect(&worker, live_model.dir);
        pool_worker_open(&worker);
        live_walk(&worker, 3);
        assert_int_equal(truncate(copy_path, 4096), 0);
        live_walk(&worker, 3);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
    live_options.n_mirrors = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_copy_is_a_mirror),
        cmocka_unit_test(a_mirror_that_changes_is_read_no_more),
        cmocka_unit_test(reads_come_from_all_copies),
    };

    lam_log_init("mirror_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
