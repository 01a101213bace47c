/* text_fixture: see text_fixture.h. */
#include "tests/unit/model/text_fixture.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/utf8.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, BYTE = 6 };

#define SPACE "\xc4\xa0"     /* U+0120, a space in the byte alphabet */
#define BLANK "\xe2\x96\x81" /* U+2581, SentencePiece's space */

static const char *const merge_list[] = {"h e", "l l", "he ll", "hell o", SPACE " w", "o r", "l d",
    SPACE "w or", SPACE "wor ld", "a a", "aa aa", "aaaa aaaa", SPACE " " SPACE};

static const char *const control_list[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>",
    "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"};

static const char *const user_list[] = {"<tool>", "<tool", "<tool><tool>x"};

/* SentencePiece pieces, best first. */
static const char *const spm_list[] = {BLANK "h", "e", "ll", "he", BLANK "he", "llo", BLANK "hello",
    BLANK "w", "or", "ld", BLANK "wor", BLANK "world", BLANK BLANK, "aa", "aaaa", "h", "l", "o",
    "w", "r", "d", "a", "b", "c", "<", "s", ">", "<s", BLANK};

int32_t text_vocabulary_add(struct text_vocabulary *vocabulary, const char *text, int32_t type)
{
    uint64_t id = vocabulary->n++;

    assert(id < TEXT_FIXTURE_TOKENS_MAX && strlen(text) < TEXT_FIXTURE_PIECE_BYTES);
    snprintf(vocabulary->texts[id], TEXT_FIXTURE_PIECE_BYTES, "%s", text);
    vocabulary->pieces[id] = vocabulary->texts[id];
    vocabulary->types[id] = type;
    return (int32_t)id;
}

int32_t text_vocabulary_find(const struct text_vocabulary *vocabulary, const char *text)
{
    for (uint64_t id = 0; id < vocabulary->n; id++)
        if (strcmp(vocabulary->pieces[id], text) == 0)
            return (int32_t)id;
    return -1;
}

static void add_list(
    struct text_vocabulary *vocabulary, const char *const *texts, size_t n, int32_t type)
{
    for (size_t i = 0; i < n; i++)
        text_vocabulary_add(vocabulary, texts[i], type);
}

/* The alphabet of GPT-2's encoder.json: printable Latin-1 stands for itself, the rest follows. */
static void add_bytes(struct text_vocabulary *vocabulary)
{
    uint32_t next = 0x100;

    for (uint32_t byte = 0; byte < 256; byte++) {
        bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        char text[5] = "";
        lam_utf8_encode(prints ? byte : next++, text);
        text_vocabulary_add(vocabulary, text, NORMAL);
    }
}

void text_vocabulary_bytelevel(struct text_vocabulary *vocabulary)
{
    memset(vocabulary, 0, sizeof *vocabulary);
    add_bytes(vocabulary);
    for (size_t i = 0; i < sizeof merge_list / sizeof *merge_list; i++) {
        char joined[TEXT_FIXTURE_PIECE_BYTES];
        const char *space = strchr(merge_list[i], ' ');
        int n_left = (int)(space - merge_list[i]);
        snprintf(joined, sizeof joined, "%.*s%s", n_left, merge_list[i], space + 1);
        text_vocabulary_add(vocabulary, joined, NORMAL);
        vocabulary->merges[vocabulary->n_merges++] = merge_list[i];
    }
    add_list(vocabulary, control_list, sizeof control_list / sizeof *control_list, CONTROL);
    add_list(vocabulary, user_list, sizeof user_list / sizeof *user_list, USER_DEFINED);
}

void text_vocabulary_spm(struct text_vocabulary *vocabulary)
{
    memset(vocabulary, 0, sizeof *vocabulary);
    text_vocabulary_add(vocabulary, "<unk>", UNKNOWN);
    text_vocabulary_add(vocabulary, "<s>", CONTROL);
    text_vocabulary_add(vocabulary, "</s>", CONTROL);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        text_vocabulary_add(vocabulary, text, BYTE);
    }
    for (size_t i = 0; i < sizeof spm_list / sizeof *spm_list; i++) {
        int32_t id = text_vocabulary_add(vocabulary, spm_list[i], NORMAL);
        vocabulary->scores[id] = -(float)i;
    }
    text_vocabulary_add(vocabulary, "<tool>", USER_DEFINED);
}

void text_fixture_keys(
    struct gguf_builder *builder, const struct text_vocabulary *vocabulary, const char *model)
{
    gguf_builder_init(builder);
    gguf_builder_str(builder, "tokenizer.ggml.model", model);
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", vocabulary->pieces, vocabulary->n);
    gguf_builder_array(builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, vocabulary->n,
        vocabulary->types, vocabulary->n * sizeof *vocabulary->types);
    if (strcmp(model, "llama") == 0)
        gguf_builder_array(builder, "tokenizer.ggml.scores", GGUF_TYPE_F32, vocabulary->n,
            vocabulary->scores, vocabulary->n * sizeof *vocabulary->scores);
    else
        gguf_builder_strings(
            builder, "tokenizer.ggml.merges", vocabulary->merges, vocabulary->n_merges);
    gguf_builder_u32(
        builder, "tokenizer.ggml.bos_token_id", (uint32_t)text_vocabulary_find(vocabulary, "<s>"));
    gguf_builder_u32(
        builder, "tokenizer.ggml.eos_token_id", (uint32_t)text_vocabulary_find(vocabulary, "</s>"));
}

void text_fixture_bytelevel(struct gguf_builder *builder, const char *pre)
{
    struct text_vocabulary vocabulary;

    text_vocabulary_bytelevel(&vocabulary);
    text_fixture_keys(builder, &vocabulary, "gpt2");
    gguf_builder_str(builder, "tokenizer.ggml.pre", pre);
}

void text_fixture_spm(struct gguf_builder *builder)
{
    struct text_vocabulary vocabulary;

    text_vocabulary_spm(&vocabulary);
    text_fixture_keys(builder, &vocabulary, "llama");
}

enum lam_status text_fixture_open(
    struct gguf_builder *builder, struct text_fixture *ret_fixture, struct lam_err *err)
{
    enum lam_status status;

    memset(ret_fixture, 0, sizeof *ret_fixture);
    gguf_builder_header(builder, &ret_fixture->header);
    status = lam_gguf_parse(ret_fixture->header.data, ret_fixture->header.size, builder->file_bytes,
        &ret_fixture->gguf, err);
    if (!status)
        status = lam_tokenizer_create(ret_fixture->gguf, &ret_fixture->tokenizer, err);
    return status;
}

void text_fixture_close(struct gguf_builder *builder, struct text_fixture *fixture)
{
    lam_tokenizer_destroy(fixture->tokenizer);
    lam_gguf_destroy(fixture->gguf);
    lam_buf_done(&fixture->header);
    gguf_builder_done(builder);
}
