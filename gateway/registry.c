/* registry: see registry.h. */
#include "gateway/registry.h"

#include <string.h>

#include "common/mem.h"
#include "common/size.h"

/* Bounds of what a worker may say. They bound our memory, not the worker's. */
#define HEADER_BYTES_MIN 24u /* magic, version, two counts */
#define CHUNK_BYTES_MAX LAM_MIB
#define FILE_BYTES_MAX ((int64_t)1 << 50)
#define CONTEXT_TOKENS_MAX (1 << 24)
#define SEQUENCES_MAX 4096
#define ROWS_MAX 65536
#define PAGE_TOKENS_MAX 65536
#define PAGES_MAX (1 << 24)
#define STEPS_MAX 1024

struct lam_registry {
    const char *chat_name;
    struct lam_served *served;
    struct lam_worker *workers;
};

static enum lam_status check_text(
    const char *field, const char *text, size_t min, size_t max, struct lam_err *err)
{
    size_t size = strlen(text);

    if (size < min || size > max)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "%s has %zu bytes; the range is %zu..%zu", field,
            size, min, max);
    return LAM_OK;
}

static enum lam_status check_texts(const Laminar__V1__Hello *hello, struct lam_err *err)
{
    enum lam_status status =
        check_text("worker_id", hello->worker_id, 1, sizeof((struct lam_worker *)0)->id - 1, err);

    if (status == LAM_OK)
        status =
            check_text("device", hello->device, 1, sizeof((struct lam_worker *)0)->device - 1, err);
    if (status == LAM_OK)
        status = check_text(
            "backend", hello->backend, 0, sizeof((struct lam_worker *)0)->backend - 1, err);
    return status;
}

static enum lam_status check_numbers(const Laminar__V1__Hello *hello, struct lam_err *err)
{
    const struct {
        const char *field;
        int64_t value, min, max;
    } ranges[] = {
        {"context_tokens", hello->context_tokens, 2, CONTEXT_TOKENS_MAX},
        {"max_sequences", hello->max_sequences, 1, SEQUENCES_MAX},
        {"max_rows", hello->max_rows, 1, ROWS_MAX},
        {"kv_page_tokens", hello->kv_page_tokens, 1, PAGE_TOKENS_MAX},
        {"kv_pages", hello->kv_pages, 1, PAGES_MAX},
        {"max_steps", hello->max_steps, 0, STEPS_MAX},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return lam_fail(err, LAM_INVALID_ARGUMENT, "%s is %lld; the range is %lld..%lld",
                ranges[i].field, (long long)ranges[i].value, (long long)ranges[i].min,
                (long long)ranges[i].max);
    if (hello->header_bytes < HEADER_BYTES_MIN || hello->header_bytes > LAM_GGUF_HEADER_BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "header_bytes is %llu; the range is %u..%llu",
            (unsigned long long)hello->header_bytes, HEADER_BYTES_MIN,
            (unsigned long long)LAM_GGUF_HEADER_BYTES_MAX);
    if (hello->file_bytes < hello->header_bytes || hello->file_bytes > FILE_BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "file_bytes is %llu; the range is header_bytes (%llu)..%llu",
            (unsigned long long)hello->file_bytes, (unsigned long long)hello->header_bytes,
            (unsigned long long)FILE_BYTES_MAX);
    if ((int64_t)hello->kv_pages * hello->kv_page_tokens < hello->context_tokens)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%d KV pages of %d tokens cannot hold one sequence of %d: give the worker more "
            "KV pages or a smaller context",
            hello->kv_pages, hello->kv_page_tokens, hello->context_tokens);
    return LAM_OK;
}

/* Does the worker go with what is here already? */
static enum lam_status check_fit(const struct lam_registry *registry,
    const struct lam_worker *worker, const Laminar__V1__Hello *hello, struct lam_err *err)
{
    const struct lam_served *served = registry->served;

    for (const struct lam_worker *other = registry->workers; other; other = other->next)
        if (other != worker && strcmp(other->id, hello->worker_id) == 0)
            return lam_fail(err, LAM_ALREADY_EXISTS,
                "a worker with the id \"%s\" is attached already: give each its own id",
                hello->worker_id);
    if (!served)
        return LAM_OK;
    if (hello->model_digest != served->digest)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "the worker's model has digest %016llx; this gateway serves %016llx: start the worker "
            "with that model, or another gateway",
            (unsigned long long)hello->model_digest, (unsigned long long)served->digest);
    if ((uint32_t)hello->context_tokens < served->context_tokens)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "the worker's context is %d tokens; this gateway promises %u to its clients: start the "
            "worker with a context of at least %u",
            hello->context_tokens, served->context_tokens, served->context_tokens);
    return LAM_OK;
}

static void copy_text(char *to, const char *from)
{
    memcpy(to, from, strlen(from) + 1);
}

/* It may take more steps than we ever send. */
static uint32_t max_steps_of(const Laminar__V1__Hello *hello)
{
    if (hello->max_steps == 0)
        return 1;
    return hello->max_steps < (int32_t)LAM_SCHED_STEPS_MAX ? (uint32_t)hello->max_steps
                                                           : LAM_SCHED_STEPS_MAX;
}

