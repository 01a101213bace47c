/* loader_client: see loader_client.h. */
#include "worker/loader_client.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/size.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

#define CLIENT_SLACK_BYTES (64 * LAM_KIB) /* of an answer, around its data */
#define CLIENT_MESSAGE_BYTES_MAX (LAM_LOADER_EXTENT_BYTES_MAX + CLIENT_SLACK_BYTES)

enum lam_status lam_loader_client_init(
    struct lam_loader_client *client, const char *address, uint64_t timeout_ns, struct lam_err *err)
{
    struct lam_loader_client made = {.address = address, .timeout_ns = timeout_ns};
    enum lam_status status;

    made.request = LAM_BUF(CLIENT_MESSAGE_BYTES_MAX);
    made.response = LAM_BUF(CLIENT_MESSAGE_BYTES_MAX);
    made.offsets = lam_calloc(LAM_LOADER_RANGES_MAX, sizeof *made.offsets);
    status = lam_arena_init(&made.arena, CLIENT_MESSAGE_BYTES_MAX + CLIENT_SLACK_BYTES, err);
    if (status == LAM_OK && !made.offsets)
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to talk to the loader");
    if (status == LAM_OK)
        status = lam_rpc_channel_create(address, CLIENT_MESSAGE_BYTES_MAX, &made.channel, err);
    if (status == LAM_OK)
        status = lam_rpc_channel_wait_ready(made.channel, timeout_ns, err);
    if (status != LAM_OK) {
        lam_loader_client_done(&made);
        return status;
    }
    *client = made;
    return LAM_OK;
}

void lam_loader_client_done(struct lam_loader_client *client)
{
    lam_rpc_channel_destroy(client->channel);
    lam_arena_done(&client->arena);
    lam_buf_done(&client->request);
    lam_buf_done(&client->response);
    lam_free(client->offsets);
    *client = (struct lam_loader_client){0};
}

/* One question. *ret_answer lives in the client's arena until the next call. */
static enum lam_status ask(struct lam_loader_client *client, const char *path,
    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer_type,
    ProtobufCMessage **ret_answer, struct lam_err *err)
{
    enum lam_status status;

    if (!lam_message_pack(request, &client->request))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the loader");
    lam_buf_clear(&client->response);
    status = lam_rpc_unary(client->channel, path, client->request.data, client->request.size,
        client->timeout_ns, &client->response, err);
    if (status != LAM_OK)
        return status;
    lam_arena_reset(&client->arena);
    return lam_message_unpack(
        answer_type, client->response.data, client->response.size, &client->arena, ret_answer, err);
}

enum lam_status lam_loader_client_register(struct lam_loader_client *client, const char *path,
    struct lam_loader_model *ret_model, struct lam_err *err)
{
    Laminar__V1__RegisterModelRequest request = LAMINAR__V1__REGISTER_MODEL_REQUEST__INIT;
    const Laminar__V1__RegisterModelResponse *answer;
    ProtobufCMessage *message;
    enum lam_status status;

    request.path = (char *)path;
    status = ask(client, "/laminar.v1.Loader/RegisterModel", &request.base,
        &laminar__v1__register_model_response__descriptor, &message, err);
    if (status != LAM_OK)
        return status;
    answer = (const Laminar__V1__RegisterModelResponse *)message;
    *ret_model = (struct lam_loader_model){
        .handle = answer->model,
        .digest = answer->digest,
        .header_bytes = answer->header_bytes,
        .file_bytes = answer->file_bytes,
        .n_units = answer->units,
        .n_slots = answer->slots,
        .n_ahead_bytes = answer->ahead_bytes,
        .table_kept = answer->table_kept,
    };
    return LAM_OK;
}

/* Receives chunks until all of the header is there, in order and without a gap. */
static enum lam_status receive_header(struct lam_loader_client *client,
    struct lam_rpc_stream *stream, const struct lam_loader_model *model, unsigned char *out,
    struct lam_err *err)
{
    uint64_t n_received = 0;
    bool end = false;

    while (n_received < model->header_bytes) {
        const Laminar__V1__ReadHeaderResponse *chunk;
        ProtobufCMessage *message;
        enum lam_status status = lam_rpc_stream_recv(stream, &client->response, &end, err);

        if (status != LAM_OK)
            return status;
        if (end)
            return lam_fail(err, LAM_DATA_LOSS,
                "the loader at %s sent %" PRIu64 " bytes of a header of %" PRIu64, client->address,
                n_received, model->header_bytes);
        lam_arena_reset(&client->arena);
        status = lam_message_unpack(&laminar__v1__read_header_response__descriptor,
            client->response.data, client->response.size, &client->arena, &message, err);
        if (status != LAM_OK)
            return status;
        chunk = (const Laminar__V1__ReadHeaderResponse *)message;
        if (chunk->offset != n_received || chunk->data.len == 0 ||
            chunk->data.len > model->header_bytes - n_received)
            return lam_fail(err, LAM_DATA_LOSS,
                "the loader at %s sent bytes at %" PRIu64 " of the header, expected at %" PRIu64,
                client->address, chunk->offset, n_received);
        memcpy(out + n_received, chunk->data.data, chunk->data.len);
        n_received += chunk->data.len;
    }
    return LAM_OK;
}

