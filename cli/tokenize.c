/* tokenize: `laminar tokenize`, text to the token ids that a generation uses. Starts nothing. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/model_file.h"
#include "model/chat.h"
#include "model/tokenizer.h"

#define TOKENS_MAX ((size_t)1 << 24)

struct tokenization {
    const char *operands[2]; /* MODEL, TEXT */
    bool chat;
    bool special;
    bool no_bos;
    bool json;
    struct lam_shard_flag shards;
    struct lam_model_file file;
    struct lam_tokenizer *tokenizer;
    int32_t bos; /* stands before tokens; -1: none (a chat template writes its own) */
    struct lam_tokens tokens;
};

static enum lam_status encode(struct tokenization *t, struct lam_err *err)
{
    struct lam_chat_message message = {"user", t->operands[1], strlen(t->operands[1])};
    enum lam_chat_template chat = LAM_CHAT_NONE;
    enum lam_status status;

    t->bos = -1;
    if (!t->chat) {
        if (!t->no_bos && lam_tokenizer_wants_bos(t->tokenizer))
            t->bos = lam_tokenizer_bos(t->tokenizer);
        return lam_tokenizer_encode(t->tokenizer, message.content, message.content_bytes,
            t->special ? LAM_ENCODE_SPECIAL : LAM_ENCODE_PLAIN, &t->tokens, err);
    }
    status = lam_chat_detect(t->file.gguf, &chat, err);
    if (status)
        return status;
    if (chat == LAM_CHAT_NONE)
        return lam_fail(
            err, LAM_FAILED_PRECONDITION, "the model has no chat template; leave --chat out");
    return lam_chat_encode(chat, t->file.gguf, t->tokenizer, &message, 1, &t->tokens, err);
}

static enum lam_status print_json(const struct tokenization *t, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *ids = lam_json_ids(t->tokens.ids, t->tokens.n);
    json_t *pieces = json_array();

    if (t->bos >= 0)
        json_array_insert_new(ids, 0, json_integer(t->bos));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        struct lam_str piece = lam_tokenizer_piece(t->tokenizer, id);
        json_array_append_new(pieces, lam_json_text(piece.data, piece.size));
    }
    json_object_set_new(root, "ids", ids);
    json_object_set_new(root, "pieces", pieces);
    return lam_json_print(root, err);
}

static void print_token(const struct tokenization *t, int32_t id)
{
    struct lam_str piece = lam_tokenizer_piece(t->tokenizer, id);

    printf("%8d  ", id);
    for (uint64_t i = 0; i < piece.size; i++) {
        unsigned char c = (unsigned char)piece.data[i];
        if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    printf("\n");
}

static enum lam_status tokenize(struct tokenization *t, struct lam_err *err)
{
    enum lam_status status = lam_model_file_open(t->operands[0], &t->shards, &t->file, err);

    if (!status)
        status = lam_tokenizer_create(t->file.gguf, &t->tokenizer, err);
    if (!status)
        status = encode(t, err);
    if (status)
        return status;
    if (t->json)
        return print_json(t, err);
    if (t->bos >= 0)
        print_token(t, t->bos);
    for (size_t i = 0; i < t->tokens.n; i++)
        print_token(t, t->tokens.ids[i]);
    return LAM_OK;
}

static const char *const epilog =
    "Examples:\n"
    "  laminar tokenize model.gguf \"Hello world\"\n"
    "  laminar tokenize model.gguf --chat \"Why is the sky blue?\" --json";

int lam_command_tokenize(const struct lam_command_env *env, int argc, char **argv)
{
    struct tokenization t = {.tokens = {.max = TOKENS_MAX}};
    struct lam_err err = {0};
    const struct lam_flag flags[] = {
        {"chat", 0, LAM_FLAG_BOOL, &t.chat, NULL,
            "As a user's message through the model's chat template.", 0, 0, NULL, NULL},
        {"special", 0, LAM_FLAG_BOOL, &t.special, NULL,
            "Spellings of control tokens in the text become those tokens.", 0, 0, NULL, NULL},
        {"no-bos", 0, LAM_FLAG_BOOL, &t.no_bos, NULL,
            "No beginning-of-sequence token even if the model wants one.", 0, 0, NULL, NULL},
        lam_shard_flag(&t.shards),
        {"json", 0, LAM_FLAG_BOOL, &t.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar tokenize MODEL TEXT [flags]",
        .summary = "Prints the token ids of a text and the vocabulary's spelling of each.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, t.operands, 2, &exit_code))
        return exit_code;
    exit_code = LAM_EXIT_OK;
    if (lam_command_check_text("TEXT", t.operands[1], strlen(t.operands[1]), &err))
        exit_code = lam_command_usage(&err);
    else if (tokenize(&t, &err))
        exit_code = lam_command_fail(&err);
    lam_tokens_done(&t.tokens);
    lam_tokenizer_destroy(t.tokenizer);
    lam_model_file_close(&t.file);
    return exit_code;
}
