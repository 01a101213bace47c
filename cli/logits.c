/*
 * logits: `laminar logits`, the numbers behind the next token, for a check from outside. The loader
 * runs as a child process as ever; the forward pass runs in this process.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/launch.h"
#include "cli/model_file.h"
#include "cli/stack.h"
#include "common/clock.h"
#include "common/mem.h"
#include "kernels/ops.h"
#include "model/tokenizer.h"
#include "worker/device.h"
#include "worker/engine.h"
#include "worker/units.h"

#define IDS_MAX ((size_t)1 << 20)
#define CHUNK_ROWS 256
#define UNIT_TIMEOUT_NS (60 * LAM_NS_PER_S)
#define TOP_N 5

struct logits {
    const char *model;
    const char *ids_text;
    int64_t n_rows; /* last positions whose logits are wanted */
    bool json;
    struct lam_stack_options stack_options;
    const struct lam_run_plan *plan;
    int32_t *ids; /* [n_ids] */
    uint32_t n_ids;
    uint32_t n_vocab;
    float *rows; /* [n_rows, n_vocab] */
};

/* "1,2,3" */
static enum lam_status parse_ids(struct logits *l, struct lam_err *err)
{
    const char *p = l->ids_text;
    size_t n = 1;

    for (const char *c = p; *c; c++)
        n += *c == ',';
    if (n > IDS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--ids has more than %zu numbers", IDS_MAX);
    l->ids = lam_calloc(n, sizeof *l->ids);
    if (!l->ids)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %zu token ids", n);
    for (size_t i = 0; i < n; i++) {
        char text[16] = "";
        size_t length = strcspn(p, ",");
        int64_t id;
        if (length < sizeof text)
            memcpy(text, p, length);
        if (!lam_int_parse(text, 0, INT32_MAX, &id))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "--ids: number %zu is no token id; write for example --ids 1,2,3", i + 1);
        l->ids[i] = (int32_t)id;
        p += length + 1;
    }
    l->n_ids = (uint32_t)n;
    if (l->n_rows > l->n_ids)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--rows %lld: there are only %u ids; lower it",
            (long long)l->n_rows, l->n_ids);
    return LAM_OK;
}

static uint32_t rows_of(const struct logits *l)
{
    return l->plan->planning.plan.prefill_chunk;
}

/* Of the plan: the same device, numbers and memory. */
static enum lam_status make_engine(const struct logits *l, struct lam_units *units,
    struct lam_engine **ret_engine, struct lam_err *err)
{
    const struct lam_planning *planning = &l->plan->planning;
    const struct lam_plan *plan = &planning->plan;
    struct lam_device_choice choice = {0};
    struct lam_engine_config config;
    char vram[32];
    enum lam_status status = lam_device_choose(
        l->plan->device, l->stack_options.kernels, l->stack_options.cuda_library, &choice, err);

    if (status)
        return status;
    snprintf(vram, sizeof vram, "%" PRIu64 "B", planning->devices[0].cap_bytes);
    config = (struct lam_engine_config){
        .ops = choice.ops,
        .device = choice.device,
        .device_index = choice.index,
        .vram = choice.device ? vram : NULL,
        .n_threads = (uint32_t)l->stack_options.n_threads,
        .n_ctx = plan->n_ctx,
        .max_seqs = plan->n_seqs,
        .max_rows = plan->prefill_chunk,
        .max_logit_rows = plan->n_logit_rows,
        .kv_given = true,
        .kv_dtype = plan->kv_dtype,
        .layer_batch = plan->layer_batch,
    };
    return lam_engine_create(&config, units, ret_engine, err);
}

/* Runs the ids through the model in chunks and collects the wanted rows. */
static enum lam_status compute(struct logits *l, struct lam_engine *engine, struct lam_err *err)
{
    uint32_t first_row = l->n_ids - (uint32_t)l->n_rows;
    uint32_t chunk = rows_of(l);
    float *out = l->rows;

    for (uint32_t at = 0; at < l->n_ids; at += chunk) {
        uint32_t n = l->n_ids - at < chunk ? l->n_ids - at : chunk;
        uint32_t n_wanted = at + n <= first_row ? 0 : at + n - first_row;
        struct lam_engine_rows rows = {
            .position = at, .tokens = l->ids + at, .n_tokens = n, .n_prompt = l->n_ids};
        struct lam_engine_result result = {0};
        enum lam_status status;
        rows.logit_rows = n_wanted < n ? n_wanted : n;
        rows.params = lam_sample_defaults();
        status = lam_engine_step(engine, &rows, 1, &result, err);
        if (status)
            return status;
        if (rows.logit_rows == 0)
            continue;
        memcpy(out, result.logits, (size_t)rows.logit_rows * l->n_vocab * sizeof *out);
        out += (size_t)rows.logit_rows * l->n_vocab;
    }
    return LAM_OK;
}

