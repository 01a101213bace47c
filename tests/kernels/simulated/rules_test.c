/*
 * rules: kernels that break a rule of the simulated GPU must not pass, and be told where; those
 * that break none must. rules.cu has them.
 */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

typedef const char *(*run_fn)(const char *name);

static run_fn run;

static int setup(void **state)
{
    void *library = dlopen("tests/kernels/simulated/librules.so", RTLD_NOW | RTLD_LOCAL);

    (void)state;
    if (library == NULL) {
        print_error("%s\n", dlerror());
        return 1;
    }
    void *symbol = dlsym(library, "rules_run");
    memcpy(&run, &symbol, sizeof(run));
    return 0;
}

/* The kernel's end is a sentence that has `words`. */
static void check(const char *name, const char *words)
{
    const char *text = run(name);

    if (strstr(text, words) == NULL)
        fail_msg("%s: '%s' instead of '%s'", name, text, words);
}

static void test_kernels_in_order(void **state)
{
    (void)state;
    assert_string_equal(run("in_order"), "");
    assert_string_equal(run("copied"), "");
    assert_string_equal(run("in_order"), ""); /* also behind others */
}

static void test_collectives(void **state)
{
    static const char *const cases[][2] = {
        {"other_shuffle", "lanes 0000007f of the warp are in a shuffle"},
        {"ended_lane", "lanes 00000020 of the mask have ended"},
        {"ended_thread", "32 of 64 threads wait at the barrier"},
        {"barrier_or_shuffle", "wait at the block's barrier"},
        {"wrong_mask", "the mask 0000ffff is without the lane itself"},
        {"half_mask", "from a lane outside of its mask"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check(cases[i][0], cases[i][1]);
        assert_non_null(strstr(run(cases[i][0]), "rules.cu:")); /* where */
        assert_string_equal(run("in_order"), "");
    }
}

static void test_shared_memory(void **state)
{
    (void)state;
    check("no_barrier", "with nothing between");
    check("no_barrier_before_write", "with nothing between");
    check("no_syncwarp", "with nothing between");
    check("no_copy_barrier", "with nothing between");
    check("no_copy_wait", "which a copy is still bringing");
}

static void test_copies(void **state)
{
    (void)state;
    check("copy_aside", "not aligned");
    check("copy_outside", "outside of shared memory");
}

static void test_predecessors(void **state)
{
    (void)state;
    check("no_wait", "without waiting for the predecessors");
    check("early_write", "before it waits for its predecessors");
    check("early_read", "one of which wrote it");
}

static void test_addresses(void **state)
{
    (void)state;
    check("beyond", "not memory of the device");
    check("of_the_host", "not memory of the device");
    check("aside", "not aligned");
}

static void test_loading(void **state)
{
    (void)state;
    check("never_loaded", "no prepare function");
    check("never_divided", "as others do not");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_in_order),
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_predecessors),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_loading),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
