/* fault: the n-th visit of one site fails, once; others pass; visits from several threads count
 * once each; who is held waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "common/fault.h"

#define N_THREADS 4
#define N_VISITS 10000

static void test_nth(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n++) {
        lam_fault_arm("read", (uint64_t)n);
        assert_false(lam_fault_fired());
        for (int visit = 1; visit <= 10; visit++) {
            assert_int_equal(lam_fault_hit("read"), visit == n);
            assert_int_equal(lam_fault_fired(), visit >= n);
        }
    }
}

static void test_other_sites(void **state)
{
    (void)state;
    lam_fault_arm("read", 2);
    assert_false(lam_fault_hit("alloc"));
    assert_false(lam_fault_hit("send"));
    assert_false(lam_fault_hit("read"));
    assert_true(lam_fault_hit("read"));
    assert_false(lam_fault_hit("read"));
}

static void test_disarm(void **state)
{
    (void)state;
    lam_fault_arm("read", 1);
    lam_fault_arm("read", 0);
    assert_false(lam_fault_hit("read"));
    assert_false(lam_fault_fired());
}

static void *visit(void *argument)
{
    atomic_int *n_failed = argument;

    for (int i = 0; i < N_VISITS; i++)
        if (lam_fault_hit("read"))
            atomic_fetch_add(n_failed, 1);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[N_THREADS];
    atomic_int n_failed = 0;

    (void)state;
    lam_fault_arm("read", N_THREADS * N_VISITS);
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &n_failed), 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    /* Exactly the last visit of all failed: none was lost or counted twice. */
    assert_int_equal(n_failed, 1);
    assert_true(lam_fault_fired());
}

/* ---- being held ---- */

static atomic_int n_passed;

static void *pass(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3; i++) {
        lam_fault_pass("stop");
        atomic_fetch_add(&n_passed, 1);
    }
    return NULL;
}

/* A thread goes as far as it is let, one visit at a time, and then all the way. */
static void test_hold(void **state)
{
    pthread_t thread;

    (void)state;
    lam_fault_pass("stop"); /* not held */
    lam_fault_hold("stop", 1);
    lam_fault_pass("other");
    assert_int_equal(pthread_create(&thread, NULL, pass, NULL), 0);
    lam_fault_await();
    assert_int_equal(n_passed, 1);
    lam_fault_hold("stop", 1);
    lam_fault_await();
    assert_int_equal(n_passed, 2);
    lam_fault_hold(NULL, 0);
    pthread_join(thread, NULL);
    assert_int_equal(n_passed, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nth),
        cmocka_unit_test(test_other_sites),
        cmocka_unit_test(test_disarm),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
