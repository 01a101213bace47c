/*
 * program: what the programs of Laminar do alike at their edges: how a command line begins, exit
 * codes, the line that says what went wrong; and for the services the flags, the signals and the
 * end that all of them have. For main files and the command line: it writes to stderr.
 */
#ifndef LAMINAR_COMMON_PROGRAM_H
#define LAMINAR_COMMON_PROGRAM_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/flag.h"
#include "common/status.h"

#define LAM_VERSION "0.1.0"

enum lam_exit {
    LAM_EXIT_OK = 0,
    LAM_EXIT_FAILED = 1,
    LAM_EXIT_USAGE = 2,  /* a bad flag or operand; nothing was started */
    LAM_EXIT_NO_FIT = 3, /* the model does not fit into the memory that it was given */
};

/* Rows of a service's table of flags. text: const char **. */
#define LAM_PROGRAM_LOG_LEVEL(text)                                                                \
    {                                                                                              \
        .name = "log-level", .kind = LAM_FLAG_CHOICE, .target = (text), .value = "LEVEL",          \
        .help = "Least severe lines to write.", .choices = "debug|info|warn|error|off"             \
    }
#define LAM_PROGRAM_RUN_DIR(text)                                                                  \
    {                                                                                              \
        .name = "run-dir", .kind = LAM_FLAG_TEXT, .target = (text), .value = "DIR",                \
        .help = "Directory of the sockets, removed at the end if it is empty."                     \
    }
/* text: const char **, NULL by default. record: bool *. */
#define LAM_PROGRAM_OPS(text)                                                                      \
    {                                                                                              \
        .name = "ops", .kind = LAM_FLAG_TEXT, .target = (text), .value = "ADDRESS",                \
        .help = "Where /metrics, /healthz and /trace answer over HTTP: HOST:PORT, for example "    \
                "127.0.0.1:9464, or unix:PATH; without it there is no such port."                  \
    }
#define LAM_PROGRAM_RECORD(record)                                                                 \
    {                                                                                              \
        .name = "record", .kind = LAM_FLAG_BOOL, .target = (record),                               \
        .help = "Record what happens when, from the start on, for `laminar trace --since-start`; " \
                "the newest 65,536 spans are kept."                                                \
    }

/*
 * Parses the line; exactly n_operands operands, named in the program's usage, are wanted.
 * name: what an error line and the version begin with, "laminar-loader". True: go on. False: help,
 * the version or an error was printed and *ret_exit is the exit code.
 */
bool lam_program_begin(const char *name, const struct lam_flag_program *program, int argc,
    char **argv, const char **operands, size_t n_operands, int *ret_exit);

/* The same for 0 to operands_max operands, of which there are *ret_n. */
bool lam_program_begin_list(const char *name, const struct lam_flag_program *program, int argc,
    char **argv, const char **operands, size_t operands_max, size_t *ret_n, int *ret_exit);

/* "<name>: <text>" on stderr, with '?' for what could steer a terminal. Returns `code`. */
int lam_program_fail(const char *name, const struct lam_err *err, enum lam_exit code);

/*
 * A service begins: its log, and its signals. SIGTERM and SIGINT stay blocked in this thread and in
 * all that it starts; ret_stop is their set, for whoever waits for them. SIGPIPE is ignored. Before
 * any other thread. log_level: of LAM_PROGRAM_LOG_LEVEL (asserted).
 */
void lam_program_start(const char *component, const char *log_level, sigset_t *ret_stop);

/*
 * A service has ended. LAM_OK: it was told to; run_dir (NULL: none) is removed if nobody's socket
 * is left in it. Otherwise the reason is logged as its last line, and the directory stays: a
 * service that fails at its start must not take it from the others, who have yet to listen in it.
 */
void lam_program_end(const char *run_dir, enum lam_status status, const struct lam_err *err);

#endif