static void take_hello(struct lam_worker *worker, const Laminar__V1__Hello *hello)
{
    copy_text(worker->id, hello->worker_id);
    copy_text(worker->device, hello->device);
    copy_text(worker->backend, hello->backend);
    worker->digest = hello->model_digest;
    worker->header_bytes = hello->header_bytes;
    worker->file_bytes = hello->file_bytes;
    worker->context_tokens = (uint32_t)hello->context_tokens;
    worker->caps = (struct lam_sched_caps){
        .max_sequences = (uint32_t)hello->max_sequences,
        .max_rows = (uint32_t)hello->max_rows,
        .page_tokens = (uint32_t)hello->kv_page_tokens,
        .pages = (uint32_t)hello->kv_pages,
        .max_steps = max_steps_of(hello),
    };
}

/* The header is complete. Another worker may have brought the same model in the meantime. */
static enum lam_status take_header(
    struct lam_registry *registry, struct lam_worker *worker, struct lam_err *err)
{
    struct lam_served_config config = {
        .file_bytes = worker->file_bytes,
        .digest = worker->digest,
        .context_tokens = worker->context_tokens,
        .chat_name = registry->chat_name,
    };

    if (!registry->served)
        return lam_served_create(&worker->header, &config, &registry->served, err);
    lam_buf_done(&worker->header);
    if (worker->digest != registry->served->digest ||
        worker->context_tokens < registry->served->context_tokens)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "another worker was faster and brought model %016llx with a context of %u tokens; this "
            "one has %016llx and %u",
            (unsigned long long)registry->served->digest, registry->served->context_tokens,
            (unsigned long long)worker->digest, worker->context_tokens);
    return LAM_OK;
}

enum lam_status lam_registry_create(
    const char *chat_name, struct lam_registry **ret_registry, struct lam_err *err)
{
    struct lam_registry *registry = lam_calloc(1, sizeof *registry);

    if (!registry)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the list of workers");
    registry->chat_name = chat_name;
    *ret_registry = registry;
    return LAM_OK;
}

void lam_registry_destroy(struct lam_registry *registry)
{
    if (!registry)
        return;
    lam_served_destroy(registry->served);
    lam_free(registry);
}

enum lam_status lam_registry_enter(
    struct lam_registry *registry, void *user, struct lam_worker **ret_worker, struct lam_err *err)
{
    struct lam_worker **end = &registry->workers;
    struct lam_worker *worker;
    uint32_t n = 0;

    for (; *end; end = &(*end)->next)
        n++;
    if (n >= LAM_WORKERS_MAX)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "%u workers are attached, which is the limit: start another gateway", n);
    worker = lam_calloc(1, sizeof *worker);
    if (!worker)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for another worker");
    worker->user = user;
    *end = worker;
    *ret_worker = worker;
    return LAM_OK;
}

void lam_registry_leave(struct lam_registry *registry, struct lam_worker *worker)
{
    struct lam_worker **link = &registry->workers;

    while (*link != worker)
        link = &(*link)->next;
    *link = worker->next;
    lam_buf_done(&worker->header);
    lam_free(worker);
}

enum lam_status lam_registry_hello(struct lam_registry *registry, struct lam_worker *worker,
    const Laminar__V1__Hello *hello, bool *ret_want_header, struct lam_err *err)
{
    enum lam_status status;

    if (worker->phase != LAM_WORKER_NEW)
        return lam_fail(err, LAM_FAILED_PRECONDITION, "Hello comes once, and it has come already");
    status = check_texts(hello, err);
    if (status == LAM_OK)
        status = check_numbers(hello, err);
    if (status == LAM_OK)
        status = check_fit(registry, worker, hello, err);
    if (status == LAM_OK)
        status = lam_report_take_memory(&worker->report, hello->memory, err);
    if (status != LAM_OK)
        return status;
    take_hello(worker, hello);
    worker->phase = registry->served ? LAM_WORKER_READY : LAM_WORKER_HEADER;
    worker->header = LAM_BUF((size_t)worker->header_bytes);
    *ret_want_header = worker->phase == LAM_WORKER_HEADER;
    return LAM_OK;
}

enum lam_status lam_registry_header_chunk(struct lam_registry *registry, struct lam_worker *worker,
    const Laminar__V1__HeaderChunk *chunk, struct lam_err *err)
{
    enum lam_status status;
    uint64_t left;

    if (worker->phase != LAM_WORKER_HEADER)
        return lam_fail(err, LAM_FAILED_PRECONDITION, "a header chunk that nobody asked for");
    left = worker->header_bytes - worker->header.size;
    if (chunk->offset != worker->header.size)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "header chunk at offset %llu; %zu is next",
            (unsigned long long)chunk->offset, worker->header.size);
    if (chunk->data.len < 1 || chunk->data.len > CHUNK_BYTES_MAX || chunk->data.len > left)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "header chunk of %zu bytes; the range is 1..%llu, and %llu are left", chunk->data.len,
            (unsigned long long)CHUNK_BYTES_MAX, (unsigned long long)left);
    if (!lam_buf_append(&worker->header, chunk->data.data, chunk->data.len))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a model header of %llu bytes",
            (unsigned long long)worker->header_bytes);
    if (worker->header.size < worker->header_bytes)
        return LAM_OK;
    status = take_header(registry, worker, err);
    if (status == LAM_OK)
        worker->phase = LAM_WORKER_READY;
    return status;
}

const struct lam_served *lam_registry_served(const struct lam_registry *registry)
{
    return registry->served;
}

struct lam_worker *lam_registry_workers(const struct lam_registry *registry)
{
    return registry->workers;
}

uint32_t lam_registry_n_ready(const struct lam_registry *registry)
{
    uint32_t n = 0;

    for (const struct lam_worker *worker = registry->workers; worker; worker = worker->next)
        n += worker->phase == LAM_WORKER_READY;
    return n;
}
