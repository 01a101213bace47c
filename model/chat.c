/*
 * chat: see chat.h.
 *
 * A family is a row of a table: the texts around each role's content and a few rules. Rendering
 * makes a list of parts for lam_tokenizer_encode_parts: texts of the table may hold control tokens,
 * contents may not. So the ids are those of the whole rendered text, and yet nobody can write a
 * control token into a message.
 *
 * Mistral's releases differ in single spaces: its row is completed from literals of the file's
 * template.
 */
#include "model/chat.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/mem.h"
#include "common/utf8.h"
#include "model/chat_file.h"
#include "model/tokenizer_impl.h"

#define MESSAGES_MAX 65536u

/* Most parts of one message, see render_message. */
#define PARTS_PER_MESSAGE 9u

/* Llama 3.1 and later. The date is what the templates fall back to without a clock. */
#define LLAMA31_SYSTEM                                                                             \
    "<|start_header_id|>system<|end_header_id|>\n\n"                                               \
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, N_ROLES };

static const char *const role_names[N_ROLES] = {"system", "user", "assistant"};

/* Where a system message goes in families that have no turn for it. */
enum fold { FOLD_NONE, FOLD_INTO_FIRST_USER, FOLD_INTO_LAST_USER };

struct family {
    const char *name;
    const char *before[N_ROLES];
    const char *after[N_ROLES];
    const char *opening; /* of the assistant's turn, after the last message */
    enum fold fold;      /* then before/after[ROLE_SYSTEM] go around the folded text */
    bool alternates;     /* optional system, then user, assistant, user ... user */
    bool trims[N_ROLES]; /* white space around a content is dropped */
    bool eos[N_ROLES];   /* eos follows content and comes before `after` */
    bool spaced_eos;     /* a space comes before eos */
    bool bos_per_turn;   /* bos before every user turn, not only the first */
    bool trims_joined;   /* a folded system message belongs to what is trimmed */
    bool refuses_system;
    bool always_system;       /* a system turn comes first, if need be an empty one */
    bool strips_after_tokens; /* SentencePiece: the tokens swallow white space that follows them */
};

