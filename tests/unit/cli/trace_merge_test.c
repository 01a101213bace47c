/* trace_merge: pages of honest, distant and hostile processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/trace_merge.h"
#include "common/trace.h"

static char merged[1 << 16]; /* by the last merge */

static enum lam_status merge(struct lam_trace_page *pages, size_t n, struct lam_err *err)
{
    FILE *out = fmemopen(merged, sizeof merged, "w");
    enum lam_status status;

    assert_non_null(out);
    status = lam_trace_merge(pages, n, out, err);
    fclose(out);
    return status;
}

/* What a process with one span at time_ns writes. */
static struct lam_trace_page page_of(const char *process, int pid, uint64_t time_ns)
{
    const struct lam_trace_source source = {.process = process, .pid = pid, .lost = 3};
    struct lam_trace_page page = {.address = process, .json = LAM_BUF(1 << 16)};
    struct lam_trace_span span = {
        LAM_TRACE_DISK, "read", time_ns, time_ns + 5, 7, LAM_TRACE_NONE, 4096};

    assert_true(lam_trace_write(&source, &span, 1, &page.json));
    return page;
}

static json_t *event_of(json_t *root, const char *kind, json_int_t pid)
{
    json_t *event;
    size_t i;

    json_array_foreach(json_object_get(root, "traceEvents"), i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "ph")), kind) == 0 &&
            json_integer_value(json_object_get(event, "pid")) == pid)
            return event;
    }
    fail_msg("no event %s of process %lld in %s", kind, (long long)pid, merged);
    return NULL;
}

/* Two containers may number their processes alike. */
static void processes_of_one_machine_keep_their_times(void **state)
{
    struct lam_trace_page pages[] = {
        page_of("one", 1, 864000123456789ull), page_of("two", 1, 864000123456790ull)};
    struct lam_err err = {0};
    json_t *root;

    (void)state;
    assert_int_equal(merge(pages, 2, &err), LAM_OK);
    root = json_loads(merged, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_integer_value(json_object_get(root, "version")), 1);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(event_of(root, "M", 2), "args"), "name")),
        "two 1");
    assert_non_null(strstr(merged, "\"ts\":864000123456.789,"));
    assert_non_null(strstr(merged, "\"ts\":864000123456.79,"));
    event_of(root, "X", 1);
    event_of(root, "X", 2);
    assert_int_equal(pages[1].n_spans, 1);
    assert_int_equal(pages[1].lost, 3);
    assert_int_equal(pages[1].shift_ns, 0);
    json_decref(root);
    lam_trace_pages_done(pages, 2);
}

/* The other machine has been up for 100 s longer: its clock shows more at the same moment. */
static void times_of_another_machine_are_shifted(void **state)
{
    struct lam_trace_page pages[] = {page_of("one", 1, 1000000), page_of("far", 2, 0)};
    struct lam_err err = {0};
    json_int_t monotonic_ns;
    json_t *root, *source;
    char text[4096];
    size_t n_bytes;

    (void)state;
    root = json_loadb(pages[1].json.data, pages[1].json.size, 0, NULL);
    source = json_object_get(root, "otherData");
    monotonic_ns = json_integer_value(json_object_get(source, "monotonic_ns"));
    json_integer_set(
        json_object_get(source, "monotonic_ns"), monotonic_ns + 100 * (json_int_t)LAM_NS_PER_S);
    json_real_set(json_object_get(event_of(root, "X", 2), "ts"), 100e6 + 2000);
    n_bytes = json_dumpb(root, text, sizeof text, 0);
    assert_true(n_bytes > 0 && n_bytes <= sizeof text);
    lam_buf_clear(&pages[1].json);
    assert_true(lam_buf_append(&pages[1].json, text, n_bytes));
    json_decref(root);

    assert_int_equal(merge(pages, 2, &err), LAM_OK);
    root = json_loads(merged, 0, NULL);
    /* As exactly as the two pages were written at one moment. */
    assert_true(json_real_value(json_object_get(event_of(root, "X", 2), "ts")) > 2000 - 1e6);
    assert_true(json_real_value(json_object_get(event_of(root, "X", 2), "ts")) < 2000 + 1e6);
    json_decref(root);
    lam_trace_pages_done(pages, 2);
}

static void what_is_no_trace_is_refused(void **state)
{
    static const char *const hostile[] = {
        "",
        "{",
        "[]",
        "{\"traceEvents\":[]}",
        "{\"traceEvents\":{},\"otherData\":{\"process\":\"p\",\"monotonic_ns\":1,"
        "\"realtime_ns\":2,\"lost\":0}}",
        "{\"traceEvents\":[],\"otherData\":{\"process\":\"p\",\"monotonic_ns\":1,"
        "\"realtime_ns\":2,\"lost\":-1}}",
        "{\"traceEvents\":[],\"otherData\":{\"process\":7,\"monotonic_ns\":1,\"realtime_ns\":2,"
        "\"lost\":0}}",
        "{\"traceEvents\":[7],\"otherData\":{\"process\":\"p\",\"monotonic_ns\":1,"
        "\"realtime_ns\":2,\"lost\":0}}",
        "{\"traceEvents\":[{\"ph\":\"X\",\"name\":\"n\",\"ts\":\"1\",\"dur\":1}],\"otherData\":"
        "{\"process\":\"p\",\"monotonic_ns\":1,\"realtime_ns\":2,\"lost\":0}}",
        "{\"traceEvents\":[{\"ph\":\"B\",\"name\":\"n\",\"ts\":1}],\"otherData\":{\"process\":"
        "\"p\",\"monotonic_ns\":1,\"realtime_ns\":2,\"lost\":0}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        struct lam_trace_page page = {.address = "here", .json = LAM_BUF(1 << 16)};
        struct lam_err err = {0};

        assert_true(lam_buf_text(&page.json, hostile[i]));
        if (merge(&page, 1, &err) != LAM_DATA_LOSS || strstr(err.text, "here") == NULL)
            fail_msg("case %zu: %s", i, err.text);
        lam_trace_pages_done(&page, 1);
    }
}

static void a_full_disk_is_named(void **state)
{
    struct lam_trace_page page = page_of("one", 1, 1000);
    FILE *full = fopen("/dev/full", "w");
    struct lam_err err = {0};

    (void)state;
    assert_non_null(full);
    assert_int_equal(lam_trace_merge(&page, 1, full, &err), LAM_UNAVAILABLE);
    fclose(full);
    lam_trace_pages_done(&page, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_of_one_machine_keep_their_times),
        cmocka_unit_test(times_of_another_machine_are_shifted),
        cmocka_unit_test(what_is_no_trace_is_refused),
        cmocka_unit_test(a_full_disk_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
