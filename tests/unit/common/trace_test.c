/* trace: the ring under many threads, and the page that viewers open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/trace.h"

#define N_WRITERS 4
#define LAPS 20u /* of the ring, while it is read */

static struct lam_trace_span spans[LAM_TRACE_SPANS];

static void add(uint64_t begin_ns, uint64_t end_ns, enum lam_trace_track track, const char *name)
{
    lam_trace_add(&(struct lam_trace_span){.track = track,
        .name = name,
        .begin_ns = begin_ns,
        .end_ns = end_ns,
        .unit = LAM_TRACE_NONE,
        .slot = LAM_TRACE_NONE});
}

static void off_it_records_nothing(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    uint64_t begin_ns = lam_trace_begin();
    uint64_t lost;

    (void)state;
    assert_true(lam_trace_on());
    lam_trace_stop();
    assert_false(lam_trace_on());
    assert_int_equal(lam_trace_begin(), 0);
    lam_trace_end(LAM_TRACE_PASS, "pass", begin_ns, 0, 0, 0); /* ended after the recording */
    add(begin_ns, begin_ns, LAM_TRACE_PASS, "pass");
    assert_int_equal(lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost), 0);
    assert_int_equal(lost, 0);
}

static void spans_come_back_whole(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    uint64_t begin_ns = lam_trace_begin();
    uint64_t lost;

    (void)state;
    lam_trace_end(LAM_TRACE_CHECK, "check", begin_ns, 7, 3, 1ull << 40);
    lam_trace_end(LAM_TRACE_PASS, "none", 0, 1, 1, 1); /* had begun while it was off */
    add(mark.since_ns - 1, lam_now_ns(), LAM_TRACE_PASS, "early");
    add(begin_ns, begin_ns, LAM_TRACE_LEASE, "empty");
    assert_int_equal(lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost), 2);
    lam_trace_stop();
    assert_int_equal(lost, 0);
    assert_int_equal(spans[0].track, LAM_TRACE_CHECK);
    assert_string_equal(spans[0].name, "check");
    assert_int_equal(spans[0].begin_ns, begin_ns);
    assert_true(spans[0].end_ns >= begin_ns && spans[0].end_ns <= lam_now_ns());
    assert_int_equal(spans[0].unit, 7);
    assert_int_equal(spans[0].slot, 3);
    assert_true(spans[0].bytes == 1ull << 40);
    assert_string_equal(spans[1].name, "empty");
    assert_int_equal(spans[1].unit, LAM_TRACE_NONE);
}

/* Two recordings at a time: the end of one is not the end of the other. */
static void recordings_overlap(void **state)
{
    struct lam_trace_mark first = lam_trace_start();
    struct lam_trace_mark second;
    uint64_t lost;

    (void)state;
    lam_trace_end(LAM_TRACE_PASS, "one", lam_trace_begin(), 0, 0, 0);
    second = lam_trace_start();
    lam_trace_stop();
    lam_trace_end(LAM_TRACE_PASS, "two", lam_trace_begin(), 0, 0, 0);
    assert_int_equal(lam_trace_read(&first, spans, LAM_TRACE_SPANS, &lost), 2);
    assert_int_equal(lam_trace_read(&second, spans, LAM_TRACE_SPANS, &lost), 1);
    assert_string_equal(spans[0].name, "two");
    lam_trace_stop();
}

static void the_newest_win(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    uint64_t now_ns = lam_now_ns();
    uint64_t lost;

    (void)state;
    for (uint64_t i = 0; i < LAM_TRACE_SPANS + 10; i++)
        add(now_ns + i, now_ns + i + 1, LAM_TRACE_DISK, "read");
    assert_int_equal(lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost), LAM_TRACE_SPANS);
    assert_int_equal(lost, 10);
    assert_int_equal(spans[0].begin_ns, now_ns + 10);
    assert_int_equal(spans[LAM_TRACE_SPANS - 1].begin_ns, now_ns + LAM_TRACE_SPANS + 9);
    assert_int_equal(lam_trace_read(&mark, spans, 3, &lost), 3);
    assert_int_equal(lost, LAM_TRACE_SPANS + 7);
    assert_int_equal(spans[2].begin_ns, now_ns + LAM_TRACE_SPANS + 9);
    lam_trace_stop();
}

static atomic_bool writers_stop;

/* Every field follows from the number, so that a span of two halves shows. */
static void *write_many(void *arg)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    uint32_t writer = *(const uint32_t *)arg;

    for (uint32_t i = 0; !atomic_load(&writers_stop); i++)
        lam_trace_add(&(struct lam_trace_span){.track = (enum lam_trace_track)(i % 4),
            .name = names[i % 4],
            .begin_ns = UINT64_MAX / 2 + i,
            .end_ns = UINT64_MAX / 2 + 2ull * i,
            .unit = i,
            .slot = writer,
            .bytes = (uint64_t)i * 3});
    return NULL;
}

