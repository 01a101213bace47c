/* tokenizer_impl (private to model/): the tokenizer's fields, for tokenizer.c and decoder.c. */
#ifndef LAMINAR_MODEL_TOKENIZER_IMPL_H
#define LAMINAR_MODEL_TOKENIZER_IMPL_H

#include <stdbool.h>
#include <stdint.h>

#include "model/bytelevel.h"
#include "model/special.h"
#include "model/spm.h"
#include "model/tokenizer.h"
#include "model/vocab.h"

/* eos, end of turn, end of message, and the known texts of tokenizer.c. */
#define LAM_ENDS_MAX 16

enum lam_family { LAM_FAMILY_BYTELEVEL, LAM_FAMILY_SPM };

struct lam_tokenizer {
    struct lam_vocab vocab;
    struct lam_special special;
    enum lam_family family; /* which of the next two is alive; the other is zeroed */
    struct lam_bytelevel bytelevel;
    struct lam_spm spm;
    int32_t bos;
    int32_t eos;
    bool wants_bos;
    int32_t ends[LAM_ENDS_MAX];
    uint32_t n_ends;
};

#endif
