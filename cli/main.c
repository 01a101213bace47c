/*
 * main: `laminar`, the command line. Picks the subcommand and reads the environment, which nothing
 * below does. Each subcommand is a file of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "common/log.h"

struct command {
    const char *name;
    const char *summary;
    int (*run)(const struct lam_command_env *env, int argc, char **argv);
};

static const struct command commands[] = {
    {"run", "generate text on this machine", lam_command_run},
    {"serve", "the same as a gRPC service that stays", lam_command_serve},
    {"generate", "ask a running service", lam_command_generate},
    {"inspect", "what a model file is", lam_command_inspect},
    {"plan", "what a run will take, and how fast it will be", lam_command_plan},
    {"tokenize", "text to token ids", lam_command_tokenize},
    {"logits", "the numbers behind the next token", lam_command_logits},
    {"verify", "is a model file still what it was", lam_command_verify},
    {"synth", "a model file of a given shape with random weights", lam_command_synth},
    {"bench", "how fast this machine runs a model", lam_command_bench},
    {"trace", "what the services do when, for Perfetto", lam_command_trace},
    {"ps", "what a service holds and how it is doing", lam_command_ps},
    {"doctor", "what this machine offers and lacks", lam_command_doctor},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

static int print_help(FILE *out)
{
    fprintf(out, "usage: laminar COMMAND [flags]\n\n"
                 "Runs language models that are bigger than the memory they are given.\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\nFirst steps, with any GGUF file:\n"
                 "  laminar run model.gguf -p \"Why is the sky blue?\"\n"
                 "  laminar plan model.gguf --ram 2GiB      (what that would take, and how long)\n"
                 "\n`laminar COMMAND --help` lists the flags. Exit codes: 0 done, 1 failed, "
                 "2 bad usage,\n3 does not fit.\n");
    return LAM_EXIT_OK;
}

int main(int argc, char **argv)
{
    struct lam_command_env env = {
        .home = getenv("HOME"),
        .runtime_dir = getenv("XDG_RUNTIME_DIR"),
    };
    struct lam_err err = {0};
    const char *name = argc > 1 ? argv[1] : NULL;

    lam_log_init("laminar", LAM_LOG_OFF); /* commands speak through stderr by themselves */
    if (!name) {
        print_help(stderr);
        return LAM_EXIT_USAGE;
    }
    if (strcmp(name, "help") == 0 && argc > 2) {
        static char help_flag[] = "--help";
        char *help_argv[] = {argv[2], help_flag, NULL};
        for (size_t i = 0; i < N_COMMANDS; i++)
            if (strcmp(argv[2], commands[i].name) == 0)
                return commands[i].run(&env, 2, help_argv);
        name = argv[2];
    } else if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 ||
               strcmp(name, "-h") == 0) {
        return print_help(stdout);
    } else if (strcmp(name, "--version") == 0) {
        printf("laminar %s\n", LAM_VERSION);
        return LAM_EXIT_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(&env, argc - 1, argv + 1);
    lam_fail(&err, LAM_INVALID_ARGUMENT, "'%.64s' is no command; `laminar help` lists them", name);
    return lam_command_usage(&err);
}