static const struct family families[] = {
    [LAM_CHAT_NONE] = {.name = "none"},
    [LAM_CHAT_CHATML] = {.name = "chatml",
        .before = {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
        .after = {"<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n"},
        .opening = "<|im_start|>assistant\n"},
    [LAM_CHAT_LLAMA2] = {.name = "llama2",
        .before = {"<<SYS>>\n", "[INST] ", " "},
        .after = {"\n<</SYS>>\n\n", " [/INST]", ""},
        .opening = "",
        .fold = FOLD_INTO_FIRST_USER,
        .alternates = true,
        .trims = {false, true, true},
        .eos = {false, false, true},
        .spaced_eos = true,
        .bos_per_turn = true,
        .trims_joined = true},
    [LAM_CHAT_LLAMA3] = {.name = "llama3",
        .before = {"<|start_header_id|>system<|end_header_id|>\n\n",
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        .after = {"<|eot_id|>", "<|eot_id|>", "<|eot_id|>"},
        .opening = "<|start_header_id|>assistant<|end_header_id|>\n\n",
        .trims = {true, true, true}},
    [LAM_CHAT_MISTRAL] = {.name = "mistral",
        .before = {"", "[INST] ", " "},
        .after = {"\n\n", "[/INST]", ""},
        .opening = "",
        .fold = FOLD_INTO_FIRST_USER,
        .alternates = true,
        .eos = {false, false, true}},
    [LAM_CHAT_GEMMA] = {.name = "gemma",
        .before = {"", "<start_of_turn>user\n", "<start_of_turn>model\n"},
        .after = {"\n\n", "<end_of_turn>\n", "<end_of_turn>\n"},
        .opening = "<start_of_turn>model\n",
        .fold = FOLD_INTO_FIRST_USER,
        .alternates = true,
        .trims = {false, true, true}},
    [LAM_CHAT_PHI3] = {.name = "phi3",
        .before = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
        .after = {"<|end|>\n", "<|end|>\n", "<|end|>\n"},
        .opening = "<|assistant|>\n",
        .strips_after_tokens = true},
    [LAM_CHAT_ZEPHYR] = {.name = "zephyr",
        .before = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"},
        .after = {"\n", "\n", "\n"},
        .opening = "<|assistant|>\n",
        .eos = {true, true, true}},
};

#define N_FAMILIES (sizeof families / sizeof *families)

/* A conversation on its way to parts. */
struct rendering {
    struct family family; /* a copy: Mistral's is adjusted */
    struct lam_str bos;   /* spellings, empty when the model has none */
    struct lam_str eos;
    struct lam_text_part *parts;
    size_t n_parts;
    bool after_token; /* the last part ended with a token that strips */
};

enum lam_status lam_chat_detect(
    const struct lam_gguf *gguf, enum lam_chat_template *ret, struct lam_err *err)
{
    struct lam_str text;
    enum lam_status status = lam_chat_file_text(gguf, &text, err);

    if (status)
        return status;
    if (text.size == 0)
        *ret = LAM_CHAT_NONE;
    else if (lam_chat_file_has(text, "<|im_start|>") && !lam_chat_file_has(text, "<|im_sep|>"))
        *ret = LAM_CHAT_CHATML;
    else if (lam_chat_file_has(text, "<|start_header_id|>") &&
             lam_chat_file_has(text, "<|eot_id|>"))
        *ret = LAM_CHAT_LLAMA3;
    else if (lam_chat_file_has(text, "<start_of_turn>"))
        *ret = LAM_CHAT_GEMMA;
    else if (lam_chat_file_has(text, "<|assistant|>") && lam_chat_file_has(text, "<|end|>"))
        *ret = LAM_CHAT_PHI3;
    else if (lam_chat_file_has(text, "<|assistant|>") && lam_chat_file_has(text, "eos_token"))
        *ret = LAM_CHAT_ZEPHYR;
    else if (lam_chat_file_has(text, "[INST]") && lam_chat_file_has(text, "<<SYS>>"))
        *ret = LAM_CHAT_LLAMA2;
    else if (lam_chat_file_has(text, "[INST]"))
        *ret = LAM_CHAT_MISTRAL;
    else
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the file's chat template is of no family that this build knows; name one with "
            "--chat-template, or use --raw");
    return LAM_OK;
}

enum lam_status lam_chat_by_name(const char *name, enum lam_chat_template *ret, struct lam_err *err)
{
    for (size_t i = LAM_CHAT_CHATML; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, name) == 0) {
            *ret = (enum lam_chat_template)i;
            return LAM_OK;
        }
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "\"%.64s\" is no chat template; known are chatml, llama2, llama3, mistral, gemma, phi3, "
        "zephyr",
        name);
}

const char *lam_chat_name(enum lam_chat_template chat)
{
    assert((size_t)chat < N_FAMILIES);
    return families[chat].name;
}

/* Reads Mistral's spaces, and where it puts the system message, out of the template's literals. */
static void adjust_mistral(struct family *family, struct lam_str text)
{
    bool lead = lam_chat_file_has(text, "' [INST]") || lam_chat_file_has(text, "\" [INST]");
    bool inner = lam_chat_file_has(text, "[INST] '") || lam_chat_file_has(text, "[INST] \"");
    bool tail = lam_chat_file_has(text, "' [/INST]") || lam_chat_file_has(text, "\" [/INST]");
    bool reply =
        lam_chat_file_has(text, "' ' + message") || lam_chat_file_has(text, "\" \" + message");
    bool spaced = lam_chat_file_has(text, "[SYSTEM_PROMPT] ");

    if (text.size == 0)
        return;
    if (inner)
        family->before[ROLE_USER] = lead ? " [INST] " : "[INST] ";
    else
        family->before[ROLE_USER] = "[INST]";
    family->after[ROLE_USER] = tail ? " [/INST]" : "[/INST]";
    family->before[ROLE_ASSISTANT] = reply ? " " : "";
    family->trims[ROLE_ASSISTANT] = lam_chat_file_has(text, "|trim + eos_token");
    if (lam_chat_file_has(text, "loop.last and system_message"))
        family->fold = FOLD_INTO_LAST_USER;
    if (lam_chat_file_has(text, "[SYSTEM_PROMPT]")) {
        family->fold = FOLD_NONE;
        family->alternates = false;
        family->before[ROLE_SYSTEM] = spaced ? "[SYSTEM_PROMPT] " : "[SYSTEM_PROMPT]";
        family->after[ROLE_SYSTEM] = "[/SYSTEM_PROMPT]";
    }
}

