/* trace_merge: see trace_merge.h. Pages are parsed one after the other: a full ring is a large
 * tree. */
#include "cli/trace_merge.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "rpc/ops.h"

#define PAGE_BYTES_MAX ((size_t)64 << 20)
#define ANSWER_NS (20 * LAM_NS_PER_S) /* beyond the recording */
/* Clocks of two machines began at their starts; those of one differ by what ntpd corrects. */
#define SAME_MACHINE_NS ((int64_t)LAM_NS_PER_S)
/* All digits of nanoseconds up to an uptime of eleven days, ten of them afterwards. */
#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* ---- fetching */

struct fetch {
    struct lam_trace_page *page;
    uint32_t seconds;
    pthread_t thread;
    bool started;
    enum lam_status status;
    struct lam_err err;
};

static void *fetch_one(void *arg)
{
    struct fetch *fetch = arg;
    char path[64] = "/trace";

    if (fetch->seconds > 0)
        snprintf(path, sizeof path, "/trace?seconds=%u", fetch->seconds);
    fetch->page->json = LAM_BUF(PAGE_BYTES_MAX);
    fetch->status = lam_ops_get(fetch->page->address, path,
        fetch->seconds * LAM_NS_PER_S + ANSWER_NS, &fetch->page->json, &fetch->err);
    return NULL;
}

/* Fills the `json` of each page. Errors: those of lam_ops_get, of the first that failed. */
static enum lam_status fetch_pages(
    struct lam_trace_page *pages, size_t n, uint32_t seconds, struct lam_err *err)
{
    struct fetch fetches[LAM_TRACE_PROCESSES_MAX] = {0};
    enum lam_status status = LAM_OK;

    for (size_t i = 0; i < n && status == LAM_OK; i++) {
        fetches[i] = (struct fetch){.page = &pages[i], .seconds = seconds};
        if (pthread_create(&fetches[i].thread, NULL, fetch_one, &fetches[i]) != 0)
            status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread");
        else
            fetches[i].started = true;
    }
    for (size_t i = 0; i < n; i++) {
        if (!fetches[i].started)
            continue;
        pthread_join(fetches[i].thread, NULL);
        if (status == LAM_OK && fetches[i].status != LAM_OK) {
            status = fetches[i].status;
            *err = fetches[i].err;
        }
    }
    return status;
}

/* ---- one page */

static enum lam_status fail_page(const struct lam_trace_page *page, struct lam_err *err)
{
    return lam_fail(err, LAM_DATA_LOSS,
        "the answer of %.200s is no trace: is it the operations port of a service of Laminar?",
        page->address);
}

/* Reads what the page says about itself. */
static bool read_source(struct lam_trace_page *page, const json_t *root)
{
    const json_t *source = json_object_get(root, "otherData");
    const char *process = json_string_value(json_object_get(source, "process"));
    int64_t monotonic_ns = json_integer_value(json_object_get(source, "monotonic_ns"));
    int64_t realtime_ns = json_integer_value(json_object_get(source, "realtime_ns"));
    int64_t lost = json_integer_value(json_object_get(source, "lost"));

    if (process == NULL || monotonic_ns <= 0 || realtime_ns < monotonic_ns || lost < 0)
        return false;
    snprintf(page->process, sizeof page->process, "%s", process);
    page->pid = json_integer_value(json_object_get(source, "pid"));
    page->offset_ns = realtime_ns - monotonic_ns;
    page->lost = (uint64_t)lost;
    return json_is_array(json_object_get(root, "traceEvents"));
}

/* A span of the page as one of the file: its process gets the number in the file, since processes
 * of two containers may have the same. */
static bool move_span(json_t *event, const struct lam_trace_page *page, size_t number)
{
    const json_t *ts = json_object_get(event, "ts");
    double at_us = json_number_value(ts) + (double)page->shift_ns / 1000;

    return json_is_number(ts) && json_is_number(json_object_get(event, "dur")) &&
           json_object_set_new(event, "pid", json_integer((json_int_t)number)) == 0 &&
           (page->shift_ns == 0 ||
               json_object_set_new(event, "ts", json_real(round(at_us * 1000) / 1000)) == 0);
}

/* "laminar-loader 4711", so that two loaders can be told apart. */
static bool name_process(FILE *out, const struct lam_trace_page *page, size_t number)
{
    char name[sizeof page->process + 24];
    json_t *events;
    bool ok;

    snprintf(name, sizeof name, "%s %lld", page->process, (long long)page->pid);
    events = json_pack("[{s:s,s:s,s:I,s:{s:s}},{s:s,s:s,s:I,s:{s:I}}]", "ph", "M", "name",
        "process_name", "pid", (json_int_t)number, "args", "name", name, "ph", "M", "name",
        "process_sort_index", "pid", (json_int_t)number, "args", "sort_index", (json_int_t)number);
    ok = events != NULL && fprintf(out, "%s", number == 1 ? "" : ",\n") >= 0 &&
         json_dumpf(json_array_get(events, 0), out, DUMP_FLAGS) == 0 && fputs(",\n", out) >= 0 &&
         json_dumpf(json_array_get(events, 1), out, DUMP_FLAGS) == 0;
    json_decref(events);
    return ok;
}

/* Writes one event; *ret_ok: it is one. */
static bool write_event(
    FILE *out, json_t *event, struct lam_trace_page *page, size_t number, bool *ret_ok)
{
    const char *kind = json_string_value(json_object_get(event, "ph"));
    const char *name = json_string_value(json_object_get(event, "name"));
    bool is_span = kind != NULL && strcmp(kind, "X") == 0;

    *ret_ok = kind != NULL && name != NULL && (is_span || strcmp(kind, "M") == 0);
    if (!*ret_ok || strcmp(name, "process_name") == 0)
        return true; /* that has our own name */
    if (is_span)
        *ret_ok = move_span(event, page, number);
    else
        *ret_ok = json_object_set_new(event, "pid", json_integer((json_int_t)number)) == 0;
    page->n_spans += is_span;
    return !*ret_ok || (fputs(",\n", out) >= 0 && json_dumpf(event, out, DUMP_FLAGS) == 0);
}

