/*
 * change: a model file that is not left alone while a loader serves it. Whatever is done to it, the
 * sessions end with DATA_LOSS and what happened, no new one begins, and no unit that was granted
 * had a byte of anything but the file as it was opened.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/loader/live_loader.h"

static void cut(void)
{
    assert_int_equal(truncate(live_model.path, (off_t)live_model.n_bytes / 2), 0);
}

static void lengthen(void)
{
    assert_int_equal(truncate(live_model.path, (off_t)live_model.n_bytes + 1), 0);
}

static void overwrite(void)
{
    int fd = open(live_model.path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "?", 1, (off_t)live_model.n_bytes / 2), 1);
    close(fd);
}

/* As careful as rsync -t or touch -r: the times that can be set are as before. */
static void overwrite_and_hide_it(void)
{
    struct timespec times[2];
    struct stat info;

    assert_int_equal(stat(live_model.path, &info), 0);
    overwrite();
    times[0] = info.st_atim;
    times[1] = info.st_mtim;
    assert_int_equal(utimensat(AT_FDCWD, live_model.path, times, 0), 0);
}

static void name_of_other(char path[80])
{
    snprintf(path, 80, "%s/other", live_model.dir);
}

/* How a careful program updates a file. */
static void replace(void)
{
    char other[80];
    int fd;

    name_of_other(other);
    fd = open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, live_model.bytes, live_model.n_bytes), live_model.n_bytes);
    close(fd);
    assert_int_equal(rename(other, live_model.path), 0);
}

static void move_away(void)
{
    char other[80];

    name_of_other(other);
    assert_int_equal(rename(live_model.path, other), 0);
}

static void remove_it(void)
{
    assert_int_equal(unlink(live_model.path), 0);
}

/* Takes what comes until the stream ends; each grant has to be right. */
static enum lam_status drain(struct pool_worker *worker, struct lam_err *err)
{
    for (;;) {
        struct pool_event event;
        enum lam_status status = pool_worker_next(worker, &event, err);

        if (status != LAM_OK)
            return status;
        if (event.fault) {
            assert_int_equal(event.status, LAM_DATA_LOSS);
            continue;
        }
        live_check_unit(worker, &event);
        if (!event.kept) {
            pool_worker_release(worker, event.unit, event.generation);
            pool_worker_credit(worker, 1);
        }
    }
}

static void check_change(void (*change)(void), const char *words, uint32_t percent)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(percent, text), LAM_READER_AUTO);
    struct pool_worker worker, late;
    struct lam_err err = {0};
    uint64_t offset = live_manifest.embedding.file_offset;
    Laminar__V1__ReadExtentResponse *response;

    pool_worker_connect(&worker, live_model.dir);
    pool_worker_connect(&late, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    change();
    assert_int_equal(drain(&worker, &err), LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, live_model.path));
    if (strstr(err.text, words) == NULL)
        fail_msg("'%s' is not in '%s'", words, err.text);

    assert_null(pool_worker_register(&late, "", &err));
    assert_int_equal(err.status, LAM_DATA_LOSS);
    pool_worker_open(&late);
    assert_int_equal(live_end_of(&late, &err), LAM_DATA_LOSS);
    if (percent < 100) /* else rows come from the pool, where they are right */
        assert_int_equal(pool_worker_extent(&late, &offset, 1, 64, &response, &err), LAM_DATA_LOSS);
    pool_worker_disconnect(&worker);
    pool_worker_disconnect(&late);
    lam_loader_destroy(loader);
    live_drop_model();
    live_use_model(96);
}

static void every_change_is_noticed_and_named(void **state)
{
    static const struct {
        void (*change)(void);
        const char *words;
    } changes[] = {{cut, "it was cut"}, {lengthen, "it was written to"},
        {overwrite, "it was written to"}, {overwrite_and_hide_it, "its inode was changed"},
        {replace, "another file has its name"}, {move_away, "removed or renamed"},
        {remove_it, "removed or renamed"}};

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        check_change(changes[i].change, changes[i].words, 25);  /* while it streams */
        check_change(changes[i].change, changes[i].words, 100); /* while nothing is read */
    }
}

/* Sends standard error into a file; returns what it was. */
static int catch_log(char path[80])
{
    int before = dup(STDERR_FILENO);
    int fd;

    snprintf(path, 80, "%s/log", live_model.dir);
    fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(before >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
    lam_log_init("change_test", LAM_LOG_ERROR);
    return before;
}

static uint32_t count_lines(const char *path)
{
    FILE *file = fopen(path, "re");
    uint32_t n = 0;
    int c;

    assert_non_null(file);
    while ((c = fgetc(file)) != EOF)
        n += c == '\n';
    fclose(file);
    return n;
}

/* A loader whose file was cut tried all units again each second, and said so of each, for ever. */
static void a_change_is_not_said_again_and_again(void **state)
{
    char text[32], log[80];
    int standard_error = catch_log(log); /* before anybody may log */
    struct lam_loader *loader = live_start(live_share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    struct lam_err err = {0};
    uint32_t n_before = 0, n_lines = UINT32_MAX;

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    cut();
    assert_int_equal(drain(&worker, &err), LAM_DATA_LOSS);
    for (int i = 0; n_before != n_lines; i++) { /* units that fail are tried again each second */
        assert_true(i < 30);
        n_before = n_lines;
        lam_sleep_ns(3 * LAM_NS_PER_S);
        n_lines = count_lines(log);
    }
    assert_true(n_lines > 0);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
    lam_log_init("change_test", LAM_LOG_OFF);
    assert_true(dup2(standard_error, STDERR_FILENO) >= 0);
    close(standard_error);
    assert_int_equal(unlink(log), 0);
    live_drop_model();
    live_use_model(96);
}

/* Reading it, as a backup does, or linking to its directory is no change. */
static void being_read_is_no_change(void **state)
{
    char text[32], byte;
    struct lam_loader *loader = live_start(live_share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    int fd = open(live_model.path, O_RDONLY | O_CLOEXEC);

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
    lam_sleep_ns(600 * LAM_NS_PER_MS); /* the file is looked at four times a second */
    assert_non_null(pool_worker_register(&worker, "", NULL));
    assert_int_equal(pool_worker_stats(&worker)->sessions, 1);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_change_is_noticed_and_named),
        cmocka_unit_test(a_change_is_not_said_again_and_again),
        cmocka_unit_test(being_read_is_no_change),
    };

    lam_log_init("change_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