static bool find_role(const char *name, enum role *ret_role)
{
    for (int i = 0; i < N_ROLES; i++)
        if (strcmp(role_names[i], name) == 0) {
            *ret_role = (enum role)i;
            return true;
        }
    return false;
}

/* Checks the roles and their order, and fills roles[n_messages]. */
static enum lam_status read_roles(const struct family *family,
    const struct lam_chat_message *messages, size_t n_messages, enum role *roles,
    struct lam_err *err)
{
    size_t first;

    for (size_t i = 0; i < n_messages; i++)
        if (!find_role(messages[i].role, &roles[i]))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "message %zu has the role \"%.32s\"; known are system, user, assistant", i,
                messages[i].role);
    if (family->refuses_system && roles[0] == ROLE_SYSTEM)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the model's chat template refuses a system message; put it into the first message");
    if (!family->alternates)
        return LAM_OK;
    first = roles[0] == ROLE_SYSTEM;
    for (size_t i = first; i < n_messages; i++) {
        enum role wanted = (i - first) % 2 ? ROLE_ASSISTANT : ROLE_USER;
        if (roles[i] != wanted)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "message %zu is from the %s, but the %s template wants the %s's turn there", i,
                role_names[roles[i]], family->name, role_names[wanted]);
    }
    if (roles[n_messages - 1] != ROLE_USER)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the last message must be from the user in the %s template", family->name);
    return LAM_OK;
}

static bool is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 ||
           code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* Drops white space at the sides that are named. What is no UTF-8 is left for the tokenizer to
 * refuse. */
static struct lam_str trim(struct lam_str text, bool left, bool right)
{
    uint64_t begin = text.size, end = 0;

    if (text.size == 0)
        return text;
    for (uint64_t at = 0; at < text.size;) {
        uint32_t code = 0;
        int length = lam_utf8_decode(text.data + at, text.size - at, &code);
        uint64_t next = at + (length > 0 ? (uint64_t)length : 1);
        if (length <= 0 || !is_space(code)) {
            begin = begin < at ? begin : at;
            end = next;
        }
        at = next;
    }
    if (!left)
        begin = 0;
    if (!right)
        end = text.size;
    return (struct lam_str){.data = text.data + begin, .size = end > begin ? end - begin : 0};
}

static void add(struct rendering *rendering, struct lam_str text, enum lam_encode_flags flags)
{
    if (rendering->after_token && rendering->family.strips_after_tokens)
        text = trim(text, true, false);
    if (text.size == 0)
        return;
    rendering->parts[rendering->n_parts++] =
        (struct lam_text_part){.text = text.data, .n = text.size, .flags = flags};
    rendering->after_token = false;
}

/* Text of the template. Where tokens strip, its line ends go with the token before them. */
static void add_template(struct rendering *rendering, const char *text)
{
    struct lam_str str = {.data = text, .size = strlen(text)};
    bool strips = rendering->family.strips_after_tokens;

    if (strips)
        str = trim(str, false, true);
    add(rendering, str, LAM_ENCODE_SPECIAL);
    rendering->after_token = strips;
}

/* prefix: a folded system message, or NULL. */
static void render_message(struct rendering *rendering, enum role role,
    const struct lam_chat_message *message, const struct lam_chat_message *prefix)
{
    const struct family *family = &rendering->family;
    struct lam_str content = {.data = message->content, .size = message->content_bytes};
    bool trims = family->trims[role];
    bool trims_left = trims && !(prefix && family->trims_joined);

    if (role == ROLE_USER && family->bos_per_turn && rendering->n_parts)
        add(rendering, rendering->bos, LAM_ENCODE_SPECIAL);
    add_template(rendering, family->before[role]);
    if (prefix) {
        struct lam_str text = {.data = prefix->content, .size = prefix->content_bytes};
        add_template(rendering, family->before[ROLE_SYSTEM]);
        add(rendering, text, LAM_ENCODE_PLAIN);
        add_template(rendering, family->after[ROLE_SYSTEM]);
    }
    add(rendering, trim(content, trims_left, trims), LAM_ENCODE_PLAIN);
    if (family->eos[role]) {
        add_template(rendering, family->spaced_eos ? " " : "");
        add(rendering, rendering->eos, LAM_ENCODE_SPECIAL);
    }
    add_template(rendering, family->after[role]);
}

