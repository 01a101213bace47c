/* request: see request.h. */
#include "gateway/request.h"

#include <string.h>

#include "common/mem.h"
#include "model/tokenizer.h"

/* More than the longest message can spell; the context is checked afterwards, so that the error has
 * numbers. */
#define TOKENS_MAX ((size_t)4 << 20)

/* ---- prompt ---- */

static enum lam_status encode_text(const struct lam_served *served, const char *text, bool special,
    bool bos, struct lam_tokens *tokens, struct lam_err *err)
{
    size_t n = strlen(text);

    if (n == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "text is empty: a prompt has at least one byte (token_ids can be a BOS alone)");
    if (bos && lam_tokenizer_wants_bos(served->tokenizer)) {
        tokens->ids = lam_calloc(1, sizeof *tokens->ids);
        if (!tokens->ids)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the prompt");
        tokens->cap = tokens->n = 1;
        tokens->ids[0] = lam_tokenizer_bos(served->tokenizer);
    }
    return lam_tokenizer_encode(
        served->tokenizer, text, n, special ? LAM_ENCODE_SPECIAL : LAM_ENCODE_PLAIN, tokens, err);
}

static enum lam_status encode_chat(const struct lam_served *served, const Laminar__V1__Chat *chat,
    struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_chat_message *messages;
    enum lam_status status;

    if (served->chat_err.status != LAM_OK)
        return lam_fail(err, served->chat_err.status, "%s", served->chat_err.text);
    if (chat->n_messages == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "chat.messages is empty: send at least one");
    messages = lam_calloc(chat->n_messages, sizeof *messages);
    if (!messages)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the messages");
    for (size_t i = 0; i < chat->n_messages; i++) {
        messages[i].role = chat->messages[i]->role;
        messages[i].content = chat->messages[i]->content;
        messages[i].content_bytes = strlen(chat->messages[i]->content);
    }
    status = lam_chat_encode(
        served->chat, served->gguf, served->tokenizer, messages, chat->n_messages, tokens, err);
    lam_free(messages);
    return status;
}

static enum lam_status copy_ids(const struct lam_served *served, const Laminar__V1__TokenIds *from,
    struct lam_tokens *tokens, struct lam_err *err)
{
    enum lam_status status;

    if (from->n_ids == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "token_ids is empty: send at least one");
    status = lam_request_check_ids(served, from->ids, from->n_ids, err);
    if (status != LAM_OK)
        return status;
    tokens->ids = lam_calloc(from->n_ids, sizeof *tokens->ids);
    if (!tokens->ids)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the prompt");
    memcpy(tokens->ids, from->ids, from->n_ids * sizeof *tokens->ids);
    tokens->n = tokens->cap = from->n_ids;
    return LAM_OK;
}

static enum lam_status check_prompt(const struct lam_served *served,
    const Laminar__V1__GenerateRequest *message, struct lam_tokens *tokens, struct lam_err *err)
{
    enum lam_status status;

    *tokens = (struct lam_tokens){.max = TOKENS_MAX};
    switch (message->prompt_case) {
    case LAMINAR__V1__GENERATE_REQUEST__PROMPT_TEXT:
        status = encode_text(served, message->text, false, true, tokens, err);
        break;
    case LAMINAR__V1__GENERATE_REQUEST__PROMPT_CHAT:
        status = encode_chat(served, message->chat, tokens, err);
        break;
    case LAMINAR__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS:
        status = copy_ids(served, message->token_ids, tokens, err);
        break;
    default:
        return lam_fail(
            err, LAM_INVALID_ARGUMENT, "prompt is missing: set text, chat or token_ids");
    }
    if (status != LAM_OK)
        return status;
    if (tokens->n >= served->context_tokens)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the prompt has %zu tokens; the context holds %u, at least one of them generated: "
            "shorten the prompt, or start with a larger --ctx",
            tokens->n, served->context_tokens);
    return LAM_OK;
}

/* ---- numbers ---- */

static enum lam_status check_max_tokens(const struct lam_served *served,
    const Laminar__V1__GenerateRequest *message, size_t n_prompt, uint32_t *ret,
    struct lam_err *err)
{
    uint32_t room = served->context_tokens - (uint32_t)n_prompt;
    uint32_t wanted;

    if (message->_max_tokens_case == LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS__NOT_SET) {
        *ret = room;
        return LAM_OK;
    }
    if (message->max_tokens < 1 || (uint32_t)message->max_tokens > served->context_tokens)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "max_tokens is %d; the range is 1..%u, and absent means to the end of the context",
            message->max_tokens, served->context_tokens);
    wanted = (uint32_t)message->max_tokens;
    *ret = wanted < room ? wanted : room;
    return LAM_OK;
}

