/*
 * bench: `laminar bench NAME`, measurements of this machine, most of them with a real model. Each
 * is a file of its own, bench_NAME.c.
 */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

struct benchmark {
    const char *name;
    const char *summary;
    int (*run)(const struct lam_command_env *env, int argc, char **argv);
};

static const struct benchmark benchmarks[] = {
    {"generate", "text from a model, by the pass: time, share of the ceilings, memory",
        lam_bench_generate},
    {"link", "the way to a GPU's memory: how fast, how steady; needs no model", lam_bench_link},
    {"loader", "reading a model through the loader: speed beside fio, CPU time, hits",
        lam_bench_loader},
};

#define N_BENCHMARKS (sizeof benchmarks / sizeof benchmarks[0])

static int print_help(FILE *out)
{
    fprintf(out, "usage: laminar bench NAME [MODEL] [flags]\n\n"
                 "Measures this machine, most of it with a model.\n\n");
    for (size_t i = 0; i < N_BENCHMARKS; i++)
        fprintf(out, "  %-10s %s\n", benchmarks[i].name, benchmarks[i].summary);
    fprintf(out, "\n`laminar bench NAME --help` lists the flags.\n");
    return LAM_EXIT_OK;
}

int lam_command_bench(const struct lam_command_env *env, int argc, char **argv)
{
    struct lam_err err = {0};
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name) {
        print_help(stderr);
        return LAM_EXIT_USAGE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return print_help(stdout);
    for (size_t i = 0; i < N_BENCHMARKS; i++)
        if (strcmp(name, benchmarks[i].name) == 0)
            return benchmarks[i].run(env, argc - 1, argv + 1);
    lam_fail(&err, LAM_INVALID_ARGUMENT,
        "'%.64s' is no benchmark; `laminar bench --help` lists them", name);
    return lam_command_usage(&err);
}
