/* launch_test: the private directory: where it is made, that only we may enter, that it goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/launch.h"

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static int listen_at(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(name.sun_path, sizeof name.sun_path, "%.100s", path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void test_made_and_removed(void **state)
{
    char parent[] = "/tmp/launch-test-XXXXXX";
    struct lam_run_dir dir;
    struct lam_err err = {0};
    struct stat info;
    char path[LAM_RUN_PATH_BYTES];
    int fd;

    (void)state;
    assert_non_null(mkdtemp(parent));
    assert_int_equal(lam_run_dir_make(parent, &dir, &err), LAM_OK);
    assert_int_equal(strncmp(dir.path, parent, strlen(parent)), 0);
    assert_int_equal(stat(dir.path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(strncmp(dir.loader, "unix:/", 6), 0);
    assert_false(lam_run_dir_answers(dir.loader));
    fd = listen_at(dir.loader + strlen("unix:"));
    assert_true(lam_run_dir_answers(dir.loader));
    close(fd);
    assert_false(lam_run_dir_answers(dir.loader)); /* what a killed service leaves */
    snprintf(path, sizeof path, "%s", dir.path);
    lam_run_dir_remove(&dir);
    assert_false(exists(path));
    lam_run_dir_remove(&dir); /* again: nothing to do */
    assert_int_equal(rmdir(parent), 0);
}

static void expect_tmp(const char *parent)
{
    struct lam_run_dir dir;
    struct lam_err err = {0};

    assert_int_equal(lam_run_dir_make(parent, &dir, &err), LAM_OK);
    assert_int_equal(strncmp(dir.path, "/tmp/laminar-", 13), 0);
    lam_run_dir_remove(&dir);
}

static void test_parent_that_cannot_be_used(void **state)
{
    char long_name[300];

    (void)state;
    memset(long_name, 'x', sizeof long_name);
    long_name[0] = '/';
    long_name[sizeof long_name - 1] = '\0';
    expect_tmp(NULL);
    expect_tmp("");
    expect_tmp("relative/path");
    expect_tmp("/proc/nonexistent");
    expect_tmp(long_name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_and_removed),
        cmocka_unit_test(test_parent_that_cannot_be_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
