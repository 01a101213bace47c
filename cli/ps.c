/* ps: `laminar ps`, what a service runs on and what that holds. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/usage.h"

static const char *const epilog = "Example, beside `laminar serve model.gguf`:\n"
                                  "  laminar ps --target 127.0.0.1:50051";

static void print_clean(const char *text)
{
    lam_command_print_clean(stdout, text, strlen(text));
}

static void print_worker(const struct lam_client_worker *worker)
{
    putchar('\n');
    print_clean(worker->id);
    printf(" on ");
    print_clean(worker->device);
    printf(" (");
    print_clean(worker->backend);
    printf(")\n  load     %d of %d sequences\n", worker->sequences, worker->max_sequences);
    lam_usage_print_memory(stdout, worker);
    lam_usage_print_passes(stdout, worker, UINT64_MAX);
}

static void print_text(const struct lam_client_model *model)
{
    print_clean(model->name[0] ? model->name : model->architecture);
    printf(" (");
    print_clean(model->architecture);
    printf("), context %d tokens; %zu worker%s, %d requests waiting\n", model->n_ctx,
        model->n_workers, model->n_workers == 1 ? "" : "s", model->n_waiting);
    for (size_t i = 0; i < model->n_workers; i++)
        print_worker(&model->workers[i]);
}

static json_t *json_worker(const struct lam_client_worker *worker)
{
    json_t *object = json_object();
    double seconds = worker->has_profile ? worker->total.wall_s : 0;

    json_object_set_new(object, "id", lam_json_text(worker->id, strlen(worker->id)));
    json_object_set_new(object, "device", lam_json_text(worker->device, strlen(worker->device)));
    json_object_set_new(object, "backend", lam_json_text(worker->backend, strlen(worker->backend)));
    json_object_set_new(object, "sequences", json_integer(worker->sequences));
    json_object_set_new(object, "max_sequences", json_integer(worker->max_sequences));
    json_object_set_new(object, "kv_tokens", json_integer(worker->kv_tokens));
    json_object_set_new(object, "max_kv_tokens", json_integer(worker->max_kv_tokens));
    json_object_set_new(object, "passes", json_integer((json_int_t)worker->passes));
    json_object_set_new(object, "tokens", json_integer((json_int_t)worker->tokens));
    json_object_set_new(object, "tokens_per_second",
        seconds > 0 ? json_real((double)worker->tokens / seconds) : json_null());
    json_object_set_new(object, "memory", lam_usage_memory_json(worker));
    json_object_set_new(object, "profile", lam_usage_profile_json(worker, &worker->total));
    json_object_set_new(object, "last_pass", lam_usage_profile_json(worker, &worker->last));
    return object;
}

static enum lam_status print_json(const struct lam_client_model *model, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *workers = json_array();

    for (size_t i = 0; i < model->n_workers; i++)
        json_array_append_new(workers, json_worker(&model->workers[i]));
    json_object_set_new(root, "model", lam_json_text(model->name, strlen(model->name)));
    json_object_set_new(
        root, "architecture", lam_json_text(model->architecture, strlen(model->architecture)));
    json_object_set_new(root, "context_tokens", json_integer(model->n_ctx));
    json_object_set_new(root, "waiting", json_integer(model->n_waiting));
    json_object_set_new(root, "workers", workers);
    return lam_json_print(root, err);
}

static int execute(const char *target, bool json)
{
    struct lam_client *client = NULL;
    struct lam_client_model model = {0};
    struct lam_err err = {0};
    enum lam_status status = lam_client_open(target, &client, &model, &err);

    lam_client_destroy(client);
    if (status == LAM_INVALID_ARGUMENT)
        return lam_command_usage(&err); /* the address */
    if (!status && json)
        status = print_json(&model, &err);
    else if (!status)
        print_text(&model);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

int lam_command_ps(const struct lam_command_env *env, int argc, char **argv)
{
    const char *target = "127.0.0.1:50051";
    bool json = false;
    const struct lam_flag flags[] = {
        {"target", 0, LAM_FLAG_TEXT, &target, "ADDR", "HOST:PORT or unix:PATH of a gateway.", 0, 0,
            NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar ps [--target ADDR] [--json]",
        .summary = "Shows what a gateway serves and its workers: memory against plan and cap, the "
                   "KV cache, passes, and what they waited for.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    return execute(target, json);
}
