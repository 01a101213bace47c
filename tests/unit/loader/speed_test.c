/* speed: any file is measured, with the engine that the loader would take, and what cannot be
 * measured says why. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/size.h"
#include "loader/probe.h"
#include "loader/speed.h"

static char dir[64] = "/tmp/speed_test.XXXXXX";
static char path[128], io_cache[128];

/* Not a whole number of stretches, nor of requests, nor of the alignment. */
#define FILE_BYTES (100 * LAM_MIB + 12345)

static void resize_file(uint64_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

static int set_up(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    snprintf(io_cache, sizeof(io_cache), "%s/io", dir);
    return 0;
}

static uint32_t clear_io_cache(void)
{
    DIR *folder = opendir(io_cache);
    struct dirent *entry;
    uint32_t n = 0;

    while (folder != NULL && (entry = readdir(folder)) != NULL)
        n += unlinkat(dirfd(folder), entry->d_name, 0) == 0;
    if (folder != NULL)
        closedir(folder);
    rmdir(io_cache);
    return n;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void any_file_has_a_speed(void **state)
{
    struct lam_speed speed = {0};
    struct lam_err err = {0};
    bool known = false;

    (void)state;
    resize_file(FILE_BYTES);
    if (lam_speed_measure(path, io_cache, &speed, &err) == LAM_UNIMPLEMENTED)
        skip(); /* a file system without direct reads */
    assert_int_equal(err.status, LAM_OK);
    assert_true(speed.rate > 1e6);
    for (uint32_t i = 0; i < LAM_PROBE_CANDIDATES; i++)
        known = known || (speed.request_bytes == lam_probe_candidates[i].request_bytes &&
                             speed.depth == lam_probe_candidates[i].depth);
    assert_true(known);
    /* How the drive is best read is remembered for the loader. */
    if (strcmp(speed.engine, "io_uring") == 0)
        assert_int_equal(clear_io_cache(), 1);
}

static void *cut_file(void *arg)
{
    lam_sleep_ns(400 * LAM_NS_PER_MS);
    resize_file(LAM_SPEED_FILE_BYTES_MIN);
    return arg;
}

/* What a measurement says of a file that is cut meanwhile. */
static enum lam_status measure_cut_file(struct lam_speed *ret_speed, struct lam_err *err)
{
    enum lam_status status;
    pthread_t thread;

    resize_file(FILE_BYTES);
    assert_int_equal(pthread_create(&thread, NULL, cut_file, NULL), 0);
    status = lam_speed_measure(path, NULL, ret_speed, err);
    pthread_join(thread, NULL);
    return status;
}

static void a_file_that_changes_is_an_error(void **state)
{
    struct lam_speed speed = {0};
    struct lam_err err = {0};
    enum lam_status status = LAM_OK;

    (void)state;
    /* On a busy machine the file may be cut before it is opened, or after the end. */
    for (int i = 0; i < 10 && status == LAM_OK; i++) {
        speed.engine = NULL;
        status = measure_cut_file(&speed, &err);
    }
    if (status == LAM_UNIMPLEMENTED)
        skip();
    assert_int_equal(status, LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, path));
    assert_null(speed.engine);
}

static void what_says_nothing_is_refused(void **state)
{
    struct lam_speed speed;
    struct lam_err err = {0};

    (void)state;
    resize_file(LAM_SPEED_FILE_BYTES_MIN - 1);
    assert_int_equal(lam_speed_measure(path, NULL, &speed, &err), LAM_OUT_OF_RANGE);
    assert_non_null(strstr(err.text, "63 MiB"));
    assert_int_equal(lam_speed_measure(dir, NULL, &speed, &err), LAM_INVALID_ARGUMENT);
    unlink(path);
    assert_int_equal(lam_speed_measure(path, NULL, &speed, &err), LAM_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_file_has_a_speed),
        cmocka_unit_test(a_file_that_changes_is_an_error),
        cmocka_unit_test(what_says_nothing_is_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