enum lam_status lam_loader_client_header(struct lam_loader_client *client,
    const struct lam_loader_model *model, void *out, struct lam_err *err)
{
    Laminar__V1__ReadHeaderRequest request = LAMINAR__V1__READ_HEADER_REQUEST__INIT;
    struct lam_rpc_stream *stream;
    enum lam_status status;

    request.model = model->handle;
    if (!lam_message_pack(&request.base, &client->request))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the loader");
    status = lam_rpc_stream_open(
        client->channel, "/laminar.v1.Loader/ReadHeader", client->timeout_ns, &stream, err);
    if (status != LAM_OK)
        return status;
    status = lam_rpc_stream_send(stream, client->request.data, client->request.size, err);
    if (status == LAM_OK)
        status = lam_rpc_stream_half_close(stream, err);
    if (status == LAM_OK)
        status = receive_header(client, stream, model, out, err);
    lam_rpc_stream_destroy(stream);
    return status;
}

/* A question under way. */
struct question {
    struct lam_rpc_pending *call; /* NULL: none */
    uint64_t bytes;               /* of its answer */
};

static enum lam_status begin_read(struct lam_loader_client *client, uint64_t handle,
    const struct lam_loader_reads *reads, uint32_t i, struct question *question,
    struct lam_err *err)
{
    Laminar__V1__ReadExtentRequest request = LAMINAR__V1__READ_EXTENT_REQUEST__INIT;

    request.model = handle;
    request.offsets = client->offsets;
    request.n_offsets = reads->ask(reads->arg, i, client->offsets, &request.bytes_each);
    assert(request.n_offsets > 0 && request.n_offsets <= LAM_LOADER_RANGES_MAX);
    assert(request.bytes_each > 0);
    assert(request.bytes_each <= LAM_LOADER_EXTENT_BYTES_MAX / request.n_offsets);
    question->bytes = request.n_offsets * request.bytes_each;
    if (lam_message_pack(&request.base, &client->request))
        question->call = lam_rpc_unary_begin(client->channel, "/laminar.v1.Loader/ReadExtent",
            client->request.data, client->request.size, client->timeout_ns);
    if (!question->call)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the loader");
    return LAM_OK;
}

/* *ret_data lives until the next call. */
static enum lam_status end_read(struct lam_loader_client *client, struct question *question,
    const unsigned char **ret_data, struct lam_err *err)
{
    const Laminar__V1__ReadExtentResponse *answer;
    ProtobufCMessage *message;
    enum lam_status status;

    lam_buf_clear(&client->response);
    status = lam_rpc_unary_end(question->call, &client->response, err);
    question->call = NULL;
    lam_arena_reset(&client->arena);
    if (status == LAM_OK)
        status = lam_message_unpack(&laminar__v1__read_extent_response__descriptor,
            client->response.data, client->response.size, &client->arena, &message, err);
    if (status != LAM_OK)
        return status;
    answer = (const Laminar__V1__ReadExtentResponse *)message;
    if (answer->data.len != question->bytes)
        return lam_fail(err, LAM_DATA_LOSS,
            "the loader at %s answered %zu bytes where %" PRIu64 " were asked for", client->address,
            answer->data.len, question->bytes);
    *ret_data = answer->data.data;
    return LAM_OK;
}

enum lam_status lam_loader_client_read(struct lam_loader_client *client, uint64_t handle,
    const struct lam_loader_reads *reads, struct lam_err *err)
{
    struct question questions[LAM_LOADER_READS_MAX] = {{0}};
    enum lam_status status = LAM_OK;
    const unsigned char *data;
    uint32_t n_begun = 0;

    for (uint32_t i = 0; i < reads->n && status == LAM_OK; i++) {
        while (status == LAM_OK && n_begun < reads->n && n_begun < i + LAM_LOADER_READS_MAX) {
            status = begin_read(
                client, handle, reads, n_begun, &questions[n_begun % LAM_LOADER_READS_MAX], err);
            n_begun++;
        }
        if (status == LAM_OK)
            status = end_read(client, &questions[i % LAM_LOADER_READS_MAX], &data, err);
        if (status == LAM_OK)
            reads->take(reads->arg, i, data);
    }
    /* After an error: what is under way is waited for. */
    for (uint32_t q = 0; q < LAM_LOADER_READS_MAX; q++)
        if (questions[q].call)
            lam_ignore(end_read(client, &questions[q], &data, NULL), "the first error is told");
    return status;
}
