/* probe: which way to read a drive is taken, and what is remembered about it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "loader/probe.h"

static void only_what_is_clearly_better_is_taken(void **state)
{
    uint64_t speeds[LAM_PROBE_CANDIDATES];

    (void)state;
    for (uint32_t i = 0; i < LAM_PROBE_CANDIDATES; i++)
        speeds[i] = 1000000000;
    assert_int_equal(lam_probe_choose(speeds), 0);
    speeds[3] = 1040000000;
    assert_int_equal(lam_probe_choose(speeds), 0);
    speeds[5] = 1060000000;
    assert_int_equal(lam_probe_choose(speeds), 5);
}

static void the_middle_round_counts(void **state)
{
    static const uint64_t orders[6][LAM_PROBE_ROUNDS] = {
        {1, 2, 9}, {1, 9, 2}, {2, 1, 9}, {2, 9, 1}, {9, 1, 2}, {9, 2, 1}};

    (void)state;
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(lam_probe_median(orders[i]), 2);
}

/* A record in a directory that is made for it; damaged ones are told apart from missing ones. */
static void a_record_is_remembered(void **state)
{
    static const char *const bad[] = {"", "laminar-io 2 1048576 32 ", "laminar-io 2 12345 32 7\n",
        "laminar-io 1 1048576 32 7\n", "laminar-io 2 1048576 32 7\nx"};
    char dir[64] = "/tmp/laminar-probe-XXXXXX", sub[96], key[LAM_PROBE_KEY_BYTES], path[256];
    struct lam_probe_way way = {0};
    struct lam_err err = {0};
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(sub, sizeof(sub), "%s/a/b", dir);
    assert_int_equal(lam_probe_key(fd, key, &err), LAM_OK);
    close(fd);
    assert_null(strchr(key, '/'));
    assert_int_equal(lam_probe_load(sub, key, &way, &err), LAM_NOT_FOUND);
    assert_int_equal(lam_probe_save(sub, key, &lam_probe_candidates[4], 123, &err), LAM_OK);
    assert_int_equal(lam_probe_load(sub, key, &way, &err), LAM_OK);
    assert_int_equal(way.request_bytes, lam_probe_candidates[4].request_bytes);
    assert_int_equal(way.depth, lam_probe_candidates[4].depth);

    lam_fault_arm("write", 1);
    assert_int_equal(
        lam_probe_save(sub, key, &lam_probe_candidates[1], 5, &err), LAM_RESOURCE_EXHAUSTED);
    lam_fault_arm("write", 0);
    assert_int_equal(lam_probe_load(sub, key, &way, &err), LAM_OK);
    assert_int_equal(way.depth, lam_probe_candidates[4].depth); /* the old one stays */

    snprintf(path, sizeof(path), "%s/%s", sub, key);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
        assert_int_equal(write(fd, bad[i], strlen(bad[i])), strlen(bad[i]));
        close(fd);
        assert_int_equal(lam_probe_load(sub, key, &way, &err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, path));
    }
    unlink(path);
    rmdir(sub);
    snprintf(sub, sizeof(sub), "%s/a", dir);
    rmdir(sub);
    assert_int_equal(rmdir(dir), 0); /* and nothing else was left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_middle_round_counts),
        cmocka_unit_test(only_what_is_clearly_better_is_taken),
        cmocka_unit_test(a_record_is_remembered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
