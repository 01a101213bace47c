/* client: see client.h. */
#include "cli/client.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "rpc/client.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX (16 * LAM_MIB)
#define ARENA_BYTES (4 * LAM_MIB) /* of one unpacked answer */
#define OPEN_TIMEOUT_NS (10 * LAM_NS_PER_S)
#define TEXT_BYTES_MAX (256 * LAM_MIB)

struct lam_client {
    struct lam_rpc_channel *channel;
    struct lam_arena arena; /* of the message at hand */
    struct lam_buf out;
    struct lam_buf in;
    pthread_mutex_t lock; /* of what follows */
    struct lam_rpc_stream *stream;
    bool cancelled;
};

enum lam_status lam_client_create(
    const char *target, struct lam_client **ret_client, struct lam_err *err)
{
    struct lam_client *client = lam_calloc(1, sizeof *client);
    enum lam_status status;

    if (!client)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a client");
    pthread_mutex_init(&client->lock, NULL);
    client->out = LAM_BUF(MESSAGE_BYTES_MAX);
    client->in = LAM_BUF(MESSAGE_BYTES_MAX);
    status = lam_arena_init(&client->arena, ARENA_BYTES, err);
    if (!status)
        status = lam_rpc_channel_create(target, MESSAGE_BYTES_MAX, &client->channel, err);
    if (status) {
        lam_client_destroy(client);
        return status;
    }
    *ret_client = client;
    return LAM_OK;
}

void lam_client_destroy(struct lam_client *client)
{
    if (!client)
        return;
    assert(!client->stream);
    lam_rpc_channel_destroy(client->channel);
    lam_arena_done(&client->arena);
    lam_buf_done(&client->out);
    lam_buf_done(&client->in);
    pthread_mutex_destroy(&client->lock);
    lam_free(client);
}

enum lam_status lam_client_connect(
    struct lam_client *client, uint64_t timeout_ns, struct lam_err *err)
{
    return lam_rpc_channel_wait_ready(client->channel, timeout_ns, err);
}

void lam_client_cancel(struct lam_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->cancelled = true;
    if (client->stream)
        lam_rpc_stream_cancel(client->stream);
    pthread_mutex_unlock(&client->lock);
}

/* Packs into client->out. */
static enum lam_status pack(
    struct lam_client *client, const ProtobufCMessage *message, struct lam_err *err)
{
    if (!lam_message_pack(message, &client->out))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "the prompt is longer than %llu MiB; shorten it",
            (unsigned long long)(MESSAGE_BYTES_MAX / LAM_MIB));
    return LAM_OK;
}

/* Unpacks client->in; the message lives until the next one. */
static enum lam_status unpack(struct lam_client *client, const ProtobufCMessageDescriptor *type,
    ProtobufCMessage **ret_message, struct lam_err *err)
{
    lam_arena_reset(&client->arena);
    return lam_message_unpack(
        type, client->in.data, client->in.size, &client->arena, ret_message, err);
}

static struct lam_client_profile profile_of(const Laminar__V1__Profile *from)
{
    return (struct lam_client_profile){
        .wall_s = from->wall_seconds,
        .disk_wait_s = from->disk_wait_seconds,
        .link_wait_s = from->link_wait_seconds,
        .compute_s = from->compute_seconds,
        .copy_s = from->copy_seconds,
        .floor_s = from->floor_seconds,
        .link_bytes = from->link_bytes,
        .resident_bytes = from->resident_bytes,
    };
}

static void take_memory(const Laminar__V1__Memory *from, struct lam_client_memory *to)
{
    *to = (struct lam_client_memory){
        .cap_bytes = from->cap_bytes,
        .planned_bytes = from->planned_bytes,
        .measured_bytes = from->measured_bytes,
        .context_bytes = from->context_bytes,
        .resident_bytes = from->resident_bytes,
        .slots_bytes = from->slots_bytes,
        .kv_bytes = from->kv_bytes,
        .activations_bytes = from->activations_bytes,
        .workspace_bytes = from->workspace_bytes,
        .streamed_bytes = from->streamed_bytes,
        .slots = from->slots,
        .layers = from->layers,
        .resident_layers = from->resident_layers,
        .planned_pass_s = from->planned_pass_seconds,
        .pool_ready_bytes = from->pool_ready_bytes,
        .pool_ready_s = from->pool_ready_seconds,
    };
    snprintf(to->kv_type, sizeof to->kv_type, "%s", from->kv_type);
}

