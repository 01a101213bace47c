/*
 * Long prompts beside the I/O thread. The linker puts __wrap_lam_tokenizer_encode in the place of
 * the tokenizer's: a test holds it for as long as it wants, so "meanwhile" is no question of time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "gateway/aside.h"
#include "tests/unit/gateway/service_world.h"
#include "tests/unit/rpc/ops_page.h"

#define LONG_BYTES 12000u /* more than is done at once, less than FAKE_CONTEXT_MAX */

/* ---- the tokenizer, held ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed;
    atomic_uint n_entered; /* long texts that came to the gate */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void set_gate(bool closed)
{
    pthread_mutex_lock(&gate.lock);
    gate.closed = closed;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void pass_gate(void)
{
    atomic_fetch_add(&gate.n_entered, 1);
    pthread_mutex_lock(&gate.lock);
    while (gate.closed)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

enum lam_status __real_lam_tokenizer_encode(const struct lam_tokenizer *tokenizer, const char *text,
    size_t n, enum lam_encode_flags flags, struct lam_tokens *tokens, struct lam_err *err);
enum lam_status __wrap_lam_tokenizer_encode(const struct lam_tokenizer *tokenizer, const char *text,
    size_t n, enum lam_encode_flags flags, struct lam_tokens *tokens, struct lam_err *err);

enum lam_status __wrap_lam_tokenizer_encode(const struct lam_tokenizer *tokenizer, const char *text,
    size_t n, enum lam_encode_flags flags, struct lam_tokens *tokens, struct lam_err *err)
{
    if (n >= LONG_BYTES)
        pass_gate();
    return __real_lam_tokenizer_encode(tokenizer, text, n, flags, tokens, err);
}

/* ---- the gateway ---- */

static char long_text[LONG_BYTES + 1];
static char ops[128];

static void start(struct world *world, struct fake_worker *worker)
{
    memset(long_text, 'a', LONG_BYTES);
    snprintf(ops, sizeof ops, "unix:/tmp/laminar-aside-%d", (int)getpid());
    world_ops = ops;
    set_gate(false);
    atomic_store(&gate.n_entered, 0);
    world_start(world, 8, LAM_NS_PER_S);
    memset(worker, 0, sizeof *worker);
    worker->id = "w";
    worker->model = &world->model;
    worker->context = FAKE_CONTEXT_MAX;
    fake_worker_start(worker, world->address);
    world_wait(world, 1, true);
}

static void stop(struct world *world, struct fake_worker *worker)
{
    fake_worker_kill(worker);
    assert_false(atomic_load(&worker->broken));
    world_stop(world);
}

static void wait_for_metric(const char *series, double value)
{
    uint64_t give_up_ns = lam_now_ns() + 60 * LAM_NS_PER_S;

    while (ops_page_value(ops_page(ops, "/metrics"), series) != value)
        assert_true(lam_now_ns() < give_up_ns);
}

static void expect_answer(struct world *world, struct reading *reading, const char *prompt)
{
    char expected[TINY_CONTEXT];

    reading_all(world, reading);
    assert_int_equal(reading->err.status, LAM_OK);
    world_expected(prompt, 5, expected);
    assert_string_equal(reading->text.data, expected);
    reading_done(reading);
}

static void test_others_are_served_meanwhile(void **state)
{
    static struct fake_worker worker;
    Laminar__V1__GenerateRequest long_request = world_ask(long_text, 5);
    Laminar__V1__GenerateRequest short_request = world_ask("hello", 5);
    struct reading long_reading, short_reading;
    struct world world;

    (void)state;
    start(&world, &worker);
    set_gate(true);
    reading_open(&world, &long_request, &long_reading);
    world_wait_for(&gate.n_entered, 1);
    reading_open(&world, &short_request, &short_reading);
    expect_answer(&world, &short_reading, "hello");
    wait_for_metric("laminar_gateway_requests_open", 1); /* the long one */
    set_gate(false);
    expect_answer(&world, &long_reading, long_text);
    stop(&world, &worker);
}

/* A client that leaves: its text is not looked at, or what became of it is thrown away. */
static void test_cancel(void **state)
{
    static struct fake_worker worker;
    Laminar__V1__GenerateRequest request = world_ask(long_text, 5);
    struct reading readings[3];
    struct world world;

    (void)state;
    start(&world, &worker);
    set_gate(true);
    reading_open(&world, &request, &readings[0]);
    world_wait_for(&gate.n_entered, 1);
    reading_open(&world, &request, &readings[1]);
    wait_for_metric("laminar_gateway_requests_open", 2);
    for (int i = 0; i < 2; i++) {
        reading_done(&readings[i]);
        wait_for_metric("laminar_gateway_requests_total{result=\"cancelled\"}", i + 1);
    }
    wait_for_metric("laminar_gateway_requests_open", 0);
    reading_open(&world, &request, &readings[2]);
    set_gate(false);
    expect_answer(&world, &readings[2], long_text);
    assert_int_equal(atomic_load(&gate.n_entered), 2); /* the second one never came so far */
    stop(&world, &worker);
}

static void test_refused(void **state)
{
    static struct fake_worker worker;
    Laminar__V1__GenerateRequest request = world_ask(long_text, 5);
    struct reading reading;
    struct world world;

    (void)state;
    start(&world, &worker);
    request.max_tokens = -1;
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(reading.err.text, "max_tokens is -1"));
    reading_done(&reading);
    wait_for_metric("laminar_gateway_requests_total{result=\"refused\"}", 1);
    wait_for_metric("laminar_gateway_requests_open", 0);
    stop(&world, &worker);
}

/* Tokenize and Detokenize of a long text are each other's inverse, and wait for nobody else's. */
static void test_queries(void **state)
{
    static struct fake_worker worker;
    Laminar__V1__TokenizeRequest tokenize = LAMINAR__V1__TOKENIZE_REQUEST__INIT;
    Laminar__V1__DetokenizeRequest detokenize = LAMINAR__V1__DETOKENIZE_REQUEST__INIT;
    const Laminar__V1__TokenizeResponse *tokens;
    static int32_t ids[LONG_BYTES];
    ProtobufCMessage *response = NULL;
    struct lam_err err = {0};
    struct world world;

    (void)state;
    start(&world, &worker);
    tokenize.prompt_case = LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
    tokenize.text = long_text;
    tokenize.no_bos = true;
    assert_int_equal(world_unary(&world, "Tokenize", &tokenize.base,
                         &laminar__v1__tokenize_response__descriptor, &response, &err),
        LAM_OK);
    tokens = (const Laminar__V1__TokenizeResponse *)response;
    assert_int_equal(atomic_load(&gate.n_entered), 1);
    assert_int_equal(tokens->n_token_ids, LONG_BYTES);
    memcpy(ids, tokens->token_ids, sizeof ids);
    detokenize.token_ids = ids;
    detokenize.n_token_ids = LONG_BYTES;
    assert_int_equal(world_unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_OK);
    assert_string_equal(((const Laminar__V1__DetokenizeResponse *)response)->text, long_text);
    ids[LONG_BYTES - 1] = TINY_VOCAB;
    assert_int_equal(world_unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "token_ids[11999] is 300"));
    stop(&world, &worker);
}

