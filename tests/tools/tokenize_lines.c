/*
 * tokenize_lines: the tokenizer as a filter, for comparison with other implementations.
 *
 *     tokenize_lines MODEL.gguf < texts > ids
 *
 * stdin: texts, each a 32-bit little-endian byte count and the bytes. stdout: one line per text,
 * its ids separated by spaces, then " | " and whether decoding the ids gives the text back ("same",
 * "differs"). A text that is refused gives "! " and the error.
 */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#define TEXT_BYTES_MAX ((size_t)64 << 20)

static bool read_count(size_t *ret_count)
{
    unsigned char bytes[4];

    if (fread(bytes, 1, sizeof bytes, stdin) != sizeof bytes)
        return false;
    *ret_count =
        (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    return *ret_count <= TEXT_BYTES_MAX;
}

static enum lam_status decode(const struct lam_tokenizer *tokenizer,
    const struct lam_tokens *tokens, struct lam_buf *text, struct lam_err *err)
{
    struct lam_decoder decoder;
    enum lam_status status = LAM_OK;

    lam_decoder_init(&decoder, tokenizer, true);
    for (size_t i = 0; !status && i < tokens->n; i++)
        status = lam_decoder_push(&decoder, tokens->ids[i], text, err);
    if (!status)
        status = lam_decoder_finish(&decoder, text, err);
    lam_decoder_done(&decoder);
    return status;
}

static void print_text(const struct lam_tokenizer *tokenizer, const char *text, size_t n)
{
    struct lam_tokens tokens = {.max = TEXT_BYTES_MAX};
    struct lam_buf back = LAM_BUF(4 * TEXT_BYTES_MAX);
    struct lam_err err = {0};
    enum lam_status status =
        lam_tokenizer_encode(tokenizer, text, n, LAM_ENCODE_PLAIN, &tokens, &err);

    if (!status)
        status = decode(tokenizer, &tokens, &back, &err);
    if (status) {
        printf("! %s\n", err.text);
    } else {
        bool same = back.size == n && (n == 0 || memcmp(back.data, text, n) == 0);
        for (size_t i = 0; i < tokens.n; i++)
            printf("%d ", tokens.ids[i]);
        printf("| %s\n", same ? "same" : "differs");
    }
    lam_buf_done(&back);
    lam_tokens_done(&tokens);
}

static int filter(const struct lam_tokenizer *tokenizer)
{
    size_t n;

    while (read_count(&n)) {
        char *text = lam_calloc(n + 1, 1);
        if (!text || fread(text, 1, n, stdin) != n) {
            fprintf(stderr, "tokenize_lines: cannot read a text of %zu bytes\n", n);
            lam_free(text);
            return 1;
        }
        print_text(tokenizer, text, n);
        lam_free(text);
    }
    return 0;
}

/* Reads the front of the file, where the header is. *ret_file_bytes: the size of the file. */
static char *read_front(const char *path, size_t *ret_bytes, uint64_t *ret_file_bytes)
{
    FILE *file = fopen(path, "rb");
    char *front = lam_calloc(LAM_GGUF_HEADER_BYTES_MAX, 1);

    if (file && front && fseek(file, 0, SEEK_END) == 0) {
        *ret_file_bytes = (uint64_t)ftell(file);
        rewind(file);
        *ret_bytes = fread(front, 1, LAM_GGUF_HEADER_BYTES_MAX, file);
    } else {
        perror(path);
        lam_free(front);
        front = NULL;
    }
    if (file)
        fclose(file);
    return front;
}

int main(int argc, char **argv)
{
    struct lam_gguf *gguf = NULL;
    struct lam_tokenizer *tokenizer = NULL;
    struct lam_err err = {0};
    uint64_t file_bytes = 0;
    size_t bytes = 0;
    char *front = argc == 2 ? read_front(argv[1], &bytes, &file_bytes) : NULL;
    enum lam_status status = LAM_INVALID_ARGUMENT;
    int exit_code = 1;

    if (argc != 2)
        fprintf(stderr, "usage: tokenize_lines MODEL.gguf\n");
    if (front) {
        status = lam_gguf_parse(front, bytes, file_bytes, &gguf, &err);
        if (!status)
            status = lam_tokenizer_create(gguf, &tokenizer, &err);
        if (status)
            fprintf(stderr, "tokenize_lines: %s\n", err.text);
    }
    if (!status)
        exit_code = filter(tokenizer);
    lam_tokenizer_destroy(tokenizer);
    lam_gguf_destroy(gguf);
    lam_free(front);
    return exit_code;
}
