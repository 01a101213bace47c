/* Workers that introduce themselves well, badly, and as somebody else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "common/fault.h"
#include "gateway/registry.h"
#include "tests/unit/gateway/tiny_model.h"

static Laminar__V1__Hello make_hello(const char *id, const struct tiny_model *model)
{
    Laminar__V1__Hello hello = LAMINAR__V1__HELLO__INIT;

    hello.worker_id = (char *)(uintptr_t)id;
    hello.device = (char *)(uintptr_t) "cpu";
    hello.backend = (char *)(uintptr_t) "test";
    hello.model_digest = model->digest;
    hello.header_bytes = model->header.size;
    hello.file_bytes = model->file_bytes;
    hello.context_tokens = TINY_CONTEXT;
    hello.max_sequences = 4;
    hello.max_rows = 16;
    hello.kv_page_tokens = 16;
    hello.kv_pages = 16;
    return hello;
}

struct fixture {
    struct lam_registry *registry;
    struct tiny_model model;
};

static int setup(void **state)
{
    static struct fixture fixture;
    struct lam_err err = {0};

    fixture.model = tiny_model_make("one", true);
    if (lam_registry_create(NULL, &fixture.registry, &err) != LAM_OK)
        return -1;
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    lam_registry_destroy(fixture->registry);
    lam_buf_done(&fixture->model.header);
    return 0;
}

static struct lam_worker *enter(struct lam_registry *registry)
{
    struct lam_worker *worker = NULL;
    struct lam_err err = {0};

    assert_int_equal(lam_registry_enter(registry, NULL, &worker, &err), LAM_OK);
    return worker;
}

/* Sends the header in chunks; returns the first status that is not OK. */
static enum lam_status send_header(struct lam_registry *registry, struct lam_worker *worker,
    const struct lam_buf *header, size_t chunk_bytes, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (size_t at = 0; at < header->size && status == LAM_OK; at += chunk_bytes) {
        Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;
        chunk.offset = at;
        chunk.data.data = (uint8_t *)header->data + at;
        chunk.data.len = header->size - at < chunk_bytes ? header->size - at : chunk_bytes;
        status = lam_registry_header_chunk(registry, worker, &chunk, err);
    }
    return status;
}

static struct lam_worker *attach(struct fixture *fixture, const char *id)
{
    Laminar__V1__Hello hello = make_hello(id, &fixture->model);
    struct lam_worker *worker = enter(fixture->registry);
    struct lam_err err = {0};
    bool want;

    assert_int_equal(lam_registry_hello(fixture->registry, worker, &hello, &want, &err), LAM_OK);
    if (want)
        assert_int_equal(
            send_header(fixture->registry, worker, &fixture->model.header, 1000, &err), LAM_OK);
    assert_int_equal(worker->phase, LAM_WORKER_READY);
    return worker;
}

static void test_first_and_second_worker(void **state)
{
    struct fixture *fixture = *state;
    struct lam_worker *first, *second;

    assert_null(lam_registry_served(fixture->registry));
    first = attach(fixture, "first");
    assert_non_null(lam_registry_served(fixture->registry));
    assert_string_equal(lam_registry_served(fixture->registry)->spec.name, "one");
    assert_int_equal(lam_registry_served(fixture->registry)->chat, LAM_CHAT_CHATML);
    second = attach(fixture, "second"); /* is asked for nothing */
    assert_int_equal(lam_registry_n_ready(fixture->registry), 2);
    assert_int_equal(first->caps.pages, 16);
    assert_int_equal(first->caps.page_tokens, 16);
    lam_registry_leave(fixture->registry, first);
    assert_ptr_equal(lam_registry_workers(fixture->registry), second);
    lam_registry_leave(fixture->registry, second);
    assert_non_null(lam_registry_served(fixture->registry)); /* the model stays */
}

static void expect_refusal(struct fixture *fixture, const Laminar__V1__Hello *hello,
    enum lam_status status, const char *word, const char *word2)
{
    struct lam_worker *worker = enter(fixture->registry);
    struct lam_err err = {0};
    bool want;

    assert_int_equal(lam_registry_hello(fixture->registry, worker, hello, &want, &err), status);
    if (!strstr(err.text, word) || !strstr(err.text, word2))
        fail_msg("\"%s\" names not both \"%s\" and \"%s\"", err.text, word, word2);
    assert_int_equal(worker->phase, LAM_WORKER_NEW);
    lam_registry_leave(fixture->registry, worker);
}

