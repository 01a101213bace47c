/* query: the unary methods: Tokenize, Detokenize, GetModel. */
#include "common/mem.h"
#include "gateway/service_impl.h"

/* Text of ids; a token is at most a few dozen bytes in any vocabulary that we have seen. */
#define TEXT_BYTES_MAX ((size_t)32 << 20)

static enum lam_status pack_tokens(const struct lam_served *served, struct lam_tokens *tokens,
    struct lam_buf *answer, struct lam_err *err)
{
    Laminar__V1__TokenizeResponse response = LAMINAR__V1__TOKENIZE_RESPONSE__INIT;
    bool packed;

    response.pieces = lam_calloc(tokens->n ? tokens->n : 1, sizeof *response.pieces);
    if (!response.pieces)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
    for (size_t i = 0; i < tokens->n; i++) {
        struct lam_str piece = lam_tokenizer_piece(served->tokenizer, tokens->ids[i]);
        response.pieces[i].data = (uint8_t *)(uintptr_t)piece.data;
        response.pieces[i].len = (size_t)piece.size;
    }
    response.token_ids = tokens->ids;
    response.n_token_ids = response.n_pieces = tokens->n;
    packed = lam_message_pack(&response.base, answer);
    lam_free(response.pieces);
    return packed ? LAM_OK : lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
}

static void tokenize(struct lam_text_work *work, const ProtobufCMessage *message)
{
    struct lam_tokens tokens = {0};

    if (lam_request_tokenize(work->served, (const Laminar__V1__TokenizeRequest *)message, &tokens,
            &work->err) == LAM_OK)
        lam_ignore(
            pack_tokens(work->served, &tokens, &work->answer, &work->err), "work->err has it");
    lam_tokens_done(&tokens);
}

static enum lam_status decode(const struct lam_served *served,
    const Laminar__V1__DetokenizeRequest *request, struct lam_buf *text, struct lam_err *err)
{
    struct lam_decoder decoder;
    struct lam_buf raw = LAM_BUF(TEXT_BYTES_MAX);
    enum lam_status status =
        lam_request_check_ids(served, request->token_ids, request->n_token_ids, err);

    lam_decoder_init(&decoder, served->tokenizer, request->show_special != 0);
    for (size_t i = 0; status == LAM_OK && i < request->n_token_ids; i++)
        status = lam_decoder_push(&decoder, request->token_ids[i], &raw, err);
    if (status == LAM_OK)
        status = lam_decoder_finish(&decoder, &raw, err);
    if (status == LAM_OK && !lam_emit_append_text(text, raw.data, raw.size))
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the text");
    lam_decoder_done(&decoder);
    lam_buf_done(&raw);
    return status;
}

static void detokenize(struct lam_text_work *work, const ProtobufCMessage *message)
{
    Laminar__V1__DetokenizeResponse response = LAMINAR__V1__DETOKENIZE_RESPONSE__INIT;
    struct lam_buf text = LAM_BUF(TEXT_BYTES_MAX);
    enum lam_status status =
        decode(work->served, (const Laminar__V1__DetokenizeRequest *)message, &text, &work->err);

    if (text.data)
        response.text = text.data;
    if (status == LAM_OK && !lam_message_pack(&response.base, &work->answer))
        lam_fail(&work->err, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
    lam_buf_done(&text);
}

static void answer(struct lam_rpc_call *call, const struct lam_text_work *work)
{
    if (work->err.status == LAM_OK)
        lam_rpc_call_reply(call, work->answer.data ? work->answer.data : "", work->answer.size);
    else
        lam_rpc_call_finish(call, work->err.status, work->err.text);
}

static void begin(struct lam_service *service, struct lam_rpc_call *call, struct lam_text_work work,
    const void *bytes, size_t n_bytes)
{
    struct lam_text_work *later = NULL;

    work.served = lam_service_model(service, call);
    if (!work.served)
        return;
    if (lam_rpc_call_user(call))
        lam_fail(&work.err, LAM_INVALID_ARGUMENT, "one request for each call");
    else
        later = lam_text_work_begin(service, call, &work, bytes, n_bytes);
    if (later)
        lam_rpc_call_set_user(call, later);
    else
        answer(call, &work);
    lam_text_work_done(&work);
}

void lam_tokenize_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    const struct lam_text_work work = {
        .type = &laminar__v1__tokenize_request__descriptor, .handle = tokenize};

    begin(service, call, work, bytes, n_bytes);
}

void lam_detokenize_on_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    const struct lam_text_work work = {
        .type = &laminar__v1__detokenize_request__descriptor, .handle = detokenize};

    begin(service, call, work, bytes, n_bytes);
}

void lam_query_on_nudge(void *service, struct lam_rpc_call *call)
{
    (void)service;
    answer(call, lam_rpc_call_user(call));
}

void lam_query_on_done(void *arg, struct lam_rpc_call *call, bool cancelled)
{
    struct lam_service *service = arg;
    struct lam_text_work *work = lam_rpc_call_user(call);

    (void)cancelled;
    if (work)
        lam_aside_drop(service->aside, &work->aside);
}

static void describe_worker(struct lam_worker *worker, Laminar__V1__WorkerInfo *info)
{
    struct lam_sched_load load = lam_sched_load(worker->sched);

    laminar__v1__worker_info__init(info);
    info->id = (char *)(uintptr_t)worker->id;
    info->device = (char *)(uintptr_t)worker->device;
    info->backend = (char *)(uintptr_t)worker->backend;
    info->sequences = (int32_t)load.sequences;
    info->max_sequences = (int32_t)worker->caps.max_sequences;
    info->kv_tokens = (int64_t)load.kv_tokens;
    info->max_kv_tokens = (int64_t)worker->caps.pages * worker->caps.page_tokens;
    info->passes = load.passes;
    info->tokens = load.rows;
    lam_report_describe(&worker->report, info);
}

void lam_get_model_on_message(
    void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    const struct lam_served *served = lam_service_model(service, call);
    Laminar__V1__GetModelResponse response = LAMINAR__V1__GET_MODEL_RESPONSE__INIT;
    Laminar__V1__WorkerInfo infos[LAM_WORKERS_MAX];
    Laminar__V1__WorkerInfo *pointers[LAM_WORKERS_MAX];

    if (!served || !lam_service_unpack(service, call, &laminar__v1__get_model_request__descriptor,
                       bytes, n_bytes, LAM_REQUEST_BYTES_MAX))
        return;
    for (struct lam_worker *worker = lam_registry_workers(service->registry); worker;
         worker = worker->next) {
        if (!worker->sched)
            continue;
        pointers[response.n_workers] = &infos[response.n_workers];
        describe_worker(worker, &infos[response.n_workers++]);
    }
    response.workers = pointers;
    response.name = (char *)(uintptr_t)served->spec.name;
    response.architecture = (char *)(uintptr_t)served->spec.architecture;
    response.context_tokens = (int32_t)served->context_tokens;
    response.vocabulary = (int32_t)served->spec.n_vocab;
    if (served->chat != LAM_CHAT_NONE)
        response.chat_template = (char *)(uintptr_t)lam_chat_name(served->chat);
    response.waiting = (int32_t)lam_sched_waiting(service->sched);
    lam_service_reply(service, call, &response.base);
}
