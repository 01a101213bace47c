/* stack: see stack.h. */
#include "cli/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "common/clock.h"
#include "common/mem.h"

#define TERM_GRACE_NS (15 * LAM_NS_PER_S) /* from SIGTERM to SIGKILL; the gateway's own is 10 s */
#define SHORT_GRACE_NS (2 * LAM_NS_PER_S) /* the same when nothing is left to finish */
#define MAIN_GRACE_NS (3 * LAM_NS_PER_S)  /* for the main thread to notice the end */
#define BLAME_MS 1000 /* a broken connection is noticed before the end of its process */
#define POLL_MS 100

struct lam_stack {
    struct lam_child children[LAM_SERVICES]; /* the watcher's, once it runs */
    struct lam_run_dir dir;
    pid_t pids[LAM_SERVICES]; /* as they were started, for those who only look */
    bool verbose;
    bool drains;
    int signal_fd;
    int stop_fd; /* main asks the watcher to end the stack */
    int end_fd;  /* the watcher says that the end has begun */
    sigset_t old_mask;
    bool mask_changed;
    pthread_t watcher;
    bool has_watcher;

    pthread_mutex_t lock; /* of what follows */
    bool ended;
    int interrupted;    /* signal number */
    int port;           /* of the public address; 0: not known */
    struct lam_err why; /* of a child's death; status LAM_OK for none */
    void (*on_end)(void *arg);
    void *on_end_arg;
};

struct lam_stack_options lam_stack_defaults(void)
{
    return (struct lam_stack_options){.plan = lam_plan_options_defaults(), .kernels = "cpu"};
}

void lam_stack_add_flags(struct lam_stack_options *options, struct lam_flag *flags)
{
    const struct lam_flag table[LAM_STACK_FLAGS - LAM_PLAN_FLAGS] = {
        {"threads", 0, LAM_FLAG_INT, &options->n_threads, "N", "Threads; 0: one per core.", 0, 1024,
            NULL, NULL},
        {"kernels", 0, LAM_FLAG_CHOICE, &options->kernels, "NAME",
            "On a CPU: cpu is fast; ref is slow and exact.", 0, 0, "cpu|ref", NULL},
        {"cuda-library", 0, LAM_FLAG_TEXT, &options->cuda_library, "FOLDER",
            "Where liblaminar-cuda.so is, if not beside this program or in ../lib.", 0, 0, NULL,
            NULL},
        {"verbose", 0, LAM_FLAG_BOOL, &options->verbose, NULL, "Show the services' logs on stderr.",
            0, 0, NULL, NULL},
    };

    lam_plan_options_add_flags(&options->plan, flags);
    memcpy(flags + LAM_PLAN_FLAGS, table, sizeof table);
}

int lam_stack_plan(const struct lam_stack_options *options, const char *model, const char *home,
    uint32_t n_seqs, struct lam_run_plan *ret_plan)
{
    const struct lam_run_plan_config config = {.model = model,
        .home = home,
        .cuda_library = options->cuda_library,
        .n_seqs = n_seqs,
        .options = &options->plan};

    return lam_run_plan_make(&config, ret_plan);
}