static void test_ranges(void **state)
{
    struct fixture *fixture = *state;
    const struct {
        const char *field;
        size_t offset;
        int64_t min, max;
        size_t size;
    } fields[] = {
#define FIELD(name, min, max)                                                                      \
    {#name, offsetof(Laminar__V1__Hello, name), min, max, sizeof((Laminar__V1__Hello *)0)->name}
        FIELD(context_tokens, 2, TINY_CONTEXT),
        FIELD(max_sequences, 1, 4096),
        FIELD(max_rows, 1, 65536),
        FIELD(kv_page_tokens, 4, 65536), /* 16 pages have to hold the context */
        FIELD(kv_pages, 4, 1 << 24),
        FIELD(max_steps, 0, 1024),
        FIELD(header_bytes, 24, 64 << 20),
        FIELD(file_bytes, 0, 1ll << 50),
#undef FIELD
    };

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const int64_t values[] = {
            fields[i].min - 1, fields[i].min, fields[i].max, fields[i].max + 1, -1};
        for (size_t k = 0; k < 5; k++) {
            Laminar__V1__Hello hello = make_hello("w", &fixture->model);
            struct lam_worker *worker = enter(fixture->registry);
            struct lam_err err = {0};
            bool want;
            bool inside = k == 1 || k == 2;
            if (strcmp(fields[i].field, "file_bytes") == 0)
                hello.header_bytes = 24;
            if (strcmp(fields[i].field, "file_bytes") == 0 && k == 1)
                inside = false; /* less than the header */
            if (strcmp(fields[i].field, "header_bytes") == 0)
                hello.file_bytes = 1 << 30;
            if (strcmp(fields[i].field, "context_tokens") == 0)
                hello.kv_pages = 4;
            memcpy((char *)&hello + fields[i].offset, &values[k], fields[i].size);
            assert_int_equal(
                lam_registry_hello(fixture->registry, worker, &hello, &want, &err) == LAM_OK,
                inside);
            if (!inside) {
                assert_int_equal(err.status, LAM_INVALID_ARGUMENT);
                assert_true(strlen(err.text) > 10);
            }
            lam_registry_leave(fixture->registry, worker);
        }
    }
}

static void test_texts(void **state)
{
    struct fixture *fixture = *state;
    Laminar__V1__Hello hello = make_hello("", &fixture->model);
    char text[200];

    memset(text, 'x', sizeof text);
    text[65] = '\0';
    expect_refusal(fixture, &hello, LAM_INVALID_ARGUMENT, "worker_id", "1..64");
    hello.worker_id = text;
    expect_refusal(fixture, &hello, LAM_INVALID_ARGUMENT, "worker_id", "65");
    text[65] = 'x';
    text[129] = '\0';
    hello.worker_id = (char *)(uintptr_t) "w";
    hello.backend = text;
    expect_refusal(fixture, &hello, LAM_INVALID_ARGUMENT, "backend", "129");
    hello.device = text;
    expect_refusal(fixture, &hello, LAM_INVALID_ARGUMENT, "device", "129");
}

static void test_who_does_not_fit(void **state)
{
    struct fixture *fixture = *state;
    struct lam_worker *first = attach(fixture, "first");
    struct tiny_model other = tiny_model_make("another", true);
    Laminar__V1__Hello hello = make_hello("second", &other);
    char digest[2][17];

    snprintf(digest[0], sizeof digest[0], "%016llx", (unsigned long long)other.digest);
    snprintf(digest[1], sizeof digest[1], "%016llx", (unsigned long long)fixture->model.digest);
    expect_refusal(fixture, &hello, LAM_FAILED_PRECONDITION, digest[0], digest[1]);
    hello = make_hello("first", &fixture->model);
    expect_refusal(fixture, &hello, LAM_ALREADY_EXISTS, "first", "id");
    hello = make_hello("second", &fixture->model);
    hello.context_tokens = TINY_CONTEXT - 1;
    expect_refusal(fixture, &hello, LAM_FAILED_PRECONDITION, "63", "64");
    lam_registry_leave(fixture->registry, first);
    lam_buf_done(&other.header);
}

static void test_bad_headers(void **state)
{
    struct fixture *fixture = *state;
    Laminar__V1__Hello hello = make_hello("w", &fixture->model);
    Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;
    struct lam_worker *worker = enter(fixture->registry);
    struct lam_err err = {0};
    bool want;

    chunk.data.data = (uint8_t *)fixture->model.header.data;
    chunk.data.len = 10;
    assert_int_equal(lam_registry_header_chunk(fixture->registry, worker, &chunk, &err),
        LAM_FAILED_PRECONDITION); /* nobody asked */
    assert_int_equal(lam_registry_hello(fixture->registry, worker, &hello, &want, &err), LAM_OK);
    assert_true(want);
    assert_int_equal(lam_registry_hello(fixture->registry, worker, &hello, &want, &err),
        LAM_FAILED_PRECONDITION); /* once */
    chunk.offset = 1;
    assert_int_equal(lam_registry_header_chunk(fixture->registry, worker, &chunk, &err),
        LAM_INVALID_ARGUMENT); /* a gap */
    chunk.offset = 0;
    chunk.data.len = 0;
    assert_int_equal(
        lam_registry_header_chunk(fixture->registry, worker, &chunk, &err), LAM_INVALID_ARGUMENT);
    chunk.data.len = fixture->model.header.size + 1;
    assert_int_equal(lam_registry_header_chunk(fixture->registry, worker, &chunk, &err),
        LAM_INVALID_ARGUMENT); /* more than announced; the data is not looked at */
    lam_registry_leave(fixture->registry, worker);
}

