/*
 * trace_write: spans as a JSON object of Chrome's trace event format. Threads of the page are lanes
 * of a track, numbered track * LANES_MAX + lane.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "common/trace.h"

#define LANES_MAX 1000u

static const char *const track_names[] = {
    [LAM_TRACE_REQUEST] = "requests",
    [LAM_TRACE_STEP] = "steps",
    [LAM_TRACE_PASS] = "passes",
    [LAM_TRACE_WAIT] = "waits",
    [LAM_TRACE_COPY] = "copies",
    [LAM_TRACE_COMPUTE] = "kernels",
    [LAM_TRACE_SAMPLE] = "sampling",
    [LAM_TRACE_DISK] = "disk",
    [LAM_TRACE_CHECK] = "checks",
    [LAM_TRACE_LEASE] = "leases",
};

static_assert(sizeof track_names / sizeof track_names[0] == LAM_TRACE_TRACKS, "one for each");

static int compare(const void *a, const void *b)
{
    const struct lam_trace_span *x = a, *y = b;

    if (x->track != y->track)
        return x->track < y->track ? -1 : 1;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->end_ns < y->end_ns ? -1 : x->end_ns > y->end_ns;
}

/* Lanes of the track that is being written: when the last span of each ends. */
struct lanes {
    uint32_t n;
    uint64_t end_ns[LANES_MAX];
};

/* The first free lane, or LANES_MAX when none is left. */
static uint32_t take_lane(struct lanes *lanes, const struct lam_trace_span *span)
{
    uint32_t lane = 0;

    while (lane < lanes->n && lanes->end_ns[lane] > span->begin_ns)
        lane++;
    if (lane == LANES_MAX)
        return lane;
    if (lane == lanes->n)
        lanes->n++;
    lanes->end_ns[lane] = span->end_ns;
    return lane;
}

/* Microseconds with all digits of the nanoseconds. */
static bool write_time(struct lam_buf *out, const char *key, uint64_t time_ns)
{
    return lam_buf_printf(
        out, ",\"%s\":%" PRIu64 ".%03" PRIu64, key, time_ns / 1000, time_ns % 1000);
}

static bool write_thread(struct lam_buf *out, int pid, enum lam_trace_track track, uint32_t lane)
{
    uint32_t tid = track * LANES_MAX + lane;

    return lam_buf_printf(out,
               ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%" PRIu32
               ",\"args\":{\"name\":\"%s",
               pid, tid, track_names[track]) &&
           (lane == 0 || lam_buf_printf(out, " %" PRIu32, lane + 1)) &&
           lam_buf_printf(out,
               "\"}},\n{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%d,\"tid\":%" PRIu32
               ",\"args\":{\"sort_index\":%" PRIu32 "}}",
               pid, tid, tid);
}

static bool write_span(
    struct lam_buf *out, int pid, const struct lam_trace_span *span, uint32_t lane)
{
    const char *separator = "";
    bool ok = lam_buf_printf(out,
                  ",\n{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"%s\",\"pid\":%d,\"tid\":%" PRIu32,
                  span->name, track_names[span->track], pid, span->track * LANES_MAX + lane) &&
              write_time(out, "ts", span->begin_ns) &&
              write_time(out, "dur", span->end_ns - span->begin_ns) &&
              lam_buf_text(out, ",\"args\":{");

    if (ok && span->unit != LAM_TRACE_NONE) {
        ok = lam_buf_printf(out, "\"unit\":%" PRIu32, span->unit);
        separator = ",";
    }
    if (ok && span->slot != LAM_TRACE_NONE) {
        ok = lam_buf_printf(out, "%s\"slot\":%" PRIu32, separator, span->slot);
        separator = ",";
    }
    if (ok && span->bytes > 0)
        ok = lam_buf_printf(out, "%s\"bytes\":%" PRIu64, separator, span->bytes);
    return ok && lam_buf_text(out, "}}");
}

static bool write_head(struct lam_buf *out, const struct lam_trace_source *source)
{
    return lam_buf_printf(out,
        "{\"version\":1,\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
        "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"%s\"}}",
        source->pid, source->process);
}

/* Both clocks at one moment, for whoever lays pages of several machines side by side. */
static bool write_tail(struct lam_buf *out, const struct lam_trace_source *source, uint64_t lost)
{
    uint64_t monotonic_ns = lam_now_ns();
    struct timespec now;
    uint64_t realtime_ns;

    clock_gettime(CLOCK_REALTIME, &now);
    realtime_ns = (uint64_t)now.tv_sec * LAM_NS_PER_S + (uint64_t)now.tv_nsec;
    return lam_buf_printf(out,
        "\n],\n\"otherData\":{\"process\":\"%s\",\"pid\":%d,\"lost\":%" PRIu64
        ",\"monotonic_ns\":%" PRIu64 ",\"realtime_ns\":%" PRIu64 "}}\n",
        source->process, source->pid, lost, monotonic_ns, realtime_ns);
}

bool lam_trace_write(const struct lam_trace_source *source, struct lam_trace_span *spans, size_t n,
    struct lam_buf *out)
{
    struct lanes lanes;
    uint64_t lost = source->lost;
    bool ok = write_head(out, source);

    lanes.n = 0;
    if (n > 0)
        qsort(spans, n, sizeof spans[0], compare);
    for (size_t i = 0; i < n && ok; i++) {
        uint32_t n_before, lane;

        if (i == 0 || spans[i].track != spans[i - 1].track)
            lanes.n = 0;
        n_before = lanes.n;
        lane = take_lane(&lanes, &spans[i]);
        if (lane == LANES_MAX) {
            lost++;
            continue;
        }
        if (lanes.n > n_before)
            ok = write_thread(out, source->pid, spans[i].track, lane);
        ok = ok && write_span(out, source->pid, &spans[i], lane);
    }
    return ok && write_tail(out, source, lost);
}
