/*
 * client: laminar.v1.Generation as the command line uses it.
 *
 * One thread calls; cancel may come from another one (a stack that comes to its end).
 */
#ifndef LAMINAR_CLI_CLIENT_H
#define LAMINAR_CLI_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"

struct lam_client;

/* target: as for lam_rpc_channel_create. Connects at the first call. */
LAM_MUST_USE enum lam_status lam_client_create(
    const char *target, struct lam_client **ret_client, struct lam_err *err);
void lam_client_destroy(struct lam_client *client); /* NULL is allowed */

/* Connects now, so that the first call need not. Errors: LAM_UNAVAILABLE after timeout_ns. */
LAM_MUST_USE enum lam_status lam_client_connect(
    struct lam_client *client, uint64_t timeout_ns, struct lam_err *err);

/* Ends the generation that runs and every later one with LAM_CANCELLED. [any thread] */
void lam_client_cancel(struct lam_client *client);

/* What is the same in proto/laminar/v1/report.proto. */
struct lam_client_memory {
    uint64_t cap_bytes, planned_bytes, measured_bytes;
    uint64_t context_bytes, resident_bytes, slots_bytes, kv_bytes;
    uint64_t activations_bytes, workspace_bytes;
    uint64_t streamed_bytes;
    int32_t slots, layers, resident_layers;
    char kv_type[9];
    double planned_pass_s;
    uint64_t pool_ready_bytes; /* 0: not known */
    double pool_ready_s;
};

struct lam_client_profile {
    double wall_s, disk_wait_s, link_wait_s, compute_s, copy_s, floor_s;
    uint64_t link_bytes, resident_bytes;
};

struct lam_client_worker {
    char id[65];
    char device[33];
    char backend[129];
    int32_t sequences, max_sequences;
    int64_t kv_tokens, max_kv_tokens;
    uint64_t passes, tokens;
    bool has_memory, has_profile;
    struct lam_client_memory memory;
    struct lam_client_profile total; /* of all passes */
    struct lam_client_profile last;
};

#define LAM_CLIENT_WORKERS_MAX 64u

struct lam_client_model {
    char name[128];
    char architecture[32];
    char chat_template[32]; /* "": raw text only */
    int32_t n_ctx;
    int32_t n_vocab;
    int32_t n_waiting;
    size_t n_workers;
    struct lam_client_worker workers[LAM_CLIENT_WORKERS_MAX];
};

/* Errors: LAM_UNAVAILABLE when nobody answers at the address. */
LAM_MUST_USE enum lam_status lam_client_get_model(struct lam_client *client, uint64_t timeout_ns,
    struct lam_client_model *ret_model, struct lam_err *err);

/* Both, for a gateway that somebody else started: an error says how to start one. */
LAM_MUST_USE enum lam_status lam_client_open(const char *target, struct lam_client **ret_client,
    struct lam_client_model *ret_model, struct lam_err *err);

struct lam_client_message {
    const char *role;
    const char *content; /* UTF-8 without NUL */
};

/* NULL pointers: absent, the server's default. */
struct lam_client_sampling {
    const double *temperature;
    const int64_t *top_k;
    const double *top_p;
    const double *min_p;
    const double *repetition_penalty;
    const double *presence_penalty;
    const double *frequency_penalty;
    const int64_t *seed;
};

/* n_tokens more tokens have come, with or without text. */
typedef void lam_client_tokens_fn(void *arg, size_t n_tokens);

/* The prompt: ids, else text, else messages. */
struct lam_client_request {
    const int32_t *ids; /* [n_ids] used as they are; NULL: text */
    size_t n_ids;
    const char *text; /* raw; NULL: messages */
    const struct lam_client_message *messages;
    size_t n_messages;
    bool ignore_eos;                 /* for benchmarks: an end token does not end it */
    lam_client_tokens_fn *on_tokens; /* called before on_text with the same arg; may be NULL */
    const int64_t *max_tokens;
    const char *stop; /* NULL: none */
    struct lam_client_sampling sampling;
};

struct lam_client_answer {
    struct lam_buf text;
    struct lam_buf ids;        /* int32_t each */
    const char *finish_reason; /* "stop", "length"; literal */
    char matched_stop[72];
    uint64_t seed;
    int32_t prompt_tokens;
    int32_t completion_tokens;
    double queue_seconds;
    double prefill_seconds;
    double decode_seconds;
};

/* Generated text as it comes; false ends the generation (nobody listens any more). */
typedef bool lam_client_text_fn(void *arg, const char *text, size_t n_bytes);

/*
 * Generates to the end. answer: zeroed or used before; release with lam_client_answer_done. Errors:
 * the server's; LAM_CANCELLED after lam_client_cancel, LAM_ABORTED after a false from on_text.
 */
LAM_MUST_USE enum lam_status lam_client_generate(struct lam_client *client,
    const struct lam_client_request *request, lam_client_text_fn *on_text, void *arg,
    struct lam_client_answer *answer, struct lam_err *err);

void lam_client_answer_done(struct lam_client_answer *answer);

#endif
