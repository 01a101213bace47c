/*
 * text_fixture: small vocabularies for tests.
 *
 *     struct gguf_builder builder;
 *     struct text_fixture model;
 *     text_fixture_bytelevel(&builder, "gpt-2");      or text_fixture_spm(&builder)
 *     ...change keys of the builder...
 *     status = text_fixture_open(&builder, &model, &err);
 *     text_fixture_close(&builder, &model);           in any case
 *
 * Byte-level: ids 0..255 are the bytes; then the merged texts; then the special tokens.
 */
#ifndef LAMINAR_TESTS_UNIT_MODEL_TEXT_FIXTURE_H
#define LAMINAR_TESTS_UNIT_MODEL_TEXT_FIXTURE_H

#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "tests/unit/model/gguf_builder.h"

#define TEXT_FIXTURE_TOKENS_MAX 512u
#define TEXT_FIXTURE_PIECE_BYTES 64u

enum { GGUF_TYPE_I32 = 5, GGUF_TYPE_F32 = 6 };

/* The lists behind the keys, for tests that change one entry and set the key again. */
struct text_vocabulary {
    uint64_t n;
    char texts[TEXT_FIXTURE_TOKENS_MAX][TEXT_FIXTURE_PIECE_BYTES];
    const char *pieces[TEXT_FIXTURE_TOKENS_MAX]; /* points into texts, or where the test wants */
    int32_t types[TEXT_FIXTURE_TOKENS_MAX];
    float scores[TEXT_FIXTURE_TOKENS_MAX];
    uint64_t n_merges;
    const char *merges[TEXT_FIXTURE_TOKENS_MAX];
};

struct text_fixture {
    struct lam_buf header;
    struct lam_gguf *gguf;
    struct lam_tokenizer *tokenizer;
};

void text_vocabulary_bytelevel(struct text_vocabulary *vocabulary);
void text_vocabulary_spm(struct text_vocabulary *vocabulary);

/* Appends a token and returns its id. */
int32_t text_vocabulary_add(struct text_vocabulary *vocabulary, const char *text, int32_t type);
int32_t text_vocabulary_find(const struct text_vocabulary *vocabulary, const char *text);

/* Initialises the builder and sets the keys. */
void text_fixture_keys(
    struct gguf_builder *builder, const struct text_vocabulary *vocabulary, const char *model);
void text_fixture_bytelevel(struct gguf_builder *builder, const char *pre);
void text_fixture_spm(struct gguf_builder *builder);

/* Parses what was built. */
LAM_MUST_USE enum lam_status text_fixture_open(
    struct gguf_builder *builder, struct text_fixture *ret_fixture, struct lam_err *err);
void text_fixture_close(struct gguf_builder *builder, struct text_fixture *fixture);

#endif
