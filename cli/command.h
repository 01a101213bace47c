/*
 * command: what all subcommands of `laminar` share: the entry points, the exit codes, the way a
 * command line begins and an error ends.
 *
 * stdout carries the result and nothing else; every other word goes to stderr.
 */
#ifndef LAMINAR_CLI_COMMAND_H
#define LAMINAR_CLI_COMMAND_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/flag.h"
#include "common/program.h"
#include "common/status.h"

/* What main reads from the environment; each may be NULL. */
struct lam_command_env {
    const char *home;
    const char *runtime_dir; /* $XDG_RUNTIME_DIR */
};

/* The subcommands: argv[0] is the subcommand's name. Each returns the process's exit code. */
int lam_command_run(const struct lam_command_env *env, int argc, char **argv);
int lam_command_serve(const struct lam_command_env *env, int argc, char **argv);
int lam_command_generate(const struct lam_command_env *env, int argc, char **argv);
int lam_command_inspect(const struct lam_command_env *env, int argc, char **argv);
int lam_command_plan(const struct lam_command_env *env, int argc, char **argv);
int lam_command_tokenize(const struct lam_command_env *env, int argc, char **argv);
int lam_command_logits(const struct lam_command_env *env, int argc, char **argv);
int lam_command_verify(const struct lam_command_env *env, int argc, char **argv);
int lam_command_bench(const struct lam_command_env *env, int argc, char **argv);
int lam_command_synth(const struct lam_command_env *env, int argc, char **argv);
int lam_command_trace(const struct lam_command_env *env, int argc, char **argv);
int lam_command_ps(const struct lam_command_env *env, int argc, char **argv);
int lam_command_doctor(const struct lam_command_env *env, int argc, char **argv);

/* The benchmarks: argv[0] is the benchmark's name, as in `laminar bench NAME`. */
int lam_bench_generate(const struct lam_command_env *env, int argc, char **argv);
int lam_bench_link(const struct lam_command_env *env, int argc, char **argv);
int lam_bench_loader(const struct lam_command_env *env, int argc, char **argv);

/*
 * Parses the line; exactly n_operands operands, named in the program's usage, are wanted.
 * True: go on. False: help or an error was printed and *ret_exit is the exit code.
 */
bool lam_command_begin(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t n_operands, int *ret_exit);

/* The same for 0 to operands_max operands, of which there are *ret_n. */
bool lam_command_begin_list(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t operands_max, size_t *ret_n, int *ret_exit);

/* "laminar: <text>" on stderr. Returns LAM_EXIT_FAILED, LAM_EXIT_NO_FIT or LAM_EXIT_USAGE. */
int lam_command_fail(const struct lam_err *err);
int lam_command_no_fit(const struct lam_err *err);
int lam_command_usage(const struct lam_err *err);

/* The signals that ask a program to end, but for those that whoever started us has ignored on
 * purpose: nohup, or a shell's background job. */
void lam_command_end_signals(sigset_t *ret_signals);

/* Names of a stranger's file or service must not steer a terminal: '?' for control characters. */
void lam_command_print_clean(FILE *out, const char *text, size_t n_bytes);

/*
 * Text of arguments and files, checked before it travels: UTF-8 without NUL, which is what the
 * services take. what: for the error, "--system". Errors: LAM_INVALID_ARGUMENT with the byte's
 * position.
 */
LAM_MUST_USE enum lam_status lam_command_check_text(
    const char *what, const char *text, size_t n_bytes, struct lam_err *err);

#endif
