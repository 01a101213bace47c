/*
 * synth_vocab: a byte-level vocabulary of any size, for models whose weights mean nothing: the 256
 * bytes, then pairs and triples of letters with the merges that make them, then the beginning and
 * the end of a text as control tokens. Text of any kind can be encoded with it.
 */
#ifndef LAMINAR_CLI_SYNTH_VOCAB_H
#define LAMINAR_CLI_SYNTH_VOCAB_H

#include <stdint.h>

#include "model/gguf_write.h"

#define LAM_SYNTH_VOCAB_MIN 258u
#define LAM_SYNTH_VOCAB_MAX (256u + 64 * 64 + 64 * 64 * 64 + 2)

/* Puts the tokenizer's keys. n_vocab: within the limits (asserted). */
void lam_synth_vocab_put(struct lam_gguf_writer *writer, uint32_t n_vocab);

#endif