static enum lam_status check_sampling(const Laminar__V1__Sampling *from, uint64_t drawn_seed,
    struct lam_sample_params *ret, struct lam_err *err)
{
    struct lam_sample_params params = lam_sample_defaults();
    enum lam_status status;

    params.seed = drawn_seed;
    if (!from) {
        *ret = params;
        return LAM_OK;
    }
    if (from->_temperature_case != LAMINAR__V1__SAMPLING___TEMPERATURE__NOT_SET)
        params.temperature = from->temperature;
    if (from->_top_k_case != LAMINAR__V1__SAMPLING___TOP_K__NOT_SET) {
        if (from->top_k < 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "top_k is %d; the range is 0..2147483647, and 0 means off", from->top_k);
        params.top_k = (uint32_t)from->top_k;
    }
    if (from->_top_p_case != LAMINAR__V1__SAMPLING___TOP_P__NOT_SET)
        params.top_p = from->top_p;
    if (from->_min_p_case != LAMINAR__V1__SAMPLING___MIN_P__NOT_SET)
        params.min_p = from->min_p;
    if (from->_repetition_penalty_case != LAMINAR__V1__SAMPLING___REPETITION_PENALTY__NOT_SET)
        params.repetition_penalty = from->repetition_penalty;
    if (from->_presence_penalty_case != LAMINAR__V1__SAMPLING___PRESENCE_PENALTY__NOT_SET)
        params.presence_penalty = from->presence_penalty;
    if (from->_frequency_penalty_case != LAMINAR__V1__SAMPLING___FREQUENCY_PENALTY__NOT_SET)
        params.frequency_penalty = from->frequency_penalty;
    if (from->_seed_case != LAMINAR__V1__SAMPLING___SEED__NOT_SET)
        params.seed = from->seed;
    status = lam_sample_check(&params, err);
    if (status == LAM_OK)
        *ret = params;
    return status;
}

static enum lam_status check_stops(
    const Laminar__V1__GenerateRequest *message, struct lam_request *request, struct lam_err *err)
{
    if (message->n_stop > LAM_STOPS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "stop has %zu strings; at most %u are allowed",
            message->n_stop, LAM_STOPS_MAX);
    for (size_t i = 0; i < message->n_stop; i++) {
        size_t size = strlen(message->stop[i]);
        if (size < 1 || size > LAM_STOP_BYTES_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "stop[%zu] has %zu bytes; the range is 1..%u", i, size, LAM_STOP_BYTES_MAX);
        memcpy(request->stops[i].text, message->stop[i], size);
        request->stops[i].size = size;
    }
    request->n_stops = message->n_stop;
    return LAM_OK;
}

/* ---- the contract ---- */

enum lam_status lam_request_check(const struct lam_served *served,
    const Laminar__V1__GenerateRequest *message, uint64_t drawn_seed,
    struct lam_request *ret_request, struct lam_err *err)
{
    struct lam_request request = {.ignore_eos = message->ignore_eos != 0};
    enum lam_status status;

    status = check_stops(message, &request, err);
    if (status == LAM_OK)
        status = check_sampling(message->sampling, drawn_seed, &request.sampling, err);
    if (status == LAM_OK)
        status = check_prompt(served, message, &request.prompt, err);
    if (status == LAM_OK)
        status = check_max_tokens(served, message, request.prompt.n, &request.max_tokens, err);
    if (status != LAM_OK) {
        lam_request_done(&request);
        return status;
    }
    *ret_request = request;
    return LAM_OK;
}

void lam_request_done(struct lam_request *request)
{
    lam_tokens_done(&request->prompt);
}

enum lam_status lam_request_tokenize(const struct lam_served *served,
    const Laminar__V1__TokenizeRequest *message, struct lam_tokens *tokens, struct lam_err *err)
{
    *tokens = (struct lam_tokens){.max = TOKENS_MAX};
    switch (message->prompt_case) {
    case LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT:
        return encode_text(
            served, message->text, message->parse_special != 0, message->no_bos == 0, tokens, err);
    case LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_CHAT:
        return encode_chat(served, message->chat, tokens, err);
    default:
        return lam_fail(err, LAM_INVALID_ARGUMENT, "prompt is missing: set text or chat");
    }
}

enum lam_status lam_request_check_ids(
    const struct lam_served *served, const int32_t *ids, size_t n, struct lam_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= served->spec.n_vocab)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "token_ids[%zu] is %d; the vocabulary is 0..%u", i, ids[i],
                served->spec.n_vocab - 1);
    return LAM_OK;
}
