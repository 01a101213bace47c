/* chat_file: see chat_file.h. */
#include "model/chat_file.h"

#include <string.h>

enum literal { LITERAL_OK, LITERAL_OTHER, LITERAL_NO_MEMORY };

enum lam_status lam_chat_file_text(
    const struct lam_gguf *gguf, struct lam_str *ret_text, struct lam_err *err)
{
    enum lam_status status = lam_gguf_str(gguf, "tokenizer.chat_template", ret_text, err);

    if (status == LAM_NOT_FOUND) {
        *ret_text = (struct lam_str){.data = "", .size = 0};
        return LAM_OK;
    }
    return status;
}

bool lam_chat_file_has(struct lam_str text, const char *literal)
{
    return memmem(text.data, text.size, literal, strlen(literal)) != NULL;
}

static bool starts_with(const char *at, const char *end, const char *literal)
{
    size_t n = strlen(literal);

    return (size_t)(end - at) >= n && memcmp(at, literal, n) == 0;
}

/* Reads one character of a string literal, perhaps escaped; 0 for an escape that we do not know. */
static char literal_char(const char **at, const char *end)
{
    char c = *(*at)++;

    if (c != '\\')
        return c;
    if (*at == end)
        return 0;
    c = *(*at)++;
    if (c == 'n')
        return '\n';
    return c == '\\' || c == '\'' || c == '"' ? c : '\0';
}

/* Reads a literal from behind "system" up to "<|im_end|>"; LITERAL_OTHER when it is another one. */
static enum literal read_system(const char *at, const char *end, char quote, struct lam_buf *out)
{
    if (at == end || literal_char(&at, end) != '\n')
        return LITERAL_OTHER;
    while (at < end && *at != quote && !starts_with(at, end, "{{") && !starts_with(at, end, "{%")) {
        char c;
        if (starts_with(at, end, "<|im_end|>"))
            return LITERAL_OK;
        c = literal_char(&at, end);
        if (c == '\0')
            return LITERAL_OTHER;
        if (!lam_buf_append(out, &c, 1))
            return LITERAL_NO_MEMORY;
    }
    return LITERAL_OTHER;
}

bool lam_chat_file_default_system(struct lam_str text, struct lam_buf *out)
{
    static const char opening[] = "<|im_start|>system";
    const char *end = text.data + text.size;
    const char *at = text.data;

    for (;;) {
        enum literal literal = LITERAL_OTHER;
        char quote;
        at = memmem(at, (size_t)(end - at), opening, sizeof opening - 1);
        if (!at)
            return true;
        quote = at > text.data ? at[-1] : '\0';
        at += sizeof opening - 1;
        lam_buf_clear(out);
        if (quote == '\'' || quote == '"')
            literal = read_system(at, end, quote, out);
        if (literal == LITERAL_NO_MEMORY)
            return false;
        if (literal == LITERAL_OK)
            return true;
        lam_buf_clear(out);
    }
}
