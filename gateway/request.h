/*
 * request: a message from a stranger to a request that can be scheduled. Every field is held
 * against its range here, once; an error names the field, the value and the range, and never
 * repeats the prompt.
 *
 * Any thread: short requests come here on the I/O thread, long ones on that of aside.h.
 */
#ifndef LAMINAR_GATEWAY_REQUEST_H
#define LAMINAR_GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "gateway/emit.h"
#include "gateway/served.h"
#include "model/sample.h"
#include "model/tokens.h"
#include "proto/laminar/v1/generation.pb-c.h"

struct lam_request {
    struct lam_tokens prompt;
    uint32_t max_tokens; /* 1 .. context - prompt */
    struct lam_sample_params sampling;
    struct lam_stop stops[LAM_STOPS_MAX];
    size_t n_stops;
    bool ignore_eos;
};

/*
 * drawn_seed: the seed of a request that brings none.
 * Errors: LAM_INVALID_ARGUMENT; LAM_FAILED_PRECONDITION or LAM_UNIMPLEMENTED for a chat with a
 * model that has no template; LAM_RESOURCE_EXHAUSTED. Free with lam_request_done.
 */
LAM_MUST_USE enum lam_status lam_request_check(const struct lam_served *served,
    const Laminar__V1__GenerateRequest *message, uint64_t drawn_seed,
    struct lam_request *ret_request, struct lam_err *err);
void lam_request_done(struct lam_request *request); /* a zeroed struct is allowed */

/*
 * The tokens of a TokenizeRequest, which are those that Generate would use. They may exceed the
 * context. Free with lam_tokens_done, also on failure.
 */
LAM_MUST_USE enum lam_status lam_request_tokenize(const struct lam_served *served,
    const Laminar__V1__TokenizeRequest *message, struct lam_tokens *tokens, struct lam_err *err);

/* Is every id inside the vocabulary? Errors: LAM_INVALID_ARGUMENT names the first that is not. */
LAM_MUST_USE enum lam_status lam_request_check_ids(
    const struct lam_served *served, const int32_t *ids, size_t n, struct lam_err *err);

#endif
