/* gpu_watch: the peak is kept, one process's own bytes go before differences, and a machine without
 * the library or the GPU has no watch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <stdio.h>

#include "cli/gpu_watch.h"
#include "common/clock.h"
#include "tests/unit/cli/fake_nvml.h"

#define BASE (500ull << 20)

static const char *folder;
static struct fake_nvml *fake;

/* Until the watch has read at least twice since the numbers were set. */
static void let_it_read(void)
{
    unsigned before = atomic_load(&fake->n_reads);

    while (atomic_load(&fake->n_reads) < before + 6)
        lam_sleep_ns(LAM_NS_PER_MS);
}

static int reset(void **state)
{
    (void)state;
    atomic_store(&fake->used_bytes, BASE);
    atomic_store(&fake->n_processes, 0);
    atomic_store(&fake->process_bytes, ~0ull);
    return 0;
}

static void test_peak_is_beyond_what_was_there(void **state)
{
    struct lam_gpu_watch *watch = lam_gpu_watch_start(folder, 0);
    bool exact = true;

    (void)state;
    assert_non_null(watch);
    atomic_store(&fake->used_bytes, BASE + 3000);
    let_it_read();
    atomic_store(&fake->used_bytes, BASE + 1000);
    let_it_read();
    assert_int_equal(lam_gpu_watch_peak(watch, &exact), 3000);
    assert_false(exact);
    lam_gpu_watch_stop(watch);
    assert_int_equal(atomic_load(&fake->n_open), 0);
}

static void test_one_process_is_read_exactly(void **state)
{
    struct lam_gpu_watch *watch = lam_gpu_watch_start(folder, 0);
    bool exact = false;

    (void)state;
    assert_non_null(watch);
    atomic_store(&fake->used_bytes, BASE + 9000); /* somebody else's too */
    let_it_read();
    atomic_store(&fake->process_bytes, 4000);
    atomic_store(&fake->n_processes, 1);
    let_it_read();
    atomic_store(&fake->process_bytes, 2000);
    let_it_read();
    assert_int_equal(lam_gpu_watch_peak(watch, &exact), 4000);
    assert_true(exact);
    lam_gpu_watch_stop(watch);
}

static void test_two_processes_or_unknown_bytes_are_not_exact(void **state)
{
    struct lam_gpu_watch *watch = lam_gpu_watch_start(folder, 0);
    bool exact = true;

    (void)state;
    assert_non_null(watch);
    atomic_store(&fake->n_processes, 1); /* of bytes that are not known */
    atomic_store(&fake->used_bytes, BASE + 700);
    let_it_read();
    atomic_store(&fake->process_bytes, 4000);
    atomic_store(&fake->n_processes, 2);
    let_it_read();
    assert_int_equal(lam_gpu_watch_peak(watch, &exact), 700);
    assert_false(exact);
    lam_gpu_watch_stop(watch);
}

static void test_nothing_to_watch(void **state)
{
    (void)state;
    assert_null(lam_gpu_watch_start(folder, 7));
    assert_null(lam_gpu_watch_start("/proc/nonexistent", 0));
    assert_int_equal(atomic_load(&fake->n_open), 0);
    lam_gpu_watch_stop(NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_peak_is_beyond_what_was_there, reset),
        cmocka_unit_test_setup(test_one_process_is_read_exactly, reset),
        cmocka_unit_test_setup(test_two_processes_or_unknown_bytes_are_not_exact, reset),
        cmocka_unit_test_setup(test_nothing_to_watch, reset),
    };
    char path[512];
    void *library;

    folder = argc > 1 ? argv[1] : ".";
    snprintf(path, sizeof path, "%s/libnvidia-ml.so.1", folder);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    fake = dlsym(library, "fake_nvml");
    return fake ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
