/* laminar-loader: the process around loader.h: flags, limits, signals, exit codes. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/flag.h"
#include "common/log.h"
#include "loader/loader.h"

#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define EXIT_NO_ROOM 3

struct flags {
    struct lam_flag_list models;
    const char *listen;
    const char *pool_socket;
    const char *ram;
    const char *engine;
    const char *checksum;
    const char *integrity_cache;
    const char *run_dir;
    const char *log_level;
};

static enum lam_status parse_flags(
    int argc, char **argv, struct flags *flags, bool *ret_help, struct lam_err *err)
{
    const struct lam_flag table[] = {
        {.name = "model",
            .kind = LAM_FLAG_LIST,
            .target = &flags->models,
            .value = "PATH",
            .help = "A model: a GGUF file. It is read in place, never changed or copied. Several "
                    "models divide the memory by their size."},
        {.name = "listen",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->listen,
            .value = "ADDRESS",
            .help = "Where workers connect with gRPC: unix:PATH, or HOST:PORT."},
        {.name = "pool-socket",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->pool_socket,
            .value = "PATH",
            .help = "Unix socket that hands the shared memory over to workers."},
        {.name = "ram",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->ram,
            .value = "SIZE",
            .help = "Size of the shared memory: 3GiB, 75% of all memory, or auto: what the model "
                    "needs, up to three quarters of what is available."},
        {.name = "engine",
            .kind = LAM_FLAG_CHOICE,
            .target = &flags->engine,
            .value = "ENGINE",
            .help = "How to read; auto takes io_uring where the machine allows it.",
            .choices = "auto|io_uring|pread"},
        {.name = "checksum",
            .kind = LAM_FLAG_CHOICE,
            .target = &flags->checksum,
            .value = "STATE",
            .help = "Compare everything that is read with what it was at first sight. off is for "
                    "measuring the difference.",
            .choices = "on|off"},
        {.name = "integrity-cache",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->integrity_cache,
            .value = "DIR",
            .help = "Where checksums are kept from run to run; default "
                    "~/.cache/laminar/integrity."},
        {.name = "run-dir",
            .kind = LAM_FLAG_TEXT,
            .target = &flags->run_dir,
            .value = "DIR",
            .help = "Directory of the sockets, removed at the end if it is empty."},
        {.name = "log-level",
            .kind = LAM_FLAG_CHOICE,
            .target = &flags->log_level,
            .value = "LEVEL",
            .help = "Least severe lines to write.",
            .choices = "debug|info|warn|error|off"},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar-loader --model PATH [flags]",
        .summary =
            "Reads the layers of a model from disk into shared memory, ahead of the workers of "
            "this machine, which compute straight out of it. The memory may be much smaller "
            "than the model: as many layers as fit stay in it, the others stream through.",
        .flags = table,
        .epilog = "Example: laminar-loader --model llama-8b.gguf --ram 3GiB "
                  "--listen unix:/run/laminar/loader.sock --pool-socket /run/laminar/pool.sock\n",
    };
    size_t n_operands;
    enum lam_status status =
        lam_flag_parse(&program, argc, argv, NULL, 0, &n_operands, ret_help, err);

    if (status == LAM_OK && *ret_help)
        lam_flag_print_help(&program);
    if (status == LAM_OK && !*ret_help && flags->models.n == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--model is missing: give the path of a GGUF file, or --help");
    return status;
}

static enum lam_reader_choice engine_of(const char *text)
{
    if (strcmp(text, "io_uring") == 0)
        return LAM_READER_IO_URING;
    return strcmp(text, "pread") == 0 ? LAM_READER_PREAD : LAM_READER_AUTO;
}

static struct rlimit hard(struct rlimit limit)
{
    limit.rlim_cur = limit.rlim_max;
    return limit;
}

/* The soft limits that matter go up to the hard ones; the parts that need more say so themselves.
 */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) { /* registered buffers */
        limit = hard(limit);
        lam_ignore(setrlimit(RLIMIT_MEMLOCK, &limit), "plain buffers are slower, and work");
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit = hard(limit);
        lam_ignore(setrlimit(RLIMIT_NOFILE, &limit), "the server checks what it needs");
    }
}

/* ~/.cache/laminar/integrity in text, or NULL without a home. */
static const char *default_cache(char *text, size_t text_bytes)
{
    const char *home = getenv("HOME");
    int length;

    if (home == NULL || home[0] != '/')
        return NULL;
    length = snprintf(text, text_bytes, "%s/.cache/laminar/integrity", home);
    return length > 0 && (size_t)length < text_bytes ? text : NULL;
}

/* Until a signal or a failure. */
static enum lam_status wait_for_end(struct lam_loader *loader, int signal_fd, struct lam_err *err)
{
    struct pollfd waits[2] = {{.fd = signal_fd, .events = POLLIN},
        {.fd = lam_loader_failure_fd(loader), .events = POLLIN}};

    while (poll(waits, 2, -1) < 0) {
        if (errno != EINTR)
            return lam_fail_errno(err, errno, "cannot wait for signals");
    }
    if (waits[0].revents != 0)
        lam_info("told to stop");
    return lam_loader_failure(loader, err);
}

static int exit_code(enum lam_status status)
{
    if (status == LAM_OK)
        return 0;
    return status == LAM_RESOURCE_EXHAUSTED ? EXIT_NO_ROOM : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    const char *models[LAM_LOADER_MODELS_MAX];
    struct flags flags = {.models = {.items = models, .max = LAM_LOADER_MODELS_MAX},
        .listen = "unix:/run/laminar/loader.sock",
        .pool_socket = "/run/laminar/pool.sock",
        .ram = "auto",
        .engine = "auto",
        .checksum = "on",
        .log_level = "info"};
    struct lam_loader_config config;
    char cache[PATH_MAX];
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};
    enum lam_log_level level;
    enum lam_status status;
    sigset_t signals;
    int signal_fd;
    bool help;

    if (parse_flags(argc, argv, &flags, &help, &err) != LAM_OK) {
        fprintf(stderr, "laminar-loader: %s\n", err.text);
        return EXIT_USAGE;
    }
    if (help)
        return 0;
    lam_ignore(lam_log_level_parse(flags.log_level, &level), "the flag table allows levels only");
    lam_log_init("loader", level);

    /* Blocked before any thread exists, so that they all inherit it. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    raise_limits();

    config = (struct lam_loader_config){.models = flags.models.items,
        .n_models = flags.models.n,
        .listen = &flags.listen,
        .n_listen = 1,
        .pool_socket = flags.pool_socket,
        .ram = flags.ram,
        .engine = engine_of(flags.engine),
        .no_checksums = strcmp(flags.checksum, "off") == 0,
        .integrity_cache = flags.integrity_cache != NULL ? flags.integrity_cache
                                                         : default_cache(cache, sizeof(cache))};
    status = lam_loader_create(&config, &loader, &err);
    if (status == LAM_OK)
        status = wait_for_end(loader, signal_fd, &err);
    if (status != LAM_OK)
        lam_error("%s", err.text);
    lam_loader_destroy(loader);
    close(signal_fd);
    if (flags.run_dir != NULL)
        lam_ignore(rmdir(flags.run_dir), "the other services' sockets may still be in it");
    return exit_code(status);
}