static void take_worker(const Laminar__V1__WorkerInfo *from, struct lam_client_worker *to)
{
    *to = (struct lam_client_worker){
        .sequences = from->sequences,
        .max_sequences = from->max_sequences,
        .kv_tokens = from->kv_tokens,
        .max_kv_tokens = from->max_kv_tokens,
        .passes = from->passes,
        .tokens = from->tokens,
        .has_memory = from->memory != NULL,
        .has_profile = from->profile && from->last_pass,
    };
    snprintf(to->id, sizeof to->id, "%s", from->id);
    snprintf(to->device, sizeof to->device, "%s", from->device);
    snprintf(to->backend, sizeof to->backend, "%s", from->backend);
    if (to->has_memory)
        take_memory(from->memory, &to->memory);
    if (to->has_profile) {
        to->total = profile_of(from->profile);
        to->last = profile_of(from->last_pass);
    }
}

enum lam_status lam_client_get_model(struct lam_client *client, uint64_t timeout_ns,
    struct lam_client_model *ret_model, struct lam_err *err)
{
    Laminar__V1__GetModelRequest request = LAMINAR__V1__GET_MODEL_REQUEST__INIT;
    const Laminar__V1__GetModelResponse *response;
    ProtobufCMessage *message = NULL;
    enum lam_status status = pack(client, &request.base, err);

    lam_buf_clear(&client->in);
    if (!status)
        status = lam_rpc_unary(client->channel, "/laminar.v1.Generation/GetModel", client->out.data,
            client->out.size, timeout_ns, &client->in, err);
    if (!status)
        status = unpack(client, &laminar__v1__get_model_response__descriptor, &message, err);
    if (status)
        return status;
    response = (const Laminar__V1__GetModelResponse *)message;
    snprintf(ret_model->name, sizeof ret_model->name, "%s", response->name);
    snprintf(
        ret_model->chat_template, sizeof ret_model->chat_template, "%s", response->chat_template);
    ret_model->n_ctx = response->context_tokens;
    ret_model->n_vocab = response->vocabulary;
    snprintf(ret_model->architecture, sizeof ret_model->architecture, "%s", response->architecture);
    ret_model->n_waiting = response->waiting;
    ret_model->n_workers = response->n_workers;
    if (ret_model->n_workers > LAM_CLIENT_WORKERS_MAX)
        ret_model->n_workers = LAM_CLIENT_WORKERS_MAX;
    for (size_t i = 0; i < ret_model->n_workers; i++)
        take_worker(response->workers[i], &ret_model->workers[i]);
    return LAM_OK;
}

enum lam_status lam_client_open(const char *target, struct lam_client **ret_client,
    struct lam_client_model *ret_model, struct lam_err *err)
{
    struct lam_client *client = NULL;
    enum lam_status status = lam_client_create(target, &client, err);

    if (!status)
        status = lam_client_get_model(client, OPEN_TIMEOUT_NS, ret_model, err);
    if (status == LAM_UNAVAILABLE) {
        struct lam_err why = *err;
        lam_fail(err, status,
            "%.360s (`laminar serve MODEL` starts a gateway and a worker; --target says where)",
            why.text);
    }
    if (status) {
        lam_client_destroy(client);
        return status;
    }
    *ret_client = client;
    return LAM_OK;
}

