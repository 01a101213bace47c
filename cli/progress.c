/* progress: see progress.h. */
#include "cli/progress.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/launch.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/map.h"
#include "common/mem.h"
#include "common/size.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/client.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX (64 * LAM_KIB)
#define SHOW_TIMEOUT_NS LAM_NS_PER_S
#define ASK_TIMEOUT_NS (60 * LAM_NS_PER_S) /* for what hangs */
#define PERIOD_NS (100 * LAM_NS_PER_MS)
#define LINE_PERIOD_NS (5 * LAM_NS_PER_S) /* of plain lines */
#define BAR_CELLS 30

struct lam_progress {
    const char *loader; /* address; outlives us */
    struct lam_rpc_channel *channel;
    struct lam_arena arena;
    struct lam_buf request;
    struct lam_buf response;
    uint64_t model_bytes;
    uint64_t began_ns;
    uint64_t last_line_ns;
    bool is_terminal;
    bool bar_shown;
    bool has_thread;
    pthread_t thread;
    atomic_bool stop;
};

static enum lam_status ask(struct lam_progress *progress, uint64_t timeout_ns,
    struct lam_loader_stats *ret_stats, struct lam_err *err)
{
    Laminar__V1__GetStatsRequest request = LAMINAR__V1__GET_STATS_REQUEST__INIT;
    const Laminar__V1__GetStatsResponse *stats;
    ProtobufCMessage *message = NULL;
    enum lam_status status;

    lam_buf_clear(&progress->response);
    lam_arena_reset(&progress->arena);
    if (!lam_message_pack(&request.base, &progress->request))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to ask the loader");
    status = lam_rpc_unary(progress->channel, "/laminar.v1.Loader/GetStats", progress->request.data,
        progress->request.size, timeout_ns, &progress->response, err);
    if (!status)
        status = lam_message_unpack(&laminar__v1__get_stats_response__descriptor,
            progress->response.data, progress->response.size, &progress->arena, &message, err);
    if (status)
        return status;
    stats = (const Laminar__V1__GetStatsResponse *)message;
    *ret_stats = (struct lam_loader_stats){
        .direct = stats->direct,
        .fixed_buffers = stats->fixed_buffers,
        .pool_bytes = stats->pool_bytes,
        .pool_used_bytes = stats->pool_used_bytes,
        .pool_ready_bytes = stats->pool_ready_bytes,
        .pool_ready_seconds = (double)stats->pool_ready_ns / (double)LAM_NS_PER_S,
        .disk_bytes = stats->disk_bytes,
        .disk_reads = stats->disk_reads,
        .units_loaded = stats->units_loaded,
        .units_hit = stats->units_hit,
        .units_granted = stats->units_granted,
    };
    snprintf(ret_stats->engine, sizeof ret_stats->engine, "%s", stats->engine);
    snprintf(ret_stats->pages, sizeof ret_stats->pages, "%s", stats->pages);
    return LAM_OK;
}

static double seconds_since(uint64_t then_ns)
{
    return (double)(lam_now_ns() - then_ns) / (double)LAM_NS_PER_S;
}

/* Memory that the machine has yet to give is what loading waits for then; "" when all is there. */
static const char *memory_text(const struct lam_loader_stats *stats, char *text, size_t text_bytes)
{
    char ready[24];
    char pool[24];

    text[0] = '\0';
    if (stats->pool_ready_bytes + LAM_HUGE_PAGE_BYTES <= stats->pool_bytes) /* rounded to pages */
        snprintf(text, text_bytes, ", memory %s of %s",
            lam_size_format(stats->pool_ready_bytes, ready, sizeof ready),
            lam_size_format(stats->pool_bytes, pool, sizeof pool));
    return text;
}

static void draw_bar(struct lam_progress *progress, const struct lam_loader_stats *stats,
    uint64_t done, uint64_t whole)
{
    char memory[80];
    char done_text[24];
    char whole_text[24];
    char bar[BAR_CELLS + 1];
    double seconds = seconds_since(progress->began_ns);
    uint64_t cells = done * BAR_CELLS / whole;

    for (uint64_t i = 0; i < BAR_CELLS; i++)
        bar[i] = i < cells ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\rloading [%s] %s of %s, %.2f GB/s%s \033[K", bar,
        lam_size_format(done, done_text, sizeof done_text),
        lam_size_format(whole, whole_text, sizeof whole_text),
        seconds > 0 ? (double)done / seconds / 1e9 : 0, memory_text(stats, memory, sizeof memory));
    progress->bar_shown = true;
}

