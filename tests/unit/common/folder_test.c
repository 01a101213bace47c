/* folder: what is missing is made, what is there stays, what is in the way is named. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/folder.h"

static void what_is_missing_is_made(void **state)
{
    char dir[32] = "/tmp/folder_test.XXXXXX", above[64], path[128];
    struct stat info;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(above, sizeof above, "%s/above", dir);
    snprintf(path, sizeof path, "%s/below", above);
    assert_int_equal(lam_folder_make(path, NULL), LAM_OK);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode, S_IFDIR | 0700);
    assert_int_equal(chmod(above, 0750), 0);
    assert_int_equal(lam_folder_make(path, NULL), LAM_OK);
    assert_int_equal(stat(above, &info), 0);
    assert_int_equal(info.st_mode, S_IFDIR | 0750); /* as it was */
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(above), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void what_is_in_the_way_is_named(void **state)
{
    char dir[32] = "/tmp/folder_test.XXXXXX", file[64], path[128];
    struct lam_err err = {0};
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/file", dir);
    snprintf(path, sizeof path, "%s/below", file);
    fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(lam_folder_make(file, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, file));
    assert_non_null(strstr(err.text, "Not a directory"));
    assert_int_equal(lam_folder_make(path, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void what_is_no_path_is_refused(void **state)
{
    char path[PATH_MAX + 1];
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_folder_make("", &err), LAM_INVALID_ARGUMENT);
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(lam_folder_make(path, &err), LAM_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_missing_is_made),
        cmocka_unit_test(what_is_in_the_way_is_named),
        cmocka_unit_test(what_is_no_path_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