static void fill_sampling(const struct lam_client_sampling *from, Laminar__V1__Sampling *to)
{
    if (from->temperature) {
        to->_temperature_case = LAMINAR__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
        to->temperature = (float)*from->temperature;
    }
    if (from->top_k) {
        to->_top_k_case = LAMINAR__V1__SAMPLING___TOP_K_TOP_K;
        to->top_k = (int32_t)*from->top_k;
    }
    if (from->top_p) {
        to->_top_p_case = LAMINAR__V1__SAMPLING___TOP_P_TOP_P;
        to->top_p = (float)*from->top_p;
    }
    if (from->min_p) {
        to->_min_p_case = LAMINAR__V1__SAMPLING___MIN_P_MIN_P;
        to->min_p = (float)*from->min_p;
    }
    if (from->repetition_penalty) {
        to->_repetition_penalty_case =
            LAMINAR__V1__SAMPLING___REPETITION_PENALTY_REPETITION_PENALTY;
        to->repetition_penalty = (float)*from->repetition_penalty;
    }
    if (from->presence_penalty) {
        to->_presence_penalty_case = LAMINAR__V1__SAMPLING___PRESENCE_PENALTY_PRESENCE_PENALTY;
        to->presence_penalty = (float)*from->presence_penalty;
    }
    if (from->frequency_penalty) {
        to->_frequency_penalty_case = LAMINAR__V1__SAMPLING___FREQUENCY_PENALTY_FREQUENCY_PENALTY;
        to->frequency_penalty = (float)*from->frequency_penalty;
    }
    if (from->seed) {
        to->_seed_case = LAMINAR__V1__SAMPLING___SEED_SEED;
        to->seed = (uint64_t)*from->seed;
    }
}

/* protobuf-c's string fields are char *, also in what is only read: packing writes nothing. */
static char *field(const char *text)
{
    union {
        const char *in;
        char *out;
    } pointer = {.in = text};

    return pointer.out;
}

/* Builds the messages of the chat in the arena. */
static bool fill_chat(
    struct lam_arena *arena, const struct lam_client_request *request, Laminar__V1__Chat *chat)
{
    size_t n = request->n_messages;
    Laminar__V1__ChatMessage *messages =
        lam_arena_alloc(arena, n, sizeof *messages, _Alignof(Laminar__V1__ChatMessage));

    chat->messages = lam_arena_alloc(arena, n, sizeof *chat->messages, _Alignof(void *));
    if (!messages || !chat->messages)
        return false;
    for (size_t i = 0; i < n; i++) {
        laminar__v1__chat_message__init(&messages[i]);
        messages[i].role = field(request->messages[i].role);
        messages[i].content = field(request->messages[i].content);
        chat->messages[i] = &messages[i];
    }
    chat->n_messages = n;
    return true;
}

/* Packing copies them: protobuf-c wants what it only reads to be writable. */
static bool fill_ids(struct lam_arena *arena, const struct lam_client_request *request,
    Laminar__V1__TokenIds *token_ids)
{
    token_ids->ids =
        lam_arena_alloc(arena, request->n_ids, sizeof *token_ids->ids, _Alignof(int32_t));
    if (!token_ids->ids)
        return false;
    memcpy(token_ids->ids, request->ids, request->n_ids * sizeof *token_ids->ids);
    token_ids->n_ids = request->n_ids;
    return true;
}

static enum lam_status pack_request(
    struct lam_client *client, const struct lam_client_request *from, struct lam_err *err)
{
    Laminar__V1__GenerateRequest request = LAMINAR__V1__GENERATE_REQUEST__INIT;
    Laminar__V1__Sampling sampling = LAMINAR__V1__SAMPLING__INIT;
    Laminar__V1__Chat chat = LAMINAR__V1__CHAT__INIT;
    Laminar__V1__TokenIds token_ids = LAMINAR__V1__TOKEN_IDS__INIT;
    char *stop = field(from->stop);

    lam_arena_reset(&client->arena);
    fill_sampling(&from->sampling, &sampling);
    request.sampling = &sampling;
    request.ignore_eos = from->ignore_eos;
    if (from->ids) {
        if (!fill_ids(&client->arena, from, &token_ids))
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "the prompt is too long");
        request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        request.token_ids = &token_ids;
    } else if (from->text) {
        request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request.text = field(from->text);
    } else {
        if (!fill_chat(&client->arena, from, &chat))
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "the conversation is too long");
        request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_CHAT;
        request.chat = &chat;
    }
    if (from->max_tokens) {
        request._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
        request.max_tokens = (int32_t)*from->max_tokens;
    }
    if (stop) {
        request.stop = &stop;
        request.n_stop = 1;
    }
    return pack(client, &request.base, err);
}