static void post(int event_fd)
{
    uint64_t one = 1;
    ssize_t n;

    do
        n = write(event_fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
}

/* Which signal came, 0 for none. */
static int take_signal(struct lam_stack *stack)
{
    struct signalfd_siginfo info;

    if (read(stack->signal_fd, &info, sizeof info) != (ssize_t)sizeof info)
        return 0;
    return (int)info.ssi_signo;
}

/* Sleeps until something happens, at most POLL_MS, and takes the logs. */
static void wait_for_events(struct lam_stack *stack)
{
    struct pollfd fds[2 + 2 * LAM_SERVICES] = {
        {.fd = stack->signal_fd, .events = POLLIN},
        {.fd = stack->stop_fd, .events = POLLIN},
    };

    for (int i = 0; i < LAM_SERVICES; i++) {
        const struct lam_child *child = &stack->children[i];
        fds[2 + 2 * i] = (struct pollfd){child->pid > 0 ? child->pidfd : -1, POLLIN, 0};
        fds[3 + 2 * i] = (struct pollfd){child->log_fd, POLLIN, 0};
    }
    if (poll(fds, 2 + 2 * LAM_SERVICES, POLL_MS) < 0 && errno != EINTR)
        lam_sleep_ns(POLL_MS * LAM_NS_PER_MS);
    for (int i = 0; i < LAM_SERVICES; i++)
        lam_child_read_log(&stack->children[i], stack->verbose);
}

static bool stop_requested(const struct lam_stack *stack)
{
    struct pollfd fd = {.fd = stack->stop_fd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

/* A child that was started and has ended, or NULL. */
static struct lam_child *find_dead(struct lam_stack *stack)
{
    for (int i = 0; i < LAM_SERVICES; i++) {
        struct lam_child *child = &stack->children[i];
        if (child->pid > 0 && lam_child_ended(child)) {
            lam_child_read_log(child, stack->verbose); /* its last words */
            return child;
        }
    }
    return NULL;
}

static void announce_end(struct lam_stack *stack, int signal_number, const struct lam_child *dead)
{
    pthread_mutex_lock(&stack->lock);
    stack->ended = true;
    stack->interrupted = signal_number;
    if (dead)
        lam_child_explain(dead, &stack->why);
    if (stack->on_end)
        stack->on_end(stack->on_end_arg);
    stack->on_end = NULL;
    pthread_mutex_unlock(&stack->lock);
    post(stack->end_fd);
}

static bool all_ended(struct lam_stack *stack)
{
    bool all = true;

    for (int i = 0; i < LAM_SERVICES; i++)
        all = lam_child_ended(&stack->children[i]) && all;
    return all;
}

/*
 * Orderly: the gateway goes first and may let its generations end, for which it needs the others.
 * Else all go at once. SIGKILL after the grace period or a second signal.
 */
static void end_children(struct lam_stack *stack, bool orderly)
{
    static const enum lam_service order[LAM_SERVICES] = {
        LAM_SERVICE_GATEWAY, LAM_SERVICE_WORKER, LAM_SERVICE_LOADER};
    uint64_t kill_at_ns = lam_now_ns() + (orderly ? TERM_GRACE_NS : SHORT_GRACE_NS);
    int n_told = 0;

    while (!all_ended(stack)) {
        while (n_told < LAM_SERVICES &&
               (!orderly || n_told == 0 || stack->children[order[n_told - 1]].pid == 0))
            lam_child_signal(&stack->children[order[n_told++]], SIGTERM);
        if (take_signal(stack) || lam_now_ns() >= kill_at_ns)
            for (int i = 0; i < LAM_SERVICES; i++)
                lam_child_signal(&stack->children[i], SIGKILL);
        /* stop_fd may be readable for good by now: sleep, do not poll for it. */
        lam_sleep_ns(5 * LAM_NS_PER_MS);
        for (int i = 0; i < LAM_SERVICES; i++)
            lam_child_read_log(&stack->children[i], stack->verbose);
    }
}

/*
 * The main thread does not come to stop the stack: it hangs, in a write to a full pipe, or in a
 * library that ran out of memory. Everything is cleaned up; what is left is to end as main would
 * have.
 */
static void end_process(const struct lam_stack *stack)
{
    if (!stack->interrupted)
        _exit(lam_command_fail(&stack->why));
    lam_stack_die_by(stack->interrupted);
}

static void *watch(void *arg)
{
    struct lam_stack *stack = arg;
    struct lam_child *dead = NULL;
    int signal_number = 0;
    uint64_t give_up_ns;

    while (!dead && !signal_number && !stop_requested(stack)) {
        wait_for_events(stack);
        signal_number = take_signal(stack);
        dead = find_dead(stack);
    }
    announce_end(stack, signal_number, dead);
    end_children(stack, stack->drains && !dead);
    lam_run_dir_remove(&stack->dir);
    give_up_ns = lam_now_ns() + MAIN_GRACE_NS;
    while (!stop_requested(stack) && lam_now_ns() < give_up_ns)
        lam_sleep_ns(10 * LAM_NS_PER_MS);
    if (!stop_requested(stack))
        end_process(stack);
    return NULL;
}

/* The gateway says "listening on 127.0.0.1:0, port 40123": the only way to learn a port that it
 * picked. */
static void on_gateway_line(void *arg, const char *message)
{
    struct lam_stack *stack = arg;
    const char *port = strstr(message, ", port ");
    int64_t number = 0;

    if (strncmp(message, "listening on ", 13) != 0 || !port ||
        !lam_int_parse(port + strlen(", port "), 1, 65535, &number))
        return;
    pthread_mutex_lock(&stack->lock);
    stack->port = (int)number;
    pthread_mutex_unlock(&stack->lock);
}

static enum lam_status start_watcher(struct lam_stack *stack, struct lam_err *err)
{
    int code = pthread_create(&stack->watcher, NULL, watch, stack);

    if (code)
        return lam_fail_errno(err, code, "cannot start a thread");
    stack->has_watcher = true;
    return LAM_OK;
}

/* From here on signals go to the descriptor. A write to a closed pipe is an error, no signal. */
static enum lam_status take_signals(struct lam_stack *stack, struct lam_err *err)
{
    sigset_t mask;
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    lam_command_end_signals(&mask);
    sigaction(SIGPIPE, &ignore, NULL);
    pthread_sigmask(SIG_BLOCK, &mask, &stack->old_mask);
    stack->mask_changed = true;
    stack->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    stack->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    stack->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stack->signal_fd < 0 || stack->stop_fd < 0 || stack->end_fd < 0)
        return lam_fail_errno(err, errno, "cannot make event descriptors");
    return LAM_OK;
}

enum lam_status lam_stack_start(
    const struct lam_stack_config *config, struct lam_stack **ret_stack, struct lam_err *err)
{
    static const char *const names[LAM_SERVICES] = {"loader", "gateway", "worker"};
    struct lam_stack *stack = lam_calloc(1, sizeof *stack);
    int n_services = config->loader_only ? 1 : LAM_SERVICES;

    if (!stack)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to start the services");
    pthread_mutex_init(&stack->lock, NULL);
    stack->verbose = config->options->verbose;
    stack->drains = config->drains;
    stack->signal_fd = stack->stop_fd = stack->end_fd = -1;
    for (int i = 0; i < LAM_SERVICES; i++)
        stack->children[i] = lam_child_none(names[i]);
    stack->children[LAM_SERVICE_GATEWAY].on_line = on_gateway_line;
    stack->children[LAM_SERVICE_GATEWAY].on_line_arg = stack;
    if (take_signals(stack, err) || lam_run_dir_make(config->runtime_dir, &stack->dir, err))
        goto fail;
    for (int i = 0; i < n_services; i++) {
        if (lam_launch(config, &stack->dir, (enum lam_service)i, &stack->children[i], err))
            goto fail;
        stack->pids[i] = stack->children[i].pid;
    }
    if (start_watcher(stack, err))
        goto fail;
    *ret_stack = stack;
    return LAM_OK;
fail:
    lam_stack_stop(stack);
    return err->status;
}

const char *lam_stack_gateway(const struct lam_stack *stack)
{
    return stack->dir.gateway;
}

const char *lam_stack_loader(const struct lam_stack *stack)
{
    return stack->dir.loader;
}

const char *lam_stack_pool_socket(const struct lam_stack *stack)
{
    return stack->dir.pool;
}

void lam_stack_ops(const struct lam_stack *stack, const char *addresses[LAM_STACK_OPS])
{
    addresses[0] = stack->dir.ops[LAM_SERVICE_GATEWAY];
    addresses[1] = stack->dir.ops[LAM_SERVICE_WORKER];
    addresses[2] = stack->dir.ops[LAM_SERVICE_LOADER];
}

pid_t lam_stack_loader_pid(const struct lam_stack *stack)
{
    return stack->pids[LAM_SERVICE_LOADER];
}

int lam_stack_port(struct lam_stack *stack)
{
    int port;

    pthread_mutex_lock(&stack->lock);
    port = stack->port;
    pthread_mutex_unlock(&stack->lock);
    return port;
}

uint64_t lam_stack_resident_bytes(const struct lam_stack *stack)
{
    struct lam_child_memory loader = lam_child_memory_of(stack->pids[LAM_SERVICE_LOADER]);
    struct lam_child_memory worker = lam_child_memory_of(stack->pids[LAM_SERVICE_WORKER]);

    return loader.own_bytes + worker.own_bytes + lam_stack_pool_bytes(stack);
}

uint64_t lam_stack_pool_bytes(const struct lam_stack *stack)
{
    struct lam_child_memory loader = lam_child_memory_of(stack->pids[LAM_SERVICE_LOADER]);
    struct lam_child_memory worker = lam_child_memory_of(stack->pids[LAM_SERVICE_WORKER]);

    return loader.shared_bytes > worker.shared_bytes ? loader.shared_bytes : worker.shared_bytes;
}

void lam_stack_on_end(struct lam_stack *stack, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&stack->lock);
    if (fn && stack->ended)
        fn(arg);
    stack->on_end = stack->ended ? NULL : fn;
    stack->on_end_arg = arg;
    pthread_mutex_unlock(&stack->lock);
}

int lam_stack_end_fd(const struct lam_stack *stack)
{
    return stack->end_fd;
}

enum lam_status lam_stack_check(struct lam_stack *stack, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    pthread_mutex_lock(&stack->lock);
    if (stack->interrupted) {
        status = lam_fail(err, LAM_CANCELLED, "interrupted by signal %d", stack->interrupted);
    } else if (stack->why.status) {
        *err = stack->why;
        status = err->status;
    }
    pthread_mutex_unlock(&stack->lock);
    return status;
}

enum lam_status lam_stack_blame(struct lam_stack *stack, struct lam_err *err)
{
    struct pollfd end = {.fd = stack->end_fd, .events = POLLIN};
    struct lam_err cause = {0};
    enum lam_status status = LAM_OK;

    /* Other statuses are answers, and whoever answers is alive. */
    bool broken = err->status == LAM_UNAVAILABLE || err->status == LAM_CANCELLED ||
                  err->status == LAM_UNKNOWN || err->status == LAM_INTERNAL;

    if (poll(&end, 1, broken ? BLAME_MS : 0) == 1)
        status = lam_stack_check(stack, &cause);
    if (status)
        *err = cause;
    return status;
}

int lam_stack_stop(struct lam_stack *stack)
{
    int interrupted;

    if (!stack)
        return 0;
    if (stack->has_watcher) {
        post(stack->stop_fd);
        pthread_join(stack->watcher, NULL);
    } else if (stack->signal_fd >= 0) {
        end_children(stack, false);
        lam_run_dir_remove(&stack->dir);
    }
    interrupted = stack->interrupted;
    for (int i = 0; i < LAM_SERVICES; i++)
        lam_child_done(&stack->children[i]);
    if (stack->mask_changed)
        pthread_sigmask(SIG_SETMASK, &stack->old_mask, NULL);
    if (stack->signal_fd >= 0)
        close(stack->signal_fd);
    if (stack->stop_fd >= 0)
        close(stack->stop_fd);
    if (stack->end_fd >= 0)
        close(stack->end_fd);
    pthread_mutex_destroy(&stack->lock);
    lam_free(stack);
    return interrupted;
}

void lam_stack_die_by(int signal_number)
{
    sigset_t one;

    signal(signal_number, SIG_DFL);
    sigemptyset(&one);
    sigaddset(&one, signal_number);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    kill(getpid(), signal_number);
}