/* offset_ns: of the first page. */
static enum lam_status write_page(struct lam_trace_page *page, size_t number,
    const int64_t *offset_ns, FILE *out, struct lam_err *err)
{
    json_t *root = json_loadb(page->json.data, page->json.size, 0, NULL);
    bool ok = root != NULL && read_source(page, root);
    bool written = true;
    json_t *event;
    size_t i;

    if (ok &&
        (page->offset_ns - *offset_ns > SAME_MACHINE_NS ||
            *offset_ns - page->offset_ns > SAME_MACHINE_NS) &&
        number > 1)
        page->shift_ns = page->offset_ns - *offset_ns;
    if (ok)
        written = name_process(out, page, number);
    json_array_foreach(json_object_get(root, "traceEvents"), i, event)
    {
        if (ok && written)
            written = write_event(out, event, page, number, &ok);
    }
    json_decref(root);
    if (!ok)
        return fail_page(page, err);
    return written ? LAM_OK : lam_fail(err, LAM_UNAVAILABLE, "cannot write the trace");
}

/* ---- all pages */

static json_t *describe(const struct lam_trace_page *page, size_t number)
{
    return json_pack("{s:I,s:s,s:I,s:s,s:I,s:I,s:I}", "number", (json_int_t)number, "process",
        page->process, "pid", (json_int_t)page->pid, "address", page->address, "spans",
        (json_int_t)page->n_spans, "lost", (json_int_t)page->lost, "shift_ns",
        (json_int_t)page->shift_ns);
}

json_t *lam_trace_describe(const struct lam_trace_page *pages, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n && list != NULL; i++)
        if (json_array_append_new(list, describe(&pages[i], i + 1)) != 0) {
            json_decref(list);
            list = NULL;
        }
    return list;
}

enum lam_status lam_trace_merge(
    struct lam_trace_page *pages, size_t n, FILE *out, struct lam_err *err)
{
    enum lam_status status = LAM_OK;
    json_t *list;
    bool ok;

    ok = fputs("{\"version\":1,\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", out) >= 0;
    for (size_t i = 0; i < n && ok && status == LAM_OK; i++)
        status = write_page(&pages[i], i + 1, &pages[0].offset_ns, out, err);
    if (status != LAM_OK)
        return status;
    list = lam_trace_describe(pages, n);
    if (list == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the trace");
    ok = ok && fputs("\n],\n\"otherData\":{\"processes\":", out) >= 0 &&
         json_dumpf(list, out, DUMP_FLAGS) == 0 && fputs("}}\n", out) >= 0 && fflush(out) == 0;
    json_decref(list);
    return ok ? LAM_OK : lam_fail(err, LAM_UNAVAILABLE, "cannot write the trace");
}

/* The file under construction; NULL: see err. */
static FILE *open_partial(const char *path, char partial[PATH_MAX], struct lam_err *err)
{
    int length = snprintf(partial, PATH_MAX, "%s.%d.part", path, (int)getpid());
    FILE *out;

    if (length < 0 || length >= PATH_MAX) {
        lam_fail(err, LAM_INVALID_ARGUMENT, "the path of the trace is too long");
        return NULL;
    }
    out = fopen(partial, "wxe");
    if (out == NULL)
        lam_fail_errno(err, errno, "cannot write %s", path);
    return out;
}

enum lam_status lam_trace_check_path(const char *path, struct lam_err *err)
{
    char partial[PATH_MAX];
    FILE *out = open_partial(path, partial, err);

    if (out == NULL)
        return err->status;
    fclose(out);
    unlink(partial);
    return LAM_OK;
}

static enum lam_status write_file(
    struct lam_trace_page *pages, size_t n, const char *path, struct lam_err *err)
{
    char partial[PATH_MAX];
    FILE *out = open_partial(path, partial, err);
    enum lam_status status;

    if (out == NULL)
        return err->status;
    status = lam_trace_merge(pages, n, out, err);
    if (fclose(out) != 0 && status == LAM_OK)
        status = LAM_UNAVAILABLE;
    if (status == LAM_UNAVAILABLE)
        status = lam_fail_errno(err, errno, "cannot write %s; is the disk full?", path);
    if (status == LAM_OK && rename(partial, path) != 0)
        status = lam_fail_errno(err, errno, "cannot write %s", path);
    if (status != LAM_OK)
        unlink(partial);
    return status;
}

enum lam_status lam_trace_collect(
    struct lam_trace_page *pages, size_t n, uint32_t seconds, const char *path, struct lam_err *err)
{
    enum lam_status status = fetch_pages(pages, n, seconds, err);

    return status == LAM_OK ? write_file(pages, n, path, err) : status;
}

void lam_trace_warn(const struct lam_trace_page *pages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (pages[i].lost > 0)
            fprintf(stderr,
                "laminar: %s at %s recorded more than it can keep: its oldest %" PRIu64
                " spans are missing; record for fewer seconds\n",
                pages[i].process, pages[i].address, pages[i].lost);
        if (pages[i].shift_ns != 0)
            fprintf(stderr,
                "laminar: %s at %s runs on another machine than %s: its times are as good as the "
                "wall clocks\n",
                pages[i].process, pages[i].address, pages[0].address);
    }
}

void lam_trace_pages_done(struct lam_trace_page *pages, size_t n)
{
    for (size_t i = 0; i < n; i++)
        lam_buf_done(&pages[i].json);
}
