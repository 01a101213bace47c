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

#include "common/clock.h"
#include "common/flag.h"
#include "common/log.h"
#include "common/program.h"
#include "common/trace.h"
#include "loader/loader.h"

#define PROGRAM_NAME "laminar-loader"

struct options {
    struct lam_flag_list models;
    struct lam_flag_list mirrors;
    struct lam_flag_list shard_dirs;
    const char *listen;
    const char *pool_socket;
    const char *ops;
    const char *ram;
    const char *engine;
    const char *checksum;
    const char *integrity_cache;
    const char *io_cache;
    const char *run_dir;
    const char *log_level;
    int64_t n_workers;
    bool record;
    int64_t read_deadline_s;
    bool require_io_uring;
};

#define MIRRORS_MAX (LAM_JOBS_COPIES_MAX - 1)
#define SHARD_DIRS_MAX 64u

static const char *models[LAM_LOADER_MODELS_MAX];
static const char *mirrors[MIRRORS_MAX];
static const char *shard_dirs[SHARD_DIRS_MAX];

/* The defaults; written by lam_flag_parse, read-only afterwards. */
static struct options given = {.models = {.items = models, .max = LAM_LOADER_MODELS_MAX},
    .mirrors = {.items = mirrors, .max = MIRRORS_MAX},
    .shard_dirs = {.items = shard_dirs, .max = SHARD_DIRS_MAX},
    .listen = "unix:/run/laminar/loader.sock",
    .pool_socket = "/run/laminar/pool.sock",
    .ram = "auto",
    .engine = "auto",
    .checksum = "on",
    .log_level = "info",
    .n_workers = 2,
    .read_deadline_s = 30};
static const struct lam_flag flags[] = {
    {.name = "model",
        .kind = LAM_FLAG_LIST,
        .target = &given.models,
        .value = "PATH",
        .help = "A model: a GGUF file, or the first of its shards (NAME-00001-of-00003.gguf). It "
                "is read in place, never changed or copied. Several models divide the memory by "
                "their size."},
    {.name = "shards",
        .kind = LAM_FLAG_LIST,
        .target = &given.shard_dirs,
        .value = "DIR",
        .help = "A directory with shards of a model that are not beside the first, say on another "
                "drive. May be given several times."},
    {.name = "mirror",
        .kind = LAM_FLAG_LIST,
        .target = &given.mirrors,
        .value = "DIR",
        .help = "A directory on another drive with a copy of each model, under the same name. "
                "Reads are spread over all copies by the speed of their drives."},
    {.name = "listen",
        .kind = LAM_FLAG_TEXT,
        .target = &given.listen,
        .value = "ADDRESS",
        .help = "Where workers connect with gRPC: unix:PATH, or HOST:PORT."},
    {.name = "pool-socket",
        .kind = LAM_FLAG_TEXT,
        .target = &given.pool_socket,
        .value = "PATH",
        .help = "Unix socket that hands the shared memory over to workers."},
    LAM_PROGRAM_OPS(&given.ops),
    LAM_PROGRAM_RECORD(&given.record),
    {.name = "ram",
        .kind = LAM_FLAG_TEXT,
        .target = &given.ram,
        .value = "SIZE",
        .help = "Size of the shared memory: 3GiB, 75% of all memory, free-1GiB for what is "
                "available less a margin, or auto: what the model needs, up to three quarters of "
                "what is available."},
    {.name = "workers",
        .kind = LAM_FLAG_INT,
        .target = &given.n_workers,
        .value = "N",
        .help = "Workers of one model at a time. Each is sure of room for one layer that streams; "
                "more than two take that much more of --ram.",
        .min = 1,
        .max = LAM_SLOTS_SESSIONS_MAX},
    {.name = "engine",
        .kind = LAM_FLAG_CHOICE,
        .target = &given.engine,
        .value = "ENGINE",
        .help = "How to read; auto takes io_uring where the machine allows it.",
        .choices = "auto|io_uring|pread"},
    {.name = "require-io-uring",
        .kind = LAM_FLAG_BOOL,
        .target = &given.require_io_uring,
        .help = "Refuse to start where io_uring cannot be used, as --engine io_uring does, instead "
                "of reading with more CPU time."},
    {.name = "read-deadline",
        .kind = LAM_FLAG_INT,
        .target = &given.read_deadline_s,
        .value = "SECONDS",
        .help = "A drive that does not answer a request for so long is stuck: the layer fails with "
                "a status, and is tried again.",
        .min = 1,
        .max = 3600},
    {.name = "checksum",
        .kind = LAM_FLAG_CHOICE,
        .target = &given.checksum,
        .value = "STATE",
        .help = "Compare everything that is read with what it was at first sight. off is for "
                "measuring the difference.",
        .choices = "on|off"},
    {.name = "integrity-cache",
        .kind = LAM_FLAG_TEXT,
        .target = &given.integrity_cache,
        .value = "DIR",
        .help = "Where checksums are kept from run to run; default "
                "~/.cache/laminar/integrity."},
    {.name = "io-cache",
        .kind = LAM_FLAG_TEXT,
        .target = &given.io_cache,
        .value = "DIR",
        .help = "Where the best request size and queue depth of each drive are kept, which are "
                "measured at the first start; default ~/.cache/laminar/io."},
    LAM_PROGRAM_RUN_DIR(&given.run_dir),
    LAM_PROGRAM_LOG_LEVEL(&given.log_level),
    {0},
};
static const struct lam_flag_program program = {
    .usage = "laminar-loader --model PATH [flags]",
    .summary = "Reads the layers of a model from disk into shared memory, ahead of the workers of "
               "this machine, which compute straight out of it. The memory may be much smaller "
               "than the model: as many layers as fit stay in it, the others stream through.",
    .flags = flags,
    .epilog = "Example: laminar-loader --model llama-8b.gguf --ram 3GiB "
              "--listen unix:/run/laminar/loader.sock --pool-socket /run/laminar/pool.sock",
};