/* ---- aside alone ---- */

struct job {
    struct lam_aside_work work;
    atomic_uint ran;
    atomic_uint destroyed;
};

static void job_run(struct lam_aside_work *work)
{
    struct job *job = (struct job *)(void *)work;

    atomic_fetch_add(&job->ran, 1);
    pass_gate();
}

static void job_destroy(struct lam_aside_work *work)
{
    struct job *job = (struct job *)(void *)work;

    atomic_fetch_add(&job->destroyed, 1);
}

static void test_work_is_destroyed_once(void **state)
{
    static struct job jobs[LAM_ASIDE_MAX + 1];
    struct lam_aside *aside = NULL;
    struct lam_err err = {0};

    (void)state;
    memset(jobs, 0, sizeof jobs);
    set_gate(true);
    assert_int_equal(lam_aside_create(&aside, &err), LAM_OK);
    for (unsigned i = 0; i <= LAM_ASIDE_MAX; i++)
        jobs[i].work = (struct lam_aside_work){.run = job_run, .destroy = job_destroy};
    for (unsigned i = 0; i < LAM_ASIDE_MAX; i++)
        assert_int_equal(lam_aside_put(aside, &jobs[i].work, &err), LAM_OK);
    assert_int_equal(lam_aside_put(aside, &jobs[LAM_ASIDE_MAX].work, &err), LAM_RESOURCE_EXHAUSTED);
    world_wait_for(&jobs[0].ran, 1);

    lam_aside_drop(aside, &jobs[0].work); /* runs */
    assert_int_equal(atomic_load(&jobs[0].destroyed), 0);
    lam_aside_drop(aside, &jobs[2].work);                 /* waits, between others */
    lam_aside_drop(aside, &jobs[LAM_ASIDE_MAX - 1].work); /* waits, the last one */
    assert_int_equal(atomic_load(&jobs[2].destroyed), 1);
    assert_int_equal(lam_aside_put(aside, &jobs[LAM_ASIDE_MAX].work, &err), LAM_OK);
    set_gate(false);
    world_wait_for(&jobs[LAM_ASIDE_MAX].ran, 1); /* the last of the list: all others have run */
    for (unsigned i = 1; i <= LAM_ASIDE_MAX; i++)
        if (i != 2 && i != LAM_ASIDE_MAX - 1)
            lam_aside_drop(aside, &jobs[i].work);
    lam_aside_destroy(aside);
    for (unsigned i = 0; i <= LAM_ASIDE_MAX; i++) {
        assert_int_equal(atomic_load(&jobs[i].ran), i != 2 && i != LAM_ASIDE_MAX - 1);
        assert_int_equal(atomic_load(&jobs[i].destroyed), 1);
    }
}

static void test_create_without_memory(void **state)
{
    struct lam_aside *aside = NULL;
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_aside_create(&aside, &err), LAM_RESOURCE_EXHAUSTED);
    assert_true(lam_fault_fired());
    lam_fault_arm("alloc", 0);
    lam_aside_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_others_are_served_meanwhile),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_work_is_destroyed_once),
        cmocka_unit_test(test_create_without_memory),
    };

    lam_log_init("test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