/* A loader that dies on its way up must not cost the whole time-out of a connection. */
static enum lam_status wait_for_loader(struct lam_stack *stack, struct lam_err *err)
{
    struct pollfd end = {.fd = lam_stack_end_fd(stack), .events = POLLIN};

    while (!lam_run_dir_answers(lam_stack_loader(stack)))
        if (poll(&end, 1, 10) == 1)
            return lam_fail(err, LAM_UNAVAILABLE, "the loader did not come up");
    return LAM_OK;
}

static void stop_units(void *units)
{
    lam_units_stop(units);
}

static enum lam_status connect_and_compute(
    struct logits *l, struct lam_stack *stack, struct lam_err *err)
{
    struct lam_units_config config = {
        .loader = lam_stack_loader(stack),
        .pool_socket = lam_stack_pool_socket(stack),
        .max_rows = rows_of(l),
        .timeout_ns = UNIT_TIMEOUT_NS,
    };
    struct lam_units *units = NULL;
    struct lam_engine *engine = NULL;
    enum lam_status status = wait_for_loader(stack, err);

    if (!status)
        status = lam_units_connect(&config, &units, err);
    if (!status) {
        lam_stack_on_end(stack, stop_units, units);
        l->n_vocab = lam_units_model(units)->spec.n_vocab;
        status = make_engine(l, units, &engine, err);
    }
    if (!status) {
        l->rows = lam_calloc((size_t)l->n_rows * l->n_vocab, sizeof *l->rows);
        status = l->rows
                     ? compute(l, engine, err)
                     : lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                           "no memory for %lld rows of logits; lower --rows", (long long)l->n_rows);
    }
    lam_stack_on_end(stack, NULL, NULL);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    return status;
}

static enum lam_status print_json(const struct logits *l, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *rows = json_array();

    for (int64_t r = 0; r < l->n_rows; r++) {
        json_t *row = json_array();
        for (uint32_t v = 0; v < l->n_vocab; v++)
            json_array_append_new(row, json_real((double)l->rows[(size_t)r * l->n_vocab + v]));
        json_array_append_new(rows, row);
    }
    json_object_set_new(root, "ids", lam_json_ids(l->ids, l->n_ids));
    json_object_set_new(root, "first_position", json_integer((json_int_t)l->n_ids - l->n_rows));
    json_object_set_new(root, "vocabulary", json_integer((json_int_t)l->n_vocab));
    json_object_set_new(root, "logits", rows);
    return lam_json_print(root, err);
}

/* The TOP_N largest of a row, largest first, by insertion. */
static void find_top(const float *row, uint32_t n, uint32_t top[TOP_N])
{
    uint32_t n_top = 0;

    for (uint32_t v = 0; v < n; v++) {
        uint32_t at = n_top < TOP_N ? n_top++ : TOP_N;
        while (at > 0 && row[v] > row[top[at - 1]]) {
            if (at < TOP_N)
                top[at] = top[at - 1];
            at--;
        }
        if (at < TOP_N)
            top[at] = v;
    }
}

static void print_text(const struct logits *l, const struct lam_tokenizer *tokenizer)
{
    uint32_t top[TOP_N] = {0};
    uint32_t n_top = l->n_vocab < TOP_N ? l->n_vocab : TOP_N;

    for (int64_t r = 0; r < l->n_rows; r++) {
        const float *row = l->rows + (size_t)r * l->n_vocab;
        find_top(row, l->n_vocab, top);
        printf("after position %lld:\n", (long long)l->n_ids - l->n_rows + r);
        for (uint32_t i = 0; i < n_top; i++) {
            struct lam_str piece = lam_tokenizer_piece(tokenizer, (int32_t)top[i]);
            printf("  %10.4f  %6u  ", (double)row[top[i]], top[i]);
            lam_command_print_clean(stdout, piece.data, piece.size);
            printf("\n");
        }
    }
}