static void take_end(
    const Laminar__V1__GenerateResponse *response, struct lam_client_answer *answer)
{
    answer->finish_reason =
        response->finish_reason == LAMINAR__V1__FINISH_REASON__FINISH_REASON_LENGTH ? "length"
                                                                                    : "stop";
    snprintf(answer->matched_stop, sizeof answer->matched_stop, "%s", response->matched_stop);
    answer->seed = response->seed;
    if (!response->usage)
        return;
    answer->prompt_tokens = response->usage->prompt_tokens;
    answer->completion_tokens = response->usage->completion_tokens;
    answer->queue_seconds = response->usage->queue_seconds;
    answer->prefill_seconds = response->usage->prefill_seconds;
    answer->decode_seconds = response->usage->decode_seconds;
}

static enum lam_status take_message(struct lam_client *client,
    const struct lam_client_request *request, lam_client_text_fn *on_text, void *arg,
    struct lam_client_answer *answer, struct lam_err *err)
{
    const Laminar__V1__GenerateResponse *response;
    ProtobufCMessage *message = NULL;
    size_t n_text;

    if (unpack(client, &laminar__v1__generate_response__descriptor, &message, err))
        return err->status;
    response = (const Laminar__V1__GenerateResponse *)message;
    n_text = strlen(response->text);
    if (!lam_buf_append(&answer->text, response->text, n_text) ||
        !lam_buf_append(&answer->ids, response->token_ids, response->n_token_ids * sizeof(int32_t)))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the generated text");
    if (request->on_tokens && response->n_token_ids > 0)
        request->on_tokens(arg, response->n_token_ids);
    if (n_text > 0 && !on_text(arg, response->text, n_text))
        return lam_fail(
            err, LAM_ABORTED, "cannot write to standard output any more; was it closed?");
    if (response->finish_reason != LAMINAR__V1__FINISH_REASON__FINISH_REASON_UNSPECIFIED)
        take_end(response, answer);
    return LAM_OK;
}

static enum lam_status open_stream(struct lam_client *client, struct lam_err *err)
{
    struct lam_rpc_stream *stream = NULL;
    enum lam_status status = lam_rpc_stream_open(
        client->channel, "/laminar.v1.Generation/Generate", LAM_RPC_NO_TIMEOUT, &stream, err);

    if (status)
        return status;
    pthread_mutex_lock(&client->lock);
    client->stream = stream;
    if (client->cancelled)
        lam_rpc_stream_cancel(stream);
    pthread_mutex_unlock(&client->lock);
    return LAM_OK;
}

static void close_stream(struct lam_client *client)
{
    struct lam_rpc_stream *stream;

    pthread_mutex_lock(&client->lock);
    stream = client->stream;
    client->stream = NULL;
    pthread_mutex_unlock(&client->lock);
    lam_rpc_stream_destroy(stream);
}

enum lam_status lam_client_generate(struct lam_client *client,
    const struct lam_client_request *request, lam_client_text_fn *on_text, void *arg,
    struct lam_client_answer *answer, struct lam_err *err)
{
    enum lam_status status = pack_request(client, request, err);
    struct lam_err unsent = {0};
    bool end = false;

    lam_client_answer_done(answer);
    answer->text = LAM_BUF(TEXT_BYTES_MAX);
    answer->ids = LAM_BUF(TEXT_BYTES_MAX);
    if (status)
        return status;
    status = open_stream(client, err);
    if (status)
        return status;
    /* When the stream has ended already, receiving says why: its error is the better one. */
    if (!lam_rpc_stream_send(client->stream, client->out.data, client->out.size, &unsent))
        lam_ignore(lam_rpc_stream_half_close(client->stream, &unsent), "receiving says why");
    while (!status && !end) {
        status = lam_rpc_stream_recv(client->stream, &client->in, &end, err);
        if (!status && !end)
            status = take_message(client, request, on_text, arg, answer, err);
    }
    close_stream(client);
    if (!status && !answer->finish_reason)
        status = lam_fail(err, LAM_DATA_LOSS, "the service ended the answer without a reason");
    return status;
}

void lam_client_answer_done(struct lam_client_answer *answer)
{
    lam_buf_done(&answer->text);
    lam_buf_done(&answer->ids);
    memset(answer, 0, sizeof *answer);
}