static void test_torn_and_foreign_headers(void **state)
{
    struct fixture *fixture = *state;
    struct lam_buf *header = &fixture->model.header;
    Laminar__V1__Hello hello = make_hello("w", &fixture->model);
    struct lam_worker *worker = enter(fixture->registry);
    struct lam_err err = {0};
    bool want;

    assert_int_equal(lam_registry_hello(fixture->registry, worker, &hello, &want, &err), LAM_OK);
    header->data[header->size / 2] ^= 1;
    assert_int_equal(send_header(fixture->registry, worker, header, 777, &err), LAM_DATA_LOSS);
    header->data[header->size / 2] ^= 1;
    lam_registry_leave(fixture->registry, worker);

    /* The right digest of something that is no model. */
    worker = enter(fixture->registry);
    header->data[0] ^= 1;
    hello.model_digest = XXH3_64bits(header->data, header->size);
    assert_int_equal(lam_registry_hello(fixture->registry, worker, &hello, &want, &err), LAM_OK);
    assert_int_equal(
        send_header(fixture->registry, worker, header, 1 << 20, &err), LAM_INVALID_ARGUMENT);
    assert_null(lam_registry_served(fixture->registry));
    header->data[0] ^= 1;
    lam_registry_leave(fixture->registry, worker);
}

/* Two workers bring the same model at the same time: the slower one is welcome too. */
static void test_race_for_the_header(void **state)
{
    struct fixture *fixture = *state;
    struct tiny_model other = tiny_model_make("another", false);
    struct lam_worker *workers[3];
    struct lam_err err = {0};
    bool want;

    for (size_t i = 0; i < 3; i++) {
        const char *ids[] = {"a", "b", "c"};
        Laminar__V1__Hello hello = make_hello(ids[i], i == 2 ? &other : &fixture->model);
        workers[i] = enter(fixture->registry);
        assert_int_equal(
            lam_registry_hello(fixture->registry, workers[i], &hello, &want, &err), LAM_OK);
        assert_true(want);
    }
    assert_int_equal(
        send_header(fixture->registry, workers[1], &fixture->model.header, 999, &err), LAM_OK);
    assert_int_equal(
        send_header(fixture->registry, workers[0], &fixture->model.header, 999, &err), LAM_OK);
    assert_int_equal(lam_registry_n_ready(fixture->registry), 2);
    assert_int_equal(send_header(fixture->registry, workers[2], &other.header, 999, &err),
        LAM_FAILED_PRECONDITION);
    for (size_t i = 0; i < 3; i++)
        lam_registry_leave(fixture->registry, workers[i]);
    lam_buf_done(&other.header);
}

static void test_too_many(void **state)
{
    struct fixture *fixture = *state;
    struct lam_worker *worker;
    struct lam_err err = {0};

    for (unsigned i = 0; i < LAM_WORKERS_MAX; i++)
        enter(fixture->registry);
    assert_int_equal(
        lam_registry_enter(fixture->registry, NULL, &worker, &err), LAM_RESOURCE_EXHAUSTED);
    while (lam_registry_workers(fixture->registry))
        lam_registry_leave(fixture->registry, lam_registry_workers(fixture->registry));
}

static void test_no_memory(void **state)
{
    struct fixture *fixture = *state;
    bool fired = true;

    for (uint64_t nth = 1; fired; nth++) {
        Laminar__V1__Hello hello = make_hello("w", &fixture->model);
        struct lam_registry *registry = NULL;
        struct lam_worker *worker = NULL;
        struct lam_err err = {0};
        bool want;
        enum lam_status status;
        lam_fault_arm("alloc", nth);
        status = lam_registry_create(NULL, &registry, &err);
        if (status == LAM_OK)
            status = lam_registry_enter(registry, NULL, &worker, &err);
        if (status == LAM_OK)
            status = lam_registry_hello(registry, worker, &hello, &want, &err);
        if (status == LAM_OK)
            status = send_header(registry, worker, &fixture->model.header, 1 << 20, &err);
        fired = lam_fault_fired();
        assert_int_equal(status, fired ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        if (worker)
            lam_registry_leave(registry, worker);
        lam_registry_destroy(registry);
    }
    lam_fault_arm("alloc", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_first_and_second_worker, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_texts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_does_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_and_foreign_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_race_for_the_header, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
