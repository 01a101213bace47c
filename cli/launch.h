/*
 * launch: where the services of a stack live (a private directory and the names in it) and with
 * which command lines they start. The binaries are looked for beside this program: in Bazel's
 * layout, or in one folder.
 */
#ifndef LAMINAR_CLI_LAUNCH_H
#define LAMINAR_CLI_LAUNCH_H

#include <stdbool.h>

#include "cli/child.h"
#include "cli/stack.h"
#include "common/status.h"

/* In the order of their start. */
enum lam_service { LAM_SERVICE_LOADER, LAM_SERVICE_GATEWAY, LAM_SERVICE_WORKER, LAM_SERVICES };

#define LAM_RUN_PATH_BYTES 108 /* what a Unix socket's address can hold */

/* The private directory (mode 0700) and the sockets in it. */
struct lam_run_dir {
    char path[LAM_RUN_PATH_BYTES];        /* "" : none */
    char loader[LAM_RUN_PATH_BYTES + 8];  /* "unix:<path>/loader.sock" */
    char gateway[LAM_RUN_PATH_BYTES + 8]; /* "unix:<path>/gateway.sock" */
    char pool[LAM_RUN_PATH_BYTES];        /* "<path>/pool.sock" */
    /* "unix:<path>/loader-ops.sock": operations ports, if the stack has them */
    char ops[LAM_SERVICES][LAM_RUN_PATH_BYTES + 8];
};

/*
 * Makes the directory in `parent`, or in /tmp when there is no parent, it cannot be written, or its
 * name is too long for sockets. Errors: those of mkdtemp.
 */
LAM_MUST_USE enum lam_status lam_run_dir_make(
    const char *parent, struct lam_run_dir *ret_dir, struct lam_err *err);

/* Does the service behind this "unix:" address accept connections by now? */
bool lam_run_dir_answers(const char *address);

/* Removes the directory and what services that were killed left in it. What is gone already is no
 * error. */
void lam_run_dir_remove(struct lam_run_dir *dir);

LAM_MUST_USE enum lam_status lam_launch(const struct lam_stack_config *config,
    const struct lam_run_dir *dir, enum lam_service service, struct lam_child *child,
    struct lam_err *err);

#endif