static void draw_line(struct lam_progress *progress, const struct lam_loader_stats *stats,
    uint64_t done, uint64_t whole)
{
    char memory[80];
    char done_text[24];
    char whole_text[24];

    if (done < whole && lam_now_ns() - progress->last_line_ns < LINE_PERIOD_NS)
        return;
    progress->last_line_ns = lam_now_ns();
    fprintf(stderr, "laminar: %s %s of %s in %.2f s%s\n", done < whole ? "loading" : "loaded",
        lam_size_format(done, done_text, sizeof done_text),
        lam_size_format(whole, whole_text, sizeof whole_text), seconds_since(progress->began_ns),
        memory_text(stats, memory, sizeof memory));
}

/* Until the pool holds what it can hold of the model, or nobody wants to see it any more. */
static void *show(void *arg)
{
    struct lam_progress *progress = arg;
    bool complete = false;

    while (!lam_run_dir_answers(progress->loader) && !atomic_load(&progress->stop))
        lam_sleep_ns(PERIOD_NS / 10);
    while (!complete && !atomic_load(&progress->stop)) {
        struct lam_loader_stats stats;
        struct lam_err err = {0};
        if (ask(progress, SHOW_TIMEOUT_NS, &stats, &err) == LAM_OK && stats.pool_bytes > 0) {
            uint64_t whole = progress->model_bytes;
            uint64_t done = stats.pool_used_bytes;
            whole = whole < stats.pool_bytes ? whole : stats.pool_bytes;
            done = done < whole ? done : whole;
            complete = done == whole;
            if (progress->is_terminal)
                draw_bar(progress, &stats, done, whole);
            else
                draw_line(progress, &stats, done, whole);
        }
        lam_sleep_ns(complete ? 0 : PERIOD_NS);
    }
    return NULL;
}

enum lam_status lam_progress_stats(
    struct lam_progress *progress, struct lam_loader_stats *ret_stats, struct lam_err *err)
{
    return ask(progress, ASK_TIMEOUT_NS, ret_stats, err);
}

enum lam_status lam_progress_start(const char *loader, uint64_t model_bytes,
    struct lam_progress **ret_progress, struct lam_err *err)
{
    struct lam_progress *progress = lam_calloc(1, sizeof *progress);
    enum lam_status status;
    int code;

    if (!progress)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the progress display");
    progress->request = LAM_BUF(MESSAGE_BYTES_MAX);
    progress->response = LAM_BUF(MESSAGE_BYTES_MAX);
    progress->loader = loader;
    progress->model_bytes = model_bytes;
    progress->began_ns = progress->last_line_ns = lam_now_ns();
    progress->is_terminal = isatty(STDERR_FILENO) == 1;
    status = lam_arena_init(&progress->arena, MESSAGE_BYTES_MAX, err);
    if (!status)
        status = lam_rpc_channel_create(loader, MESSAGE_BYTES_MAX, &progress->channel, err);
    if (!status) {
        code = pthread_create(&progress->thread, NULL, show, progress);
        progress->has_thread = code == 0;
        if (code)
            status = lam_fail_errno(err, code, "cannot start a thread");
    }
    if (status) {
        lam_progress_destroy(progress);
        return status;
    }
    *ret_progress = progress;
    return LAM_OK;
}

void lam_progress_hide(struct lam_progress *progress)
{
    if (!progress->has_thread)
        return;
    atomic_store(&progress->stop, true);
    pthread_join(progress->thread, NULL);
    progress->has_thread = false;
    if (progress->bar_shown)
        fprintf(stderr, "\r\033[K");
}

void lam_progress_destroy(struct lam_progress *progress)
{
    if (!progress)
        return;
    lam_progress_hide(progress);
    lam_rpc_channel_destroy(progress->channel);
    lam_arena_done(&progress->arena);
    lam_buf_done(&progress->request);
    lam_buf_done(&progress->response);
    lam_free(progress);
}