static void render(struct rendering *rendering, const struct lam_chat_message *messages,
    const enum role *roles, size_t n_messages)
{
    enum fold fold = rendering->family.fold;
    bool folds = fold != FOLD_NONE && roles[0] == ROLE_SYSTEM;
    size_t host = fold == FOLD_INTO_LAST_USER ? n_messages - 1 : 1;

    for (size_t i = folds; i < n_messages; i++)
        render_message(rendering, roles[i], &messages[i], folds && i == host ? &messages[0] : NULL);
    add_template(rendering, rendering->family.opening);
}

/* Reads what the file's template adds to the family's row. */
static void adjust(struct rendering *rendering, enum lam_chat_template chat, struct lam_str text,
    const struct lam_tokenizer *tokenizer)
{
    struct family *family = &rendering->family;

    *family = families[chat];
    rendering->bos = lam_tokenizer_piece(tokenizer, lam_tokenizer_bos(tokenizer));
    rendering->eos = lam_tokenizer_piece(tokenizer, lam_tokenizer_eos(tokenizer));
    if (chat == LAM_CHAT_MISTRAL)
        adjust_mistral(family, text);
    if (chat == LAM_CHAT_LLAMA3 && lam_chat_file_has(text, "Cutting Knowledge Date")) {
        family->before[ROLE_SYSTEM] = LLAMA31_SYSTEM;
        family->always_system = true;
    }
    family->refuses_system = family->alternates && text.size &&
                             (lam_chat_file_has(text, "System role not supported") ||
                                 !lam_chat_file_has(text, "system"));
    family->strips_after_tokens =
        family->strips_after_tokens && tokenizer->family == LAM_FAMILY_SPM;
}

/* system: the default system message, for conversations that bring none; empty: no message. */
static enum lam_status encode(struct rendering *rendering, const struct lam_buf *system,
    const struct lam_tokenizer *tokenizer, const struct lam_chat_message *messages,
    size_t n_messages, struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_chat_message inserted = {
        .role = "system", .content = system->data, .content_bytes = system->size};
    enum role *roles = lam_calloc(n_messages, sizeof *roles);
    enum lam_status status;

    rendering->parts = lam_calloc((n_messages + 2) * PARTS_PER_MESSAGE, sizeof *rendering->parts);
    if (!roles || !rendering->parts)
        status =
            lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to render %zu messages", n_messages);
    else
        status = read_roles(&rendering->family, messages, n_messages, roles, err);
    if (!status) {
        if (roles[0] != ROLE_SYSTEM && (system->size || rendering->family.always_system))
            render_message(rendering, ROLE_SYSTEM, &inserted, NULL);
        render(rendering, messages, roles, n_messages);
        status = lam_tokenizer_encode_parts(
            tokenizer, rendering->parts, rendering->n_parts, tokens, err);
    }
    lam_free(rendering->parts);
    lam_free(roles);
    return status;
}

enum lam_status lam_chat_encode(enum lam_chat_template chat, const struct lam_gguf *gguf,
    const struct lam_tokenizer *tokenizer, const struct lam_chat_message *messages,
    size_t n_messages, struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_buf system = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    struct rendering rendering = {0};
    size_t n_before = tokens->n;
    int32_t bos = lam_tokenizer_bos(tokenizer);
    struct lam_str text;
    enum lam_status status;

    if (chat == LAM_CHAT_NONE)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the model has no chat template; name one with --chat-template, or use --raw");
    if (n_messages == 0 || n_messages > MESSAGES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the conversation has %zu messages, not 1..%u",
            n_messages, MESSAGES_MAX);
    status = lam_chat_file_text(gguf, &text, err);
    if (status)
        return status;
    adjust(&rendering, chat, text, tokenizer);
    if (chat == LAM_CHAT_CHATML && !lam_chat_file_default_system(text, &system))
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the system message");
    if (!status && bos >= 0 &&
        (lam_tokenizer_wants_bos(tokenizer) || lam_chat_file_has(text, "bos_token")))
        status = lam_tokens_push(tokens, bos, err);
    if (!status)
        status = encode(&rendering, &system, tokenizer, messages, n_messages, tokens, err);
    if (status)
        tokens->n = n_before;
    lam_buf_done(&system);
    return status;
}