static void readers_see_whole_spans_during_writes(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    uint32_t next[N_WRITERS] = {0};
    pthread_t threads[N_WRITERS];
    uint32_t ids[N_WRITERS];
    uint64_t lost = 0;

    (void)state;
    atomic_store(&writers_stop, false);
    for (uint32_t w = 0; w < N_WRITERS; w++) {
        ids[w] = w;
        assert_int_equal(pthread_create(&threads[w], NULL, write_many, &ids[w]), 0);
    }
    while (lost < LAPS * LAM_TRACE_SPANS) {
        size_t n = lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost);

        memset(next, 0, sizeof next);
        for (size_t s = 0; s < n; s++) {
            uint32_t i = spans[s].unit;
            bool whole = spans[s].track == (enum lam_trace_track)(i % 4) &&
                         spans[s].name[0] == "abcd"[i % 4] &&
                         spans[s].begin_ns == UINT64_MAX / 2 + i &&
                         spans[s].end_ns == UINT64_MAX / 2 + 2ull * i &&
                         spans[s].slot < N_WRITERS && spans[s].bytes == (uint64_t)i * 3;

            if (!whole || i < next[spans[s].slot])
                fail_msg("span %zu of %zu is torn or out of order", s, n);
            next[spans[s].slot] = i + 1; /* those of one thread come in its order */
        }
    }
    atomic_store(&writers_stop, true);
    for (uint32_t w = 0; w < N_WRITERS; w++)
        pthread_join(threads[w], NULL);
    lam_trace_stop();
}

static void writes_what_viewers_read(void **state)
{
    const struct lam_trace_source source = {.process = "laminar-loader", .pid = 5, .lost = 2};
    static const char expected[] =
        "{\"version\":1,\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
        "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":5,\"args\":{\"name\":\"laminar-loader\"}},"
        "\n"
        "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":5,\"tid\":7000,"
        "\"args\":{\"name\":\"disk\"}},\n"
        "{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":5,\"tid\":7000,"
        "\"args\":{\"sort_index\":7000}},\n"
        "{\"ph\":\"X\",\"name\":\"read\",\"cat\":\"disk\",\"pid\":5,\"tid\":7000,\"ts\":1.002,"
        "\"dur\":2.000,\"args\":{\"unit\":7,\"slot\":1,\"bytes\":9}},\n"
        "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":5,\"tid\":7001,"
        "\"args\":{\"name\":\"disk 2\"}},\n"
        "{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":5,\"tid\":7001,"
        "\"args\":{\"sort_index\":7001}},\n"
        "{\"ph\":\"X\",\"name\":\"read\",\"cat\":\"disk\",\"pid\":5,\"tid\":7001,\"ts\":2.500,"
        "\"dur\":0.502,\"args\":{\"slot\":0}},\n"
        "{\"ph\":\"X\",\"name\":\"read\",\"cat\":\"disk\",\"pid\":5,\"tid\":7000,\"ts\":3.002,"
        "\"dur\":0.001,\"args\":{}}\n],\n"
        "\"otherData\":{\"process\":\"laminar-loader\",\"pid\":5,\"lost\":2,";
    struct lam_trace_span some[] = {
        {LAM_TRACE_DISK, "read", 3002, 3003, LAM_TRACE_NONE, LAM_TRACE_NONE, 0},
        {LAM_TRACE_DISK, "read", 2500, 3002, LAM_TRACE_NONE, 0, 0},
        {LAM_TRACE_DISK, "read", 1002, 3002, 7, 1, 9},
    };
    struct lam_buf out = LAM_BUF(4096);

    (void)state;
    assert_true(lam_trace_write(&source, some, 3, &out));
    assert_memory_equal(out.data, expected, strlen(expected));
    assert_string_equal(out.data + out.size - 3, "}}\n");
    for (size_t max = 0; max + 1 < out.size; max += 7) {
        struct lam_buf small = LAM_BUF(max);

        assert_false(lam_trace_write(&source, some, 3, &small));
        lam_buf_done(&small);
    }
    lam_buf_done(&out);
}

/* What has no lane is counted, not drawn over others. */
static void lanes_end(void **state)
{
    const struct lam_trace_source source = {.process = "p", .pid = 1};
    struct lam_buf out = LAM_BUF(1 << 20);

    (void)state;
    for (uint32_t i = 0; i < 1003; i++)
        spans[i] = (struct lam_trace_span){.track = LAM_TRACE_REQUEST,
            .name = "request",
            .begin_ns = 1 + i,
            .end_ns = 5000,
            .unit = LAM_TRACE_NONE,
            .slot = LAM_TRACE_NONE};
    assert_true(lam_trace_write(&source, spans, 1003, &out));
    assert_non_null(strstr(out.data, "\"requests 1000\""));
    assert_null(strstr(out.data, "\"requests 1001\""));
    assert_non_null(strstr(out.data, "\"lost\":3,"));
    lam_buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_it_records_nothing),
        cmocka_unit_test(spans_come_back_whole),
        cmocka_unit_test(recordings_overlap),
        cmocka_unit_test(the_newest_win),
        cmocka_unit_test(readers_see_whole_spans_during_writes),
        cmocka_unit_test(writes_what_viewers_read),
        cmocka_unit_test(lanes_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