/* False: *ret_exit is the exit code. */
static bool parse_flags(int argc, char **argv, int *ret_exit)
{
    struct lam_err err = {0};

    if (!lam_program_begin(PROGRAM_NAME, &program, argc, argv, NULL, 0, ret_exit))
        return false;
    if (given.models.n == 0)
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--model is missing: give the path of a GGUF file, or --help");
    else if (given.require_io_uring && strcmp(given.engine, "pread") == 0)
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--require-io-uring and --engine pread exclude each other: leave one out");
    if (err.status != LAM_OK)
        *ret_exit = lam_program_fail(PROGRAM_NAME, &err, LAM_EXIT_USAGE);
    return err.status == LAM_OK;
}

static enum lam_reader_choice engine_of(const char *text)
{
    if (given.require_io_uring || strcmp(text, "io_uring") == 0)
        return LAM_READER_IO_URING;
    return strcmp(text, "pread") == 0 ? LAM_READER_PREAD : LAM_READER_AUTO;
}

static struct rlimit hard(struct rlimit limit)
{
    limit.rlim_cur = limit.rlim_max;
    return limit;
}

/* The soft limits that matter go up to the hard ones; parts that need more say so themselves. */
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

/* ~/.cache/laminar/NAME in text, or NULL without a home. */
static const char *default_cache(const char *name, char *text, size_t text_bytes)
{
    const char *home = getenv("HOME");
    int length;

    if (home == NULL || home[0] != '/')
        return NULL;
    length = snprintf(text, text_bytes, "%s/.cache/laminar/%s", home, name);
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

int main(int argc, char **argv)
{
    struct lam_loader_config config;
    struct lam_trace_mark mark = {0};
    char integrity_cache[PATH_MAX], io_cache[PATH_MAX];
    struct lam_loader *loader = NULL;
    struct lam_err err = {0};
    enum lam_status status;
    sigset_t stop;
    int signal_fd;
    int exit_code;

    if (!parse_flags(argc, argv, &exit_code))
        return exit_code;
    lam_program_start("loader", given.log_level, &stop);
    signal_fd = signalfd(-1, &stop, SFD_CLOEXEC);
    raise_limits();
    if (given.record)
        mark = lam_trace_start();

    config = (struct lam_loader_config){.models = given.models.items,
        .n_models = given.models.n,
        .listen = &given.listen,
        .n_listen = 1,
        .pool_socket = given.pool_socket,
        .ops = given.ops,
        .record = given.record ? &mark : NULL,
        .ram = given.ram,
        .share = {.n_workers = (uint32_t)given.n_workers,
            .engine = engine_of(given.engine),
            .mirrors = given.mirrors.items,
            .n_mirrors = given.mirrors.n,
            .shard_dirs = {.items = given.shard_dirs.items, .n = given.shard_dirs.n},
            .io_cache = given.io_cache != NULL ? given.io_cache
                                               : default_cache("io", io_cache, sizeof(io_cache)),
            .read_deadline_ns = (uint64_t)given.read_deadline_s * LAM_NS_PER_S},
        .no_checksums = strcmp(given.checksum, "off") == 0,
        .integrity_cache =
            given.integrity_cache != NULL
                ? given.integrity_cache
                : default_cache("integrity", integrity_cache, sizeof(integrity_cache))};
    status = lam_loader_create(&config, &loader, &err);
    if (status == LAM_OK)
        status = wait_for_end(loader, signal_fd, &err);
    lam_loader_destroy(loader);
    close(signal_fd);
    lam_program_end(given.run_dir, status, &err);
    if (status == LAM_OK)
        return LAM_EXIT_OK;
    return err.no_fit ? LAM_EXIT_NO_FIT : LAM_EXIT_FAILED;
}
