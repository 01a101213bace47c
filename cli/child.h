/*
 * child: one service as a child process of `laminar`.
 *
 * The child dies with us (PR_SET_PDEATHSIG), stands in a process group of its own (Ctrl-C at the
 * terminal reaches us alone, and we decide), reads /dev/null, and writes both outputs into a pipe.
 * What it says is kept for the case that it fails.
 */
#ifndef LAMINAR_CLI_CHILD_H
#define LAMINAR_CLI_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/status.h"

#define LAM_CHILD_ARGS_MAX 64
#define LAM_CHILD_LINE_BYTES 1024

struct lam_child {
    const char *name;                                /* "loader": literal */
    void (*on_line)(void *arg, const char *message); /* each log message; may be NULL */
    void *on_line_arg;
    pid_t pid;                       /* 0: none, or already reaped */
    int pidfd;                       /* readable once it has ended */
    int log_fd;                      /* its stdout and stderr; -1 after the end */
    int wait_status;                 /* valid once pid is 0 */
    char line[LAM_CHILD_LINE_BYTES]; /* the line that is still coming in */
    size_t line_bytes;
    char last_line[LAM_CHILD_LINE_BYTES];  /* the last whole line */
    char last_error[LAM_CHILD_LINE_BYTES]; /* the last line of level error */
};

/* A zeroed child with no descriptors: what the functions below accept as "never spawned". */
struct lam_child lam_child_none(const char *name);

/*
 * Starts `path` with argv (NULL-terminated). Call from the main thread, before any gRPC object
 * exists: the child's life is tied to the calling thread. Errors: LAM_NOT_FOUND names the missing
 * binary; LAM_RESOURCE_EXHAUSTED and others of pipe, fork and exec.
 */
LAM_MUST_USE enum lam_status lam_child_spawn(
    struct lam_child *child, const char *path, char *const argv[], struct lam_err *err);

/* Takes what the pipe holds now; never blocks. verbose: copies it to stderr. */
void lam_child_read_log(struct lam_child *child, bool verbose);

/* Reaps it if it has ended. True when there is no process any more. */
bool lam_child_ended(struct lam_child *child);

/* Sends a signal to it, if it still runs. */
void lam_child_signal(const struct lam_child *child, int signal_number);

/* What a process holds in memory: alone, and together with others (the loader's pool). Zeros for a
 * process that has ended. */
struct lam_child_memory {
    uint64_t own_bytes;
    uint64_t shared_bytes;
};
struct lam_child_memory lam_child_memory_of(pid_t pid);

/* "the worker was killed by signal 9 (Killed); it last said: ...". After the end only. */
enum lam_status lam_child_explain(const struct lam_child *child, struct lam_err *err);

/* Closes the descriptors. The process must have ended. */
void lam_child_done(struct lam_child *child);

#endif
