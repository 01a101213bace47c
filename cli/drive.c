/* drive: see drive.h. */
#include "cli/drive.h"

#include <pthread.h>
#include <stdbool.h>

#include "cli/client.h"
#include "common/clock.h"
#include "common/mem.h"

#define CONNECT_TIMEOUT_NS (60 * LAM_NS_PER_S) /* for what hangs */

struct request {
    struct lam_drive *drive;
    struct lam_client *client;
    int32_t *ids;       /* [n_prompt] */
    uint64_t *token_ns; /* [n_generate] */
    uint32_t n_tokens;
    bool counted; /* among drive->n_begun */
    pthread_t thread;
    bool has_thread;
    struct lam_err err;
};

struct lam_drive {
    struct lam_drive_config config;
    struct request *requests; /* [n_requests] */
    pthread_mutex_t lock;     /* of what follows */
    pthread_cond_t changed;
    uint64_t asked_ns;
    uint32_t n_begun;  /* requests that have a first token or have ended */
    uint32_t n_tokens; /* of the first request */
    bool has_ended;    /* the first request */
};

/* It has tokens, or has ended. */
static void count(struct request *request, bool has_ended)
{
    struct lam_drive *drive = request->drive;

    if (request->counted && request != drive->requests)
        return;
    pthread_mutex_lock(&drive->lock);
    drive->n_begun += !request->counted;
    if (request == drive->requests) {
        drive->n_tokens = request->n_tokens;
        drive->has_ended = has_ended;
    }
    pthread_cond_broadcast(&drive->changed);
    pthread_mutex_unlock(&drive->lock);
    request->counted = true;
}

static void take_tokens(void *arg, size_t n_tokens)
{
    struct request *request = arg;
    uint64_t now_ns = lam_now_ns();

    for (size_t i = 0; i < n_tokens && request->n_tokens < request->drive->config.n_generate; i++)
        request->token_ns[request->n_tokens++] = now_ns;
    count(request, false);
}

static bool ignore_text(void *arg, const char *text, size_t n_bytes)
{
    (void)arg;
    (void)text;
    (void)n_bytes;
    return true;
}

static void *run_request(void *arg)
{
    static const double greedy = 0;
    struct request *request = arg;
    const struct lam_drive_config *config = &request->drive->config;
    int64_t max_tokens = config->n_generate;
    struct lam_client_request what = {.ids = request->ids,
        .n_ids = config->n_prompt,
        .ignore_eos = true,
        .on_tokens = take_tokens,
        .max_tokens = &max_tokens,
        .sampling = {.temperature = &greedy}};
    struct lam_client_answer answer = {0};
    enum lam_status status =
        lam_client_generate(request->client, &what, ignore_text, request, &answer, &request->err);

    if (!status && request->n_tokens != config->n_generate)
        lam_fail(&request->err, LAM_DATA_LOSS, "a request got %u of %u tokens", request->n_tokens,
            config->n_generate);
    lam_client_answer_done(&answer);
    count(request, true);
    return NULL;
}

/* Different prompts of all kinds of tokens; the same in every run. */
static void fill_prompt(const struct lam_drive_config *config, uint32_t index, int32_t *ids)
{
    for (uint32_t i = 0; i < config->n_prompt; i++)
        ids[i] = (int32_t)(((uint64_t)i * 7919 + (uint64_t)index * 104729 + 17) % config->n_vocab);
}

static enum lam_status prepare(struct lam_drive *drive, uint32_t index, struct lam_err *err)
{
    struct request *request = &drive->requests[index];
    enum lam_status status;

    request->drive = drive;
    request->ids = lam_calloc(drive->config.n_prompt, sizeof *request->ids);
    request->token_ns = lam_calloc(drive->config.n_generate, sizeof *request->token_ns);
    if (!request->ids || !request->token_ns)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a benchmark's request");
    fill_prompt(&drive->config, index, request->ids);
    status = lam_client_create(drive->config.target, &request->client, err);
    if (!status)
        status = lam_client_connect(request->client, CONNECT_TIMEOUT_NS, err);
    return status;
}

enum lam_status lam_drive_start(
    const struct lam_drive_config *config, struct lam_drive **ret_drive, struct lam_err *err)
{
    struct lam_drive *drive = lam_calloc(1, sizeof *drive);
    enum lam_status status = LAM_OK;

    if (!drive)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a benchmark");
    drive->config = *config;
    pthread_mutex_init(&drive->lock, NULL);
    pthread_cond_init(&drive->changed, NULL);
    drive->requests = lam_calloc(config->n_requests, sizeof *drive->requests);
    if (!drive->requests)
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a benchmark");
    for (uint32_t i = 0; i < config->n_requests && !status; i++)
        status = prepare(drive, i, err);
    drive->asked_ns = lam_now_ns();
    for (uint32_t i = 0; i < config->n_requests && !status; i++) {
        struct request *request = &drive->requests[i];
        int code = pthread_create(&request->thread, NULL, run_request, request);
        request->has_thread = code == 0;
        if (code)
            status = lam_fail_errno(err, code, "cannot start a thread");
    }
    if (status) {
        lam_drive_destroy(drive);
        return status;
    }
    *ret_drive = drive;
    return LAM_OK;
}

void lam_drive_cancel(struct lam_drive *drive)
{
    for (uint32_t i = 0; drive->requests && i < drive->config.n_requests; i++)
        if (drive->requests[i].client)
            lam_client_cancel(drive->requests[i].client);
}

void lam_drive_wait_first(struct lam_drive *drive)
{
    pthread_mutex_lock(&drive->lock);
    while (drive->n_begun < drive->config.n_requests)
        pthread_cond_wait(&drive->changed, &drive->lock);
    pthread_mutex_unlock(&drive->lock);
}

uint32_t lam_drive_wait_more(struct lam_drive *drive, uint32_t n_tokens)
{
    uint32_t n;

    pthread_mutex_lock(&drive->lock);
    while (drive->n_tokens <= n_tokens && !drive->has_ended)
        pthread_cond_wait(&drive->changed, &drive->lock);
    n = drive->n_tokens;
    pthread_mutex_unlock(&drive->lock);
    return n;
}

static void join_all(struct lam_drive *drive)
{
    for (uint32_t i = 0; drive->requests && i < drive->config.n_requests; i++) {
        struct request *request = &drive->requests[i];
        if (request->has_thread)
            pthread_join(request->thread, NULL);
        request->has_thread = false;
    }
}

enum lam_status lam_drive_wait(struct lam_drive *drive, struct lam_err *err)
{
    join_all(drive);
    for (uint32_t i = 0; i < drive->config.n_requests; i++)
        if (drive->requests[i].err.status) {
            *err = drive->requests[i].err;
            return err->status;
        }
    return LAM_OK;
}

uint64_t lam_drive_asked_ns(const struct lam_drive *drive)
{
    return drive->asked_ns;
}

struct lam_drive_times lam_drive_times(const struct lam_drive *drive, uint32_t index)
{
    const struct request *request = &drive->requests[index];

    return (struct lam_drive_times){request->token_ns, request->n_tokens};
}

void lam_drive_destroy(struct lam_drive *drive)
{
    if (!drive)
        return;
    lam_drive_cancel(drive);
    join_all(drive);
    for (uint32_t i = 0; drive->requests && i < drive->config.n_requests; i++) {
        lam_client_destroy(drive->requests[i].client);
        lam_free(drive->requests[i].ids);
        lam_free(drive->requests[i].token_ns);
    }
    lam_free(drive->requests);
    pthread_cond_destroy(&drive->changed);
    pthread_mutex_destroy(&drive->lock);
    lam_free(drive);
}
