/* served: see served.h. */
#include "gateway/served.h"

#include <xxhash.h>

#include "common/mem.h"

/* A chat template is a convenience: what is wrong with it is told to those who ask for a chat. */
static void choose_chat(struct lam_served *served, const char *chat_name)
{
    enum lam_status status;

    if (chat_name)
        status = lam_chat_by_name(chat_name, &served->chat, &served->chat_err);
    else
        status = lam_chat_detect(served->gguf, &served->chat, &served->chat_err);
    if (status != LAM_OK)
        served->chat = LAM_CHAT_NONE;
    else if (served->chat == LAM_CHAT_NONE)
        lam_fail(&served->chat_err, LAM_FAILED_PRECONDITION,
            "this model has no chat template: send a raw prompt (text or token_ids), or start the "
            "gateway with --chat-template");
}

static enum lam_status parse(
    struct lam_served *served, const struct lam_served_config *config, struct lam_err *err)
{
    uint64_t digest = XXH3_64bits(served->header.data, served->header.size);
    enum lam_status status;

    if (digest != config->digest)
        return lam_fail(err, LAM_DATA_LOSS,
            "the model header that arrived has digest %016llx; %016llx was announced",
            (unsigned long long)digest, (unsigned long long)config->digest);
    status = lam_gguf_parse(
        served->header.data, served->header.size, config->file_bytes, &served->gguf, err);
    if (status == LAM_OK)
        status = lam_spec_read(served->gguf, &served->spec, err);
    if (status == LAM_OK)
        status = lam_tokenizer_create(served->gguf, &served->tokenizer, err);
    return status;
}

enum lam_status lam_served_create(struct lam_buf *header, const struct lam_served_config *config,
    struct lam_served **ret_served, struct lam_err *err)
{
    struct lam_served *served = lam_calloc(1, sizeof *served);
    enum lam_status status;

    if (!served) {
        lam_buf_done(header);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the model's description");
    }
    served->header = *header;
    *header = LAM_BUF(header->max);
    served->digest = config->digest;
    served->context_tokens = config->context_tokens;
    status = parse(served, config, err);
    if (status != LAM_OK) {
        lam_served_destroy(served);
        return status;
    }
    choose_chat(served, config->chat_name);
    *ret_served = served;
    return LAM_OK;
}

void lam_served_destroy(struct lam_served *served)
{
    if (!served)
        return;
    lam_tokenizer_destroy(served->tokenizer);
    lam_gguf_destroy(served->gguf);
    lam_buf_done(&served->header);
    lam_free(served);
}
