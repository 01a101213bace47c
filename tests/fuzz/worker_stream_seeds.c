/*
 * Writes the first inputs of worker_stream_fuzz into the directory that is its argument: a good
 * Hello, alone and with an answer to the first step.
 */
#include <stdbool.h>
#include <stdio.h>

#include "common/buf.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"
#include "tests/unit/gateway/tiny_model.h"

#define BYTES_MAX ((size_t)1 << 16)

/* Appends the message behind its length in two bytes. */
static bool add(struct lam_buf *out, const Laminar__V1__WorkerMessage *message)
{
    struct lam_buf packed = LAM_BUF(BYTES_MAX - 1);
    bool ok = lam_message_pack(&message->base, &packed);
    unsigned char size[2] = {(unsigned char)packed.size, (unsigned char)(packed.size >> 8)};

    ok = ok && lam_buf_append(out, size, sizeof size) &&
         lam_buf_append(out, packed.data, packed.size);
    lam_buf_done(&packed);
    return ok;
}

static bool add_hello(struct lam_buf *out, const struct tiny_model *model)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__Hello hello = LAMINAR__V1__HELLO__INIT;
    char id[] = "w";
    char device[] = "cpu";

    hello.worker_id = id;
    hello.device = device;
    hello.model_digest = model->digest;
    hello.header_bytes = model->header.size;
    hello.file_bytes = model->file_bytes;
    hello.context_tokens = TINY_CONTEXT;
    hello.max_sequences = 2;
    hello.max_rows = 64;
    hello.kv_page_tokens = 16;
    hello.kv_pages = 8;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO;
    message.hello = &hello;
    return add(out, &message);
}

static bool add_answer(struct lam_buf *out)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__StepResult result = LAMINAR__V1__STEP_RESULT__INIT;
    Laminar__V1__SampledToken tokens[2];
    Laminar__V1__SampledToken *list[2] = {&tokens[0], &tokens[1]};

    for (uint32_t i = 0; i < 2; i++) {
        laminar__v1__sampled_token__init(&tokens[i]);
        tokens[i].seq = i;
        tokens[i].epoch = 1;
        tokens[i].token = 5;
    }
    result.id = 1;
    result.tokens = list;
    result.n_tokens = 2;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT;
    message.step_result = &result;
    return add(out, &message);
}

static bool add_header(struct lam_buf *out, const struct tiny_model *model)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;

    chunk.data.data = (uint8_t *)model->header.data;
    chunk.data.len = model->header.size;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK;
    message.header_chunk = &chunk;
    return add(out, &message);
}

static bool write_file(const char *directory, const char *name, const struct lam_buf *bytes)
{
    char path[1024];
    FILE *file;
    bool ok;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wb");
    if (!file)
        return false;
    ok = fwrite(bytes->data, 1, bytes->size, file) == bytes->size;
    return fclose(file) == 0 && ok;
}

int main(int argc, char **argv)
{
    struct tiny_model model = tiny_model_make("seed", true);
    struct lam_buf out = LAM_BUF(BYTES_MAX);
    bool ok = argc == 2;

    ok = ok && add_hello(&out, &model) && write_file(argv[1], "hello", &out);
    ok = ok && add_answer(&out) && write_file(argv[1], "answer", &out);
    lam_buf_clear(&out);
    ok = ok && add_hello(&out, &model) && add_header(&out, &model) && add_answer(&out) &&
         write_file(argv[1], "header", &out);
    lam_buf_done(&out);
    lam_buf_done(&model.header);
    if (!ok)
        fprintf(stderr, "usage: worker_stream_seeds DIRECTORY (that can be written)\n");
    return ok ? 0 : 1;
}
