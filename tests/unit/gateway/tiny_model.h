/*
 * tiny_model: the header of a model with 300 tokens for tests of the gateway. Its tokenizer is of
 * the SentencePiece family without merges: every byte of a text is one token, so a test can spell
 * any text, cut anywhere.
 */
#ifndef LAMINAR_TESTS_UNIT_GATEWAY_TINY_MODEL_H
#define LAMINAR_TESTS_UNIT_GATEWAY_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "gateway/served.h"

#define TINY_VOCAB 300
#define TINY_CONTEXT 64
#define TINY_BOS 1
#define TINY_EOS 2
#define TINY_LOUD 299 /* a token of TINY_LOUD_BYTES bytes */
#define TINY_LOUD_BYTES 2000
#define TINY_BYTE(b) (3 + (int32_t)(unsigned char)(b))

struct tiny_model {
    struct lam_buf header;
    uint64_t file_bytes;
    uint64_t digest;
};

/* chat: with a chatml template. name: general.name, part of the digest. Free with lam_buf_done. */
struct tiny_model tiny_model_make(const char *name, bool chat);

/* The served form of it, context TINY_CONTEXT; asserts that it works. */
struct lam_served *tiny_served(bool chat);

#endif
