/* clock: time goes forward; a sleep lasts, also when signals interrupt it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/time.h>

#include "common/clock.h"

static volatile sig_atomic_t n_signals;

static void count_signal(int number)
{
    (void)number;
    n_signals++;
}

static void test_monotonic(void **state)
{
    uint64_t before = lam_now_ns();

    (void)state;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = lam_now_ns();
        assert_true(now >= before);
        before = now;
    }
}

/* A timer fires every 2 ms, so a sleep of 50 ms is interrupted again and again. */
static void test_sleep_through_signals(void **state)
{
    const struct itimerval every_2ms = {{0, 2000}, {0, 2000}};
    const struct itimerval off = {{0, 0}, {0, 0}};
    const struct sigaction action = {.sa_handler = count_signal};
    uint64_t begin;
    uint64_t slept;

    (void)state;
    assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &every_2ms, NULL), 0);
    do { /* on a busy machine signals of one timer become one */
        begin = lam_now_ns();
        lam_sleep_ns(50 * LAM_NS_PER_MS);
        slept = lam_now_ns() - begin;
        assert_true(slept >= 50 * LAM_NS_PER_MS);
        assert_true(slept < 50 * LAM_NS_PER_S);
    } while (n_signals <= 2);
    assert_int_equal(setitimer(ITIMER_REAL, &off, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_monotonic),
        cmocka_unit_test(test_sleep_through_signals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
