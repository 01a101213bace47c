/*
 * stack: the services of one model on this machine, as child processes on Unix sockets in a private
 * directory: loader, worker, gateway, or the loader alone.
 *
 * One thread watches: signals (SIGINT, SIGTERM, SIGHUP are blocked everywhere else), the ends of
 * the children, their logs. Whatever happens first ends the stack: the children are told, then
 * killed, and the directory goes. If the main thread does not notice (it may hang in a write to a
 * full pipe), the watcher ends the process. When we are killed outright, the children get SIGTERM
 * from the kernel and remove the directory themselves (--run-dir).
 */
#ifndef LAMINAR_CLI_STACK_H
#define LAMINAR_CLI_STACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cli/run_plan.h"
#include "common/flag.h"
#include "common/status.h"

struct lam_stack;

/* What the user may say about the services: flags of `run`, `serve`, `logits` and `bench`. */
struct lam_stack_options {
    struct lam_plan_options plan;
    int64_t n_threads;
    const char *kernels;
    const char *cuda_library; /* folder; NULL: where it is installed */
    bool verbose;
};

#define LAM_STACK_FLAGS (LAM_PLAN_FLAGS + 4)

struct lam_stack_options lam_stack_defaults(void);

/* Fills flags[0, LAM_STACK_FLAGS) for these options. */
void lam_stack_add_flags(struct lam_stack_options *options, struct lam_flag *flags);

/* lam_run_plan_make for these options. n_seqs: as there. */
int lam_stack_plan(const struct lam_stack_options *options, const char *model, const char *home,
    uint32_t n_seqs, struct lam_run_plan *ret_plan);

struct lam_stack_config {
    const char *model;       /* path */
    const char *runtime_dir; /* where the private directory goes; NULL: /tmp */
    const char *listen;      /* the gateway's public address; NULL: only the private one */
    bool loader_only;
    bool ops;                        /* operations ports; lam_stack_ops tells where */
    bool record;                     /* spans for them, from the start */
    const char *const *loader_args;  /* more flags for the loader, ends with NULL; or NULL */
    bool drains;                     /* at a signal, generations that run may end first */
    const struct lam_run_plan *plan; /* which fits; NULL for a loader alone that needs none */
    const struct lam_stack_options *options;
};

/*
 * Starts the processes and returns at once; they come up on their own. Call from the main thread
 * before any gRPC object exists. Errors: those of starting a process; then nothing is left behind.
 */
LAM_MUST_USE enum lam_status lam_stack_start(
    const struct lam_stack_config *config, struct lam_stack **ret_stack, struct lam_err *err);

/* gRPC addresses and the pool socket's path; live as long as the stack. */
const char *lam_stack_gateway(const struct lam_stack *stack);
const char *lam_stack_loader(const struct lam_stack *stack);
const char *lam_stack_pool_socket(const struct lam_stack *stack);

/* The operations ports, as for lam_ops_get, in this order: gateway, worker, loader; live as long as
 * the stack. */
#define LAM_STACK_OPS 3
void lam_stack_ops(const struct lam_stack *stack, const char *addresses[LAM_STACK_OPS]);

/* The loader's process, for what the system knows about it. */
pid_t lam_stack_loader_pid(const struct lam_stack *stack);

/* The port of the public address, once the gateway has told it; 0 before, and for Unix sockets. */
int lam_stack_port(struct lam_stack *stack);

/* What loader and worker hold in memory, the pool counted once. */
uint64_t lam_stack_resident_bytes(const struct lam_stack *stack);

/* Of the pool, what is in memory. */
uint64_t lam_stack_pool_bytes(const struct lam_stack *stack);

/*
 * Calls fn(arg) once, on the watcher's thread, when the stack comes to its end; at once if it has.
 * fn must not block nor call into the stack. NULL takes the function back: afterwards it does not
 * run.
 */
void lam_stack_on_end(struct lam_stack *stack, void (*fn)(void *arg), void *arg);

/* A descriptor that becomes readable when the stack comes to its end. */
int lam_stack_end_fd(const struct lam_stack *stack);

/*
 * LAM_OK while everything runs; LAM_CANCELLED after a signal; else what happened to which child:
 * LAM_RESOURCE_EXHAUSTED when it said that the model does not fit, LAM_UNAVAILABLE.
 */
LAM_MUST_USE enum lam_status lam_stack_check(struct lam_stack *stack, struct lam_err *err);

/*
 * After a failed call on a service: if the stack comes to its end within a moment, replaces *err by
 * the cause, since "the connection broke" is not what a user should read. Returns the status of
 * lam_stack_check: LAM_OK when the stack runs on and *err is as it was.
 */
enum lam_status lam_stack_blame(struct lam_stack *stack, struct lam_err *err);

/*
 * Ends the children and removes the directory. Returns the signal that interrupted us, 0 for none.
 * NULL is allowed.
 */
int lam_stack_stop(struct lam_stack *stack);

/* After the stop: ends this process by the signal, as shells expect of an interrupted command. */
void lam_stack_die_by(int signal_number);

#endif
