/* generate: `laminar generate`, text from a service that runs somewhere: a plain gRPC client. */
#include <stdio.h>
#include <string.h>

#include "cli/answer.h"
#include "cli/command.h"
#include "cli/client.h"
#include "common/size.h"

#define PROMPT_BYTES_MAX (8 * LAM_MIB)

static enum lam_status generate(struct lam_client *client, const struct lam_client_model *model,
    struct lam_answer_options *options, const char *prompt, struct lam_err *err)
{
    struct lam_client_message messages[2] = {{"system", options->system}, {"user", prompt}};
    struct lam_client_request request = lam_answer_request(options);
    struct lam_client_answer answer = {0};
    size_t first = options->system ? 0 : 1;
    enum lam_status status;

    if (options->raw || (!options->chat && !model->chat_template[0]))
        request.text = prompt;
    request.messages = messages + first;
    request.n_messages = 2 - first;
    status = lam_client_generate(client, &request, lam_answer_write_text, options, &answer, err);
    if (!status)
        status = lam_answer_finish(options, &answer, NULL, err);
    lam_client_answer_done(&answer);
    return status;
}

static int execute(const char *target, struct lam_answer_options *options, const char *prompt)
{
    struct lam_client *client = NULL;
    struct lam_client_model model;
    struct lam_err err = {0};
    enum lam_status status = lam_client_open(target, &client, &model, &err);

    if (status == LAM_INVALID_ARGUMENT)
        return lam_command_usage(&err); /* the address */
    if (!status)
        status = generate(client, &model, options, prompt, &err);
    lam_client_destroy(client);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

static const char *const epilog =
    "Examples, beside `laminar serve model.gguf`:\n"
    "  laminar generate -p \"Why is the sky blue?\"\n"
    "  laminar generate --target 10.0.0.7:50051 -n 100 -t 0.8 --seed 7 -p \"Once upon a time\"\n"
    "  laminar generate --json < prompt.txt";

int lam_command_generate(const struct lam_command_env *env, int argc, char **argv)
{
    const char *target = "127.0.0.1:50051";
    struct lam_answer_options options = lam_answer_defaults();
    struct lam_buf prompt = LAM_BUF(PROMPT_BYTES_MAX);
    struct lam_flag flags[1 + LAM_ANSWER_FLAGS + 1] = {
        {"target", 0, LAM_FLAG_TEXT, &target, "ADDR", "HOST:PORT or unix:PATH of a gateway.", 0, 0,
            NULL, NULL},
    };
    const struct lam_flag_program program = {
        .usage = "laminar generate [--target HOST:PORT] [-p PROMPT] [flags]",
        .summary = "Generates text with the model that a gateway serves. The text, and nothing "
                   "else, goes to standard output.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_err err = {0};
    int exit_code;

    (void)env;
    lam_answer_add_flags(&options, flags + 1);
    if (!lam_command_begin(&program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    if (lam_answer_check(&options, &err) ||
        (!options.prompt && lam_answer_read_prompt(&prompt, &err)))
        exit_code = lam_command_usage(&err);
    else
        exit_code = execute(target, &options, options.prompt ? options.prompt : prompt.data);
    lam_buf_done(&prompt);
    return exit_code;
}