static enum lam_status print_result(
    const struct logits *l, const struct lam_model_file *file, struct lam_err *err)
{
    struct lam_tokenizer *tokenizer = NULL;
    enum lam_status status;

    if (l->json)
        return print_json(l, err);
    status = lam_tokenizer_create(file->gguf, &tokenizer, err);
    if (!status)
        print_text(l, tokenizer);
    lam_tokenizer_destroy(tokenizer);
    return status;
}

/* Prints the error, or the result when there is none, after the loader is gone. */
static int execute(
    struct logits *l, const struct lam_command_env *env, const struct lam_run_plan *plan)
{
    struct lam_stack_config config = {
        .model = l->model,
        .runtime_dir = env->runtime_dir,
        .loader_only = true,
        .options = &l->stack_options,
        .plan = plan,
    };
    struct lam_stack *stack = NULL;
    struct lam_err err = {0};
    enum lam_status status = lam_stack_start(&config, &stack, &err);
    bool no_fit = false;
    int interrupted;

    l->plan = plan;
    if (!status)
        status = connect_and_compute(l, stack, &err);
    if (status && stack)
        no_fit = lam_stack_blame(stack, &err) == LAM_RESOURCE_EXHAUSTED;
    interrupted = lam_stack_stop(stack);
    if (interrupted)
        lam_stack_die_by(interrupted);
    if (!status)
        status = print_result(l, &plan->planning.file, &err);
    if (no_fit)
        return lam_command_no_fit(&err);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

/* A context that is not given is as long as the ids. */
static int make_plan(
    struct logits *l, const struct lam_command_env *env, struct lam_run_plan *ret_plan)
{
    struct lam_plan_options *options = &l->stack_options.plan;
    struct lam_run_plan_config config = {.model = l->model,
        .home = env->home,
        .cuda_library = l->stack_options.cuda_library,
        .options = options};
    struct lam_err err = {0};

    if (options->n_ctx == 0)
        options->n_ctx = l->n_ids;
    if (options->n_ctx < l->n_ids) {
        lam_fail(&err, LAM_INVALID_ARGUMENT, "%u ids do not fit into --ctx %lld; raise it",
            l->n_ids, (long long)options->n_ctx);
        return lam_command_usage(&err);
    }
    if (options->prefill_chunk == 0)
        options->prefill_chunk = CHUNK_ROWS;
    options->n_seqs = 1;
    config.n_logit_rows =
        (uint32_t)(l->n_rows < options->prefill_chunk ? l->n_rows : options->prefill_chunk);
    return lam_run_plan_make(&config, ret_plan);
}

static const char *const epilog =
    "Examples:\n"
    "  laminar logits model.gguf --ids 504,3575,282\n"
    "  laminar logits model.gguf --ids 504,3575,282 --rows 3 --kernels ref --json\n"
    "`laminar tokenize` gives the ids of a text.";

int lam_command_logits(const struct lam_command_env *env, int argc, char **argv)
{
    struct logits l = {.n_rows = 1, .stack_options = lam_stack_defaults()};
    struct lam_flag flags[3 + LAM_STACK_FLAGS + 1] = {
        {"ids", 0, LAM_FLAG_TEXT, &l.ids_text, "N,N,...", "Token ids of the prompt.", 0, 0, NULL,
            NULL},
        {"rows", 0, LAM_FLAG_INT, &l.n_rows, "K", "Logits after each of the last K positions.", 1,
            1 << 20, NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &l.json, NULL,
            "Print all logits as one JSON object, not just the largest.", 0, 0, NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar logits MODEL --ids 1,2,3 [flags]",
        .summary = "Runs token ids through the model and prints what it expects next.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_run_plan plan = {0};
    struct lam_err err = {0};
    int exit_code;

    lam_stack_add_flags(&l.stack_options, flags + 3);
    if (!lam_command_begin(&program, argc, argv, &l.model, 1, &exit_code))
        return exit_code;
    if (!l.ids_text)
        lam_fail(&err, LAM_INVALID_ARGUMENT, "--ids is missing; `laminar tokenize` makes ids");
    if (err.status || parse_ids(&l, &err))
        exit_code = lam_command_usage(&err);
    else
        exit_code = make_plan(&l, env, &plan);
    if (exit_code == LAM_EXIT_OK)
        exit_code = execute(&l, env, &plan);
    lam_run_plan_done(&plan);
    lam_free(l.ids);
    lam_free(l.rows);
    return exit_code;
}
