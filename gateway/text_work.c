/* text_work: see service_impl.h. */
#include <string.h>

#include "gateway/service_impl.h"

/* One word of 8 KiB takes 1.3 ms, one of 1 MiB a thousand times that (docs/perf/notebook.md). So
 * much is the most that goes on for a client who has left: what still waits is dropped with the
 * call, and to ask in all loops of the tokenizer whether somebody is there would save no more. */
#define SHORT_BYTES ((size_t)8 << 10)

static struct lam_text_work *outer(struct lam_aside_work *work)
{
    return (struct lam_text_work *)(void *)((char *)work - offsetof(struct lam_text_work, aside));
}

/* On the thread of aside. */
static void run(struct lam_aside_work *aside)
{
    struct lam_text_work *work = outer(aside);
    struct lam_arena arena = {0};
    ProtobufCMessage *message = NULL;

    if (lam_arena_init(&arena, LAM_REQUEST_ARENA_BYTES, &work->err) == LAM_OK &&
        lam_message_unpack(work->type, work->bytes, work->n_bytes, &arena, &message, &work->err) ==
            LAM_OK)
        work->handle(work, message);
    lam_arena_done(&arena);
    lam_rpc_call_nudge(work->call);
}

static void destroy(struct lam_aside_work *aside)
{
    struct lam_text_work *work = outer(aside);

    lam_rpc_call_unref(work->call);
    lam_text_work_done(work);
    lam_free(work);
}

/* A copy of *work with the bytes behind it, on its way; NULL: work->err says why not. */
static struct lam_text_work *put(struct lam_service *service, struct lam_rpc_call *call,
    struct lam_text_work *work, const void *bytes, size_t n_bytes)
{
    struct lam_text_work *copy = lam_calloc(1, sizeof *copy + n_bytes);

    if (!copy) {
        lam_fail(
            &work->err, LAM_RESOURCE_EXHAUSTED, "no memory for a request of %zu bytes", n_bytes);
        return NULL;
    }
    *copy = *work;
    copy->aside = (struct lam_aside_work){.run = run, .destroy = destroy};
    copy->call = call;
    lam_rpc_call_ref(call);
    copy->n_bytes = n_bytes;
    memcpy(copy->bytes, bytes, n_bytes);
    if (lam_aside_put(service->aside, &copy->aside, &work->err) == LAM_OK)
        return copy;
    destroy(&copy->aside);
    return NULL;
}

struct lam_text_work *lam_text_work_begin(struct lam_service *service, struct lam_rpc_call *call,
    struct lam_text_work *work, const void *bytes, size_t n_bytes)
{
    ProtobufCMessage *message;

    work->answer = LAM_BUF(LAM_ANSWER_BYTES_MAX);
    if (n_bytes > SHORT_BYTES && n_bytes <= LAM_REQUEST_BYTES_MAX)
        return put(service, call, work, bytes, n_bytes);
    message =
        lam_service_read(service, work->type, bytes, n_bytes, LAM_REQUEST_BYTES_MAX, &work->err);
    if (message)
        work->handle(work, message);
    return NULL;
}

void lam_text_work_done(struct lam_text_work *work)
{
    lam_request_done(&work->request);
    lam_buf_done(&work->answer);
}
