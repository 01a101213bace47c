/* What workers see of the gateway: those that die, lie, bring another model, or stay to the end. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/gateway/service_world.h"

static void test_worker_lost(void **state)
{
    struct world world;
    static struct fake_worker first, second;
    struct reading readings[3];
    char expected[TINY_CONTEXT];

    (void)state;
    world_start(&world, 8, 120 * LAM_NS_PER_S);
    world_worker(&world, &first, "first", 1);
    world_wait(&world, 1, true);
    for (size_t i = 0; i < 3; i++) {
        Laminar__V1__GenerateRequest request = world_ask("abcdefghij", 50);
        reading_open(&world, &request, &readings[i]);
    }
    for (unsigned k = 0; k < 5; k++)
        assert_true(reading_one(&world, &readings[0]));
    fake_worker_kill(&first);
    world_wait(&world, 0, true);
    world_worker(&world, &second, "second", 1);
    world_expected("abcdefghij", 50, expected);
    for (size_t i = 0; i < 3; i++) {
        reading_all(&world, &readings[i]);
        assert_string_equal(readings[i].text.data, expected);
        assert_int_equal(readings[i].n_ids, 50);
        reading_done(&readings[i]);
    }
    fake_worker_kill(&second);
    assert_false(atomic_load(&second.broken));
    world_stop(&world);
}

/* A worker that hangs with an open stream: the text goes on elsewhere, as if nothing had been. */
static void test_worker_that_hangs(void **state)
{
    struct world world;
    static struct fake_worker hanging, second;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("abc", 20);
    char expected[TINY_CONTEXT];

    (void)state;
    /* The second one must answer within it, on a busy machine too. */
    world_step_limit_ns = 3 * LAM_NS_PER_S;
    world_start(&world, 8, 120 * LAM_NS_PER_S);
    world_step_limit_ns = 0;
    world_worker(&world, &hanging, "hanging", 0);
    atomic_store(&hanging.hangs, true);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    world_wait(&world, 0, false);
    world_worker(&world, &second, "second", 1);
    reading_all(&world, &reading);
    world_expected("abc", 20, expected);
    assert_string_equal(reading.text.data, expected);
    reading_done(&reading);
    atomic_store(&hanging.hangs, false);
    fake_worker_join(&hanging);
    assert_int_equal(hanging.end.status, LAM_DEADLINE_EXCEEDED);
    assert_non_null(strstr(hanging.end.text, "--step-timeout"));
    /* One that answers in time is not given up, however long nothing is asked of it. */
    lam_sleep_ns(3500 * LAM_NS_PER_MS);
    assert_int_equal(world_get_model(&world)->n_workers, 1);
    fake_worker_kill(&second);
    world_stop(&world);
}

/* A worker whose answers do not fit is let go; its requests fail only if nobody else comes. */
static void test_worker_that_answers_nonsense(void **state)
{
    struct world world;
    static struct fake_worker worker = {
        .id = "mad", .step_ns = LAM_NS_PER_MS, .context = TINY_CONTEXT, .first_bad_answer = 5};
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("x", 30);

    (void)state;
    world_start(&world, 8, 200 * LAM_NS_PER_MS);
    worker.model = &world.model;
    fake_worker_start(&worker, world.address);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_UNAVAILABLE);
    assert_non_null(strstr(reading.err.text, "no worker is attached"));
    assert_int_equal(reading.n_ids, 4); /* all that was good arrived */
    reading_done(&reading);
    fake_worker_join(&worker);
    assert_int_equal(worker.end.status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(worker.end.text, "no token for slot"));
    world_stop(&world);
}

static void test_worker_with_another_model(void **state)
{
    struct world world;
    static struct fake_worker worker, stranger = {.id = "stranger", .context = TINY_CONTEXT};
    struct tiny_model other = tiny_model_make("other", false);
    char digest[17];

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    stranger.model = &other;
    fake_worker_start(&stranger, world.address);
    fake_worker_join(&stranger);
    assert_int_equal(stranger.end.status, LAM_FAILED_PRECONDITION);
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)other.digest);
    assert_non_null(strstr(stranger.end.text, digest));
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)world.model.digest);
    assert_non_null(strstr(stranger.end.text, digest));
    fake_worker_kill(&worker);
    lam_buf_done(&other.header);
    world_stop(&world);
}

static void test_nobody_there(void **state)
{
    struct world world;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("x", 30);

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_UNAVAILABLE);
    assert_null(world_get_model(&world));
    reading_done(&reading);
    world_stop(&world);
}

static void *shut_down(void *arg)
{
    struct world *world = arg;

    lam_service_shutdown(world->service, 120 * LAM_NS_PER_S);
    return NULL;
}

/* Connections were closed as soon as their calls had ended: a client that had not read everything
 * by then wrote to a closed socket, and lost the last tokens (16 times in 1,080 runs). */
static void test_shutdown_drains(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("x", 60);
    pthread_t stopper;
    uint64_t before_ns;

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    assert_true(reading_one(&world, &reading));
    before_ns = lam_now_ns();
    assert_int_equal(pthread_create(&stopper, NULL, shut_down, &world), 0);
    reading_all(&world, &reading);
    assert_int_equal(reading.n_ids, 60);
    reading_done(&reading);
    lam_rpc_channel_destroy(world.channel);
    pthread_join(stopper, NULL);
    assert_true(lam_now_ns() - before_ns < 60 * LAM_NS_PER_S);
    fake_worker_join(&worker);
    assert_int_equal(worker.end.status, LAM_UNAVAILABLE);
    lam_service_destroy(world.service);
    lam_arena_done(&world.arena);
    lam_buf_done(&world.model.header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_lost),
        cmocka_unit_test(test_worker_that_hangs),
        cmocka_unit_test(test_worker_that_answers_nonsense),
        cmocka_unit_test(test_worker_with_another_model),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_shutdown_drains),
    };

    lam_log_init("test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
