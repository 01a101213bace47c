/*
 * generate: one Generate call, from its request to its last message.
 *
 * A generation lives from the request to on_done, or until the request is refused. Its sequence in
 * the scheduler begins when the prompt is tokens (a long one becomes tokens aside), and may end
 * earlier than the generation. Tokens go out at once when the transport has taken the previous
 * message; otherwise they wait here and travel together. When LAM_CREDIT_TOKENS wait, the sequence
 * pauses.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "gateway/service_impl.h"

/* A drawn seed has 53 bits: JSON's numbers carry it, and `--seed` takes it back. */
#define SEED_BITS_OFF 11

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0.0;
}

static void stop_computing(struct lam_generation *g)
{
    if (g->seq)
        lam_sched_cancel(g->service->sched, g->seq);
    g->seq = NULL;
}

static void end_badly(struct lam_generation *g, enum lam_status status, const char *text)
{
    stop_computing(g);
    lam_rpc_call_finish(g->call, status, text);
}

/* Sends what may leave. Returns false when the call failed on it. */
static bool send_ready(struct lam_generation *g)
{
    Laminar__V1__GenerateResponse response = LAMINAR__V1__GENERATE_RESPONSE__INIT;
    Laminar__V1__Usage usage = LAMINAR__V1__USAGE__INIT;
    char stop[LAM_STOP_BYTES_MAX + 1] = "";
    char *text = g->emit.text.data;
    size_t n_ready = g->emit.n_ready;
    char behind = '\0';
    bool packed;

    response.n_token_ids = g->n_ids;
    response.token_ids = g->ids;
    if (g->emit.finish != LAM_FINISH_NOT) {
        response.finish_reason = g->emit.finish == LAM_FINISH_STOP
                                     ? LAMINAR__V1__FINISH_REASON__FINISH_REASON_STOP
                                     : LAMINAR__V1__FINISH_REASON__FINISH_REASON_LENGTH;
        if (g->emit.matched)
            memcpy(stop, g->emit.matched->text, g->emit.matched->size);
        response.matched_stop = stop;
        usage.prompt_tokens = (int32_t)g->n_prompt;
        usage.completion_tokens = (int32_t)g->n_completion;
        usage.queue_seconds = seconds(g->arrived_ns, g->started_ns);
        usage.prefill_seconds = seconds(g->started_ns, g->first_ns);
        usage.decode_seconds = seconds(g->first_ns, g->last_ns);
        response.usage = &usage;
        response.seed = g->seed;
    }
    if (text) { /* the message wants a C string, and more text may stand behind it */
        behind = text[n_ready];
        text[n_ready] = '\0';
        response.text = text;
    }
    packed = lam_message_pack(&response.base, &g->service->out);
    if (text)
        text[n_ready] = behind;
    lam_emit_taken(&g->emit);
    g->n_ids = 0;
    if (packed && lam_rpc_call_send(g->call, g->service->out.data, g->service->out.size))
        return true;
    end_badly(g, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
    return false;
}

/* Sends, waits or pauses, as the client's reading allows. */
static void flow(struct lam_generation *g, uint64_t now_ns)
{
    if (lam_rpc_call_queued(g->call) == 0) {
        if (g->n_ids > 0 && !send_ready(g))
            return;
        if (g->paused_ns && g->seq)
            lam_sched_pause(g->seq, false);
        g->paused_ns = 0;
    } else if (g->n_ids >= LAM_CREDIT_TOKENS && !g->paused_ns) {
        if (g->seq)
            lam_sched_pause(g->seq, true);
        g->paused_ns = now_ns;
    }
}

static void note_first(struct lam_generation *g, uint64_t now_ns)
{
    struct lam_service *service = g->service;

    g->first_ns = now_ns;
    lam_metric_observe(
        lam_service_metric(service, LAM_GATEWAY_QUEUE_SECONDS), g->started_ns - g->arrived_ns);
    lam_metric_observe(
        lam_service_metric(service, LAM_GATEWAY_FIRST_TOKEN_SECONDS), now_ns - g->arrived_ns);
}

static void take_token(
    struct lam_generation *g, const struct lam_sched_action *action, uint64_t now_ns)
{
    struct lam_err err = {0};

    if (action->last)
        g->seq = NULL;
    assert(g->n_ids < sizeof g->ids / sizeof *g->ids);
    g->ids[g->n_ids++] = action->token;
    g->n_completion++;
    g->started_ns = action->started_ns;
    g->last_ns = now_ns;
    lam_metric_add(lam_service_metric(g->service, LAM_GATEWAY_TOKENS), 1);
    if (!g->first_ns)
        note_first(g, now_ns);
    if (lam_emit_push(&g->emit, action->token, action->last, &err) != LAM_OK) {
        lam_error("generation ended: %s", err.text);
        end_badly(g, LAM_INTERNAL, err.text);
    } else if (g->emit.finish != LAM_FINISH_NOT) {
        stop_computing(g);
        if (send_ready(g))
            lam_rpc_call_finish(g->call, LAM_OK, NULL);
    } else {
        flow(g, now_ns);
    }
}

void lam_generation_apply(
    struct lam_generation *g, const struct lam_sched_action *action, uint64_t now_ns)
{
    if (action->kind == LAM_SCHED_TOKEN) {
        take_token(g, action, now_ns);
        return;
    }
    g->seq = NULL;
    if (g->n_ids == 0 || send_ready(g))
        end_badly(g, action->status, action->reason);
}

void lam_generation_tick(struct lam_generation *g, uint64_t now_ns)
{
    if (!g->seq)
        return;
    flow(g, now_ns);
    if (g->paused_ns && now_ns - g->paused_ns > LAM_CREDIT_LIMIT_NS)
        end_badly(g, LAM_RESOURCE_EXHAUSTED,
            "the client has not read for 30 s: read faster, or ask for less");
}

static struct lam_generation *create(struct lam_service *service, struct lam_rpc_call *call)
{
    struct lam_generation *g = lam_calloc(1, sizeof *g);

    if (!g)
        return NULL;
    g->service = service;
    g->call = call;
    g->arrived_ns = lam_now_ns();
    g->next = service->generations;
    if (g->next)
        g->next->prev = g;
    service->generations = g;
    lam_rpc_call_set_user(call, g);
    lam_metric_add(lam_service_metric(service, LAM_GATEWAY_OPEN), 1);
    return g;
}

static void destroy(struct lam_generation *g)
{
    if (g->work)
        lam_aside_drop(g->service->aside, &g->work->aside);
    if (g->prev)
        g->prev->next = g->next;
    else
        g->service->generations = g->next;
    if (g->next)
        g->next->prev = g->prev;
    lam_rpc_call_set_user(g->call, NULL);
    lam_metric_add(lam_service_metric(g->service, LAM_GATEWAY_OPEN), UINT64_MAX); /* one less */
    lam_emit_done(&g->emit);
    lam_free(g);
}

static void refuse(struct lam_generation *g, const struct lam_err *err)
{
    struct lam_rpc_call *call = g->call;

    lam_metric_add(lam_service_metric(g->service, LAM_GATEWAY_REFUSED), 1);
    destroy(g);
    lam_rpc_call_finish(call, err->status, err->text);
}

/* Takes over nothing: the request stays the caller's. */
static enum lam_status begin(
    struct lam_generation *g, const struct lam_request *request, struct lam_err *err)
{
    struct lam_service *service = g->service;
    struct lam_emit_config emit_config = {
        .tokenizer = lam_registry_served(service->registry)->tokenizer,
        .stops = request->stops,
        .n_stops = request->n_stops,
        .ignore_eos = request->ignore_eos,
    };
    struct lam_sched_request work = {
        .prompt = request->prompt.ids,
        .n_prompt = (uint32_t)request->prompt.n,
        .max_tokens = request->max_tokens,
        .sampling = request->sampling,
        .user = g,
    };
    enum lam_status status = lam_sched_add(service->sched, &work, lam_now_ns(), &g->seq, err);

    if (status != LAM_OK)
        return status;
    g->seed = request->sampling.seed;
    g->n_prompt = work.n_prompt;
    lam_emit_init(&g->emit, &emit_config);
    lam_metric_add(lam_service_metric(service, LAM_GATEWAY_PROMPT_TOKENS), work.n_prompt);
    return LAM_OK;
}

static void check(struct lam_text_work *work, const ProtobufCMessage *message)
{
    lam_ignore(lam_request_check(work->served, (const Laminar__V1__GenerateRequest *)message,
                   work->drawn_seed, &work->request, &work->err),
        "work->err has it");
}

/* The prompt is tokens, or there is an error. */
static void go_on(struct lam_generation *g, struct lam_text_work *work)
{
    if (work->err.status != LAM_OK || begin(g, &work->request, &work->err) != LAM_OK)
        refuse(g, &work->err);
    else
        lam_service_pump(g->service);
}

void lam_generate_on_nudge(void *arg, struct lam_rpc_call *call)
{
    struct lam_service *service = arg;
    struct lam_generation *g = lam_rpc_call_user(call);
    struct lam_text_work *work = g->work;

    g->work = NULL;
    go_on(g, work);
    lam_aside_drop(service->aside, &work->aside);
}

static enum lam_status draw_seed(uint64_t *ret_seed, struct lam_err *err)
{
    uint64_t seed;

    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return lam_fail_errno(err, errno, "cannot draw a seed");
    *ret_seed = seed >> SEED_BITS_OFF;
    return LAM_OK;
}

void lam_generate_on_message(
    void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    struct lam_text_work work = {.served = lam_service_model(service, call),
        .type = &laminar__v1__generate_request__descriptor,
        .handle = check};
    struct lam_generation *g = lam_rpc_call_user(call);

    if (!work.served)
        return;
    if (g) {
        end_badly(g, LAM_INVALID_ARGUMENT, "Generate takes one request for each call");
        return;
    }
    g = create(service, call);
    if (!g) {
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for a generation");
        return;
    }
    if (draw_seed(&work.drawn_seed, &work.err) == LAM_OK)
        g->work = lam_text_work_begin(service, call, &work, bytes, n_bytes);
    if (!g->work)
        go_on(g, &work);
    lam_text_work_done(&work);
}

/* One stretch of a request's life; 0: it did not come so far. */
static void trace_stretch(const char *name, uint64_t begin_ns, uint64_t end_ns)
{
    if (begin_ns != 0 && end_ns >= begin_ns)
        lam_trace_add(&(struct lam_trace_span){.track = LAM_TRACE_REQUEST,
            .name = name,
            .begin_ns = begin_ns,
            .end_ns = end_ns,
            .unit = LAM_TRACE_NONE,
            .slot = LAM_TRACE_NONE});
}

static void note_end(const struct lam_generation *g, bool cancelled)
{
    enum lam_gateway_metric how = cancelled ? LAM_GATEWAY_CANCELLED : LAM_GATEWAY_FAILED;

    if (g->emit.finish != LAM_FINISH_NOT)
        how = g->emit.finish == LAM_FINISH_STOP ? LAM_GATEWAY_STOPPED : LAM_GATEWAY_CUT;
    lam_metric_add(lam_service_metric(g->service, how), 1);
    trace_stretch("queued", g->arrived_ns, g->started_ns);
    trace_stretch("prompt", g->started_ns, g->first_ns);
    trace_stretch("generation", g->first_ns, g->last_ns);
}

void lam_generate_on_done(void *arg, struct lam_rpc_call *call, bool cancelled)
{
    struct lam_service *service = arg;
    struct lam_generation *g = lam_rpc_call_user(call);

    if (!g)
        return;
    stop_computing(g); /* a finished one has nothing left to stop */
    note_end(g, cancelled);
    destroy(g);
    lam_service_pump(service);
}
