/*
 * bench_loader: `laminar bench loader`, how fast a loader reads a model, beside fio on the same
 * file. Starts a loader as a child and takes the units from it as a worker does, in cyclic order
 * and without computing, so that nothing but the drive and the loader is in the way.
 *
 * Figures come from the loader's own counters at the two ends of a window: bytes that the drive
 * brought, processor time of its process. With fio, windows of both alternate, and each of ours is
 * compared with the one of fio that follows it: a drive's speed drifts.
 */
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/command.h"
#include "cli/fio.h"
#include "cli/json.h"
#include "cli/launch.h"
#include "cli/model_file.h"
#include "cli/progress.h"
#include "cli/stack.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/reals.h"
#include "common/size.h"
#include "loader/drives.h"
#include "model/kept.h"
#include "model/manifest.h"
#include "model/spec.h"
#include "worker/units.h"

#define UNIT_TIMEOUT_NS (120 * LAM_NS_PER_S)
#define LAPS_MAX 1000
#define WORKERS_MAX 8
#define FIO_FILES_BYTES_MAX LAM_MIB
#define ROUNDS 5u /* of ours and fio in turn */
#define WINDOW_NS (3 * LAM_NS_PER_S / 2)
#define FIO_MS_MIN 1500u
#define FIO_MS_MAX 10000u
#define SWEEPS 2u
#define SWEEP_MS 400u
#define QUIET_NS (50 * LAM_NS_PER_MS)

static const uint64_t sweep_blocks[] = {LAM_MIB / 4, LAM_MIB, 4 * LAM_MIB};
static const uint32_t sweep_depths[] = {8, 32, 64};

#define N_SWEEP_DEPTHS ((uint32_t)(sizeof sweep_depths / sizeof *sweep_depths))
#define N_SWEEP ((uint32_t)(sizeof sweep_blocks / sizeof *sweep_blocks) * N_SWEEP_DEPTHS)

/* The loader's counters at one moment. */
struct moment {
    uint64_t at_ns;
    uint64_t cpu_ns;
    struct lam_loader_stats stats;
};

struct window {
    double seconds;
    double bytes;
    double cpu_ns;
    uint32_t n_laps;
};

struct bench {
    const char *model;
    struct lam_stack_options options;
    const char *ram;
    const char *checksum;
    const char *engine;
    int64_t n_laps;
    int64_t n_workers;
    bool against_fio;
    bool json;

    char default_ram[32];
    uint64_t model_bytes; /* of all units */
    uint32_t n_units;
    struct lam_kept_table table; /* what a pool keeps of them */
    bool *kept;                  /* [n_units] scratch */
    uint64_t began_ns;
    uint64_t first_unit_ns; /* when a worker could use a unit; 0: not yet */
    struct lam_stack *stack;
    struct lam_progress *progress;
    struct lam_units *units[WORKERS_MAX];

    struct window cold;
    struct window laps[LAPS_MAX];
    uint32_t n_windows;
    struct lam_buf fio_files; /* all of the model */
    struct lam_fio_way fio_way;
    double fio[ROUNDS]; /* bytes per second */
    struct lam_loader_stats end;
};

static const char *const epilog = "Examples:\n"
                                  "  laminar bench loader model.gguf --ram 2GiB --laps 5\n"
                                  "  laminar bench loader model.gguf --against-fio --json\n"
                                  "  laminar bench loader model.gguf --against-fio --checksum off";

/* For so many the loader has room to stream. */
static int64_t bench_workers(const struct bench *bench)
{
    return bench->n_workers > 2 ? bench->n_workers : 2;
}

/* ---- one window ---- */

static enum lam_status look(struct bench *bench, struct moment *moment, struct lam_err *err)
{
    struct timespec cpu = {0};
    clockid_t clock;

    if (clock_getcpuclockid(lam_stack_loader_pid(bench->stack), &clock) == 0)
        lam_ignore(clock_gettime(clock, &cpu) != 0, "it has ended: the next call says so");
    moment->cpu_ns = (uint64_t)cpu.tv_sec * LAM_NS_PER_S + (uint64_t)cpu.tv_nsec;
    moment->at_ns = lam_now_ns();
    return lam_progress_stats(bench->progress, &moment->stats, err);
}

static struct window between(const struct moment *begin, const struct moment *end, uint32_t n_laps)
{
    return (struct window){.seconds = (double)(end->at_ns - begin->at_ns) / (double)LAM_NS_PER_S,
        .bytes = (double)(end->stats.disk_bytes - begin->stats.disk_bytes),
        .cpu_ns = (double)(end->cpu_ns - begin->cpu_ns),
        .n_laps = n_laps};
}

/* Every unit once: all workers have it, then all give it back. */
static enum lam_status walk(struct bench *bench, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (uint32_t u = 0; u < bench->n_units && !status; u++) {
        const void *base;
        int64_t n = 0;
        while (n < bench->n_workers && !status) {
            status = lam_units_acquire(bench->units[n], u, &base, err);
            n += !status;
        }
        if (bench->first_unit_ns == 0)
            bench->first_unit_ns = lam_now_ns();
        while (n > 0)
            lam_units_release(bench->units[--n], u);
    }
    return status;
}

/* Whole laps, one at least, until min_ns have passed. */
static enum lam_status walk_for(
    struct bench *bench, uint64_t min_ns, struct window *ret_window, struct lam_err *err)
{
    struct moment begin;
    struct moment end;
    uint32_t n_laps = 0;
    enum lam_status status = look(bench, &begin, err);

    while (!status && (n_laps == 0 || lam_now_ns() - begin.at_ns < min_ns)) {
        status = walk(bench, err);
        n_laps++;
    }
    if (!status)
        status = look(bench, &end, err);
    if (!status)
        *ret_window = between(&begin, &end, n_laps);
    return status;
}

/* Until what is read ahead is there, and the drive is fio's alone. */
static enum lam_status wait_quiet(struct bench *bench, struct lam_err *err)
{
    struct lam_loader_stats stats = {.disk_bytes = UINT64_MAX};
    enum lam_status status = LAM_OK;
    uint64_t before;

    do {
        before = stats.disk_bytes;
        status = lam_progress_stats(bench->progress, &stats, err);
        lam_sleep_ns(QUIET_NS);
    } while (!status && stats.disk_bytes != before);
    return status;
}

/* ---- measuring ---- */

static enum lam_status measure_laps(struct bench *bench, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (int64_t i = 0; i < bench->n_laps && !status; i++)
        status = walk_for(bench, 0, &bench->laps[bench->n_windows++], err);
    return status;
}

/* Twice, since the best of nine single tries is often the luckiest. */
static enum lam_status sweep_fio(struct bench *bench, struct lam_err *err)
{
    enum lam_status status = wait_quiet(bench, err);
    double sums[N_SWEEP] = {0};
    double best = 0;

    for (uint32_t i = 0; i < SWEEPS * N_SWEEP && !status; i++) {
        uint32_t w = i % N_SWEEP;
        struct lam_fio_way way = {
            sweep_blocks[w / N_SWEEP_DEPTHS], sweep_depths[w % N_SWEEP_DEPTHS]};
        double speed = 0;
        status = lam_fio_read(
            &bench->fio_files, &way, SWEEP_MS, lam_stack_end_fd(bench->stack), &speed, err);
        sums[w] += speed;
        if (!status && sums[w] > best) {
            best = sums[w];
            bench->fio_way = way;
        }
    }
    return status;
}

/* fio runs for as long as ours did. */
static enum lam_status measure_in_turn(struct bench *bench, struct lam_err *err)
{
    enum lam_status status = sweep_fio(bench, err);

    for (uint32_t i = 0; i < ROUNDS && !status; i++) {
        struct window *ours = &bench->laps[bench->n_windows++];
        uint32_t run_ms;

        status = walk_for(bench, WINDOW_NS, ours, err);
        if (!status)
            status = wait_quiet(bench, err);
        if (status)
            return status;
        run_ms = ours->seconds * 1000 < FIO_MS_MAX ? (uint32_t)(ours->seconds * 1000) : FIO_MS_MAX;
        run_ms = run_ms > FIO_MS_MIN ? run_ms : FIO_MS_MIN;
        status = lam_fio_read(&bench->fio_files, &bench->fio_way, run_ms,
            lam_stack_end_fd(bench->stack), &bench->fio[i], err);
    }
    return status;
}

/* The first lap counts from the loader's start: it begins to read before anybody asks. */
static enum lam_status measure(struct bench *bench, struct lam_err *err)
{
    const struct moment begin = {.at_ns = bench->began_ns};
    struct moment end;
    enum lam_status status = walk(bench, err);

    if (!status)
        status = look(bench, &end, err);
    if (status)
        return status;
    bench->cold = between(&begin, &end, 1);
    if (bench->against_fio && end.stats.pool_used_bytes >= bench->model_bytes)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "the pool holds the whole model, so that laps read nothing to compare with fio: give a "
            "smaller --ram");
    status = bench->against_fio ? measure_in_turn(bench, err) : measure_laps(bench, err);
    if (!status)
        status = lam_progress_stats(bench->progress, &bench->end, err);
    return status;
}

/* ---- figures ---- */

static double median(const double *values, uint32_t n)
{
    double sorted[LAPS_MAX];

    memcpy(sorted, values, n * sizeof *sorted);
    lam_reals_sort(sorted, n);
    return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static double spread(const double *values, uint32_t n)
{
    double least = values[0], most = values[0];

    for (uint32_t i = 1; i < n; i++) {
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    return (most - least) / median(values, n);
}

static double speed_of(const struct window *window)
{
    return window->seconds > 0 ? window->bytes / window->seconds / 1e9 : 0;
}

struct figures {
    double gbps;
    double fio_gbps, ratio;
    double fio_spread; /* of its rounds: largest less smallest, over the median */
    double cpu_ms_per_gb;
    double hit_ratio, hit_ratio_bound;
};

/* Units that the pool could keep, were it not for streaming: what drives read ahead of their turn
 * is there for their speed. */
static double units_held(const struct bench *bench)
{
    uint32_t n_lanes = (uint32_t)bench_workers(bench) + 1;
    struct lam_kept pool;

    lam_kept_choose(&bench->table, bench->end.pool_bytes, n_lanes, bench->kept, &pool);
    return (double)(bench->end.pool_bytes - pool.n_ahead * pool.slot_bytes) /
           (double)bench->model_bytes * bench->n_units;
}

static struct figures compute(const struct bench *bench)
{
    struct figures f = {0};
    double speeds[LAPS_MAX];
    double ratios[ROUNDS];
    struct window all = {0};
    const struct window *busy;
    bool reads;
    double n_held = units_held(bench);

    for (uint32_t i = 0; i < bench->n_windows; i++) {
        speeds[i] = speed_of(&bench->laps[i]);
        all.bytes += bench->laps[i].bytes;
        all.cpu_ns += bench->laps[i].cpu_ns;
        all.n_laps += bench->laps[i].n_laps;
    }
    /* Where laps read next to nothing, speed and cost are those of the first one. */
    reads = all.bytes > 0.01 * all.n_laps * (double)bench->model_bytes;
    busy = reads ? &all : &bench->cold;
    f.gbps = reads ? median(speeds, bench->n_windows) : speed_of(&bench->cold);
    f.cpu_ms_per_gb = busy->bytes > 0 ? busy->cpu_ns / 1e6 / (busy->bytes / 1e9) : 0;
    f.hit_ratio = 1 - all.bytes / ((double)all.n_laps * (double)bench->model_bytes);
    f.hit_ratio_bound =
        n_held >= bench->n_units ? 1 : ((double)(uint32_t)n_held - 1) / bench->n_units;
    f.hit_ratio_bound = f.hit_ratio_bound > 0 ? f.hit_ratio_bound : 0;
    for (uint32_t i = 0; bench->against_fio && i < ROUNDS; i++)
        ratios[i] = speeds[i] * 1e9 / bench->fio[i];
    if (bench->against_fio) {
        f.fio_gbps = median(bench->fio, ROUNDS) / 1e9;
        f.ratio = median(ratios, ROUNDS);
        f.fio_spread = spread(bench->fio, ROUNDS);
    }
    return f;
}

static enum lam_status print_json(const struct bench *bench, struct lam_err *err)
{
    struct figures f = compute(bench);
    bool fio = bench->against_fio;
    json_t *root = lam_json_begin();

    json_object_set_new(root, "gbps", json_real(f.gbps));
    json_object_set_new(root, "fio_gbps", fio ? json_real(f.fio_gbps) : json_null());
    json_object_set_new(root, "ratio_to_fio", fio ? json_real(f.ratio) : json_null());
    json_object_set_new(root, "fio_spread", fio ? json_real(f.fio_spread) : json_null());
    json_object_set_new(root, "cpu_ms_per_gb", json_real(f.cpu_ms_per_gb));
    json_object_set_new(root, "hit_ratio", json_real(f.hit_ratio));
    json_object_set_new(root, "hit_ratio_bound", json_real(f.hit_ratio_bound));
    json_object_set_new(root, "engine", json_string(bench->end.engine));
    json_object_set_new(root, "fixed_buffers", json_boolean(bench->end.fixed_buffers));
    json_object_set_new(root, "direct", json_boolean(bench->end.direct));
    json_object_set_new(root, "pool_ready_seconds", json_real(bench->end.pool_ready_seconds));
    return lam_json_print(root, err);
}

static void print_text(const struct bench *bench)
{
    struct figures f = compute(bench);
    char pool[24];
    char model[24];

    printf("model      %s in %" PRIu32 " units; pool %s (%s pages)\n",
        lam_size_format(bench->model_bytes, model, sizeof model), bench->n_units,
        lam_size_format(bench->end.pool_bytes, pool, sizeof pool), bench->end.pages);
    printf("engine     %s, %s, %s buffers, checksums %s\n", bench->end.engine,
        bench->end.direct ? "direct" : "through the page cache",
        bench->end.fixed_buffers ? "registered" : "plain", bench->checksum);
    printf(
        "start      first unit %.2f s after the process began, first lap after %.2f s: %.2f GB/s\n",
        (double)(bench->first_unit_ns - bench->began_ns) / (double)LAM_NS_PER_S,
        bench->cold.seconds, speed_of(&bench->cold));
    printf("memory     given by the machine in %.2f s\n", bench->end.pool_ready_seconds);
    printf("laps       %.3f GB/s, median of %" PRIu32 "\n", f.gbps, bench->n_windows);
    printf("processor  %.1f ms for each GB\n", f.cpu_ms_per_gb);
    printf("hits       %.4f of all bytes; a cyclic scan of this pool allows %.4f\n", f.hit_ratio,
        f.hit_ratio_bound);
    if (bench->against_fio)
        printf("fio        %.3f GB/s (%" PRIu64 " KiB, %" PRIu32
               " under way); ours / fio %.3f, median of %u pairs in turn\n",
            f.fio_gbps, bench->fio_way.block_bytes / LAM_KIB, bench->fio_way.depth, f.ratio,
            ROUNDS);
}

/* ---- life ---- */

static enum lam_status make_table(struct bench *bench, const struct lam_file *file,
    const struct lam_manifest *manifest, struct lam_err *err)
{
    uint32_t *drives = lam_calloc(manifest->n_units, sizeof *drives);

    bench->kept = lam_calloc(manifest->n_units, sizeof *bench->kept);
    if (!drives || !bench->kept ||
        !lam_kept_table_init(&bench->table, manifest->units, manifest->n_units, file->align)) {
        lam_free(drives);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of units");
    }
    lam_kept_table_set_drives(
        &bench->table, drives, lam_drives_group_units(file, manifest, NULL, 0, drives));
    lam_free(drives);
    return LAM_OK;
}

/* The size of the model, and half of it as the pool where nothing else was asked for. */
static enum lam_status measure_model(struct bench *bench, struct lam_err *err)
{
    struct lam_model_file file = {0};
    struct lam_manifest manifest = {0};
    struct lam_spec spec;
    enum lam_status status =
        lam_model_file_open(bench->model, &bench->options.plan.shards, &file, err);

    if (!status)
        status = lam_spec_read(file.gguf, &spec, err);
    if (!status)
        status = lam_manifest_build(file.gguf, &spec, &manifest, err);
    for (uint32_t p = 0; p < file.file.n_parts && bench->against_fio && !status; p++)
        status = lam_fio_add(&bench->fio_files, file.file.parts[p].path, err);
    if (!status)
        status = make_table(bench, &file.file, &manifest, err);
    bench->model_bytes = manifest.unit_bytes_total;
    bench->n_units = manifest.n_units;
    if (!bench->ram) {
        snprintf(bench->default_ram, sizeof bench->default_ram, "%" PRIu64 "KiB",
            manifest.unit_bytes_total / 2 / LAM_KIB + 1);
        bench->ram = bench->default_ram;
    }
    lam_manifest_done(&manifest);
    lam_model_file_close(&file);
    return status;
}

static void stop_units(void *arg)
{
    struct bench *bench = arg;

    for (int64_t i = 0; i < bench->n_workers; i++)
        lam_units_stop(bench->units[i]);
}

static enum lam_status connect_workers(struct bench *bench, struct lam_err *err)
{
    const struct lam_units_session every_unit = {0};
    const struct lam_units_config config = {
        .loader = lam_stack_loader(bench->stack),
        .pool_socket = lam_stack_pool_socket(bench->stack),
        .max_rows = 1,
        .layer_batch = 1,
        .timeout_ns = UNIT_TIMEOUT_NS,
    };
    enum lam_status status = LAM_OK;

    for (int64_t i = 0; i < bench->n_workers && !status; i++)
        status = lam_units_connect(&config, &bench->units[i], err);
    if (status)
        return status;
    lam_stack_on_end(bench->stack, stop_units, bench);
    for (int64_t i = 0; i < bench->n_workers && !status; i++)
        status = lam_units_open(bench->units[i], &every_unit, err);
    return status;
}

static enum lam_status wait_for_loader(struct bench *bench, struct lam_err *err)
{
    struct pollfd end = {.fd = lam_stack_end_fd(bench->stack), .events = POLLIN};

    while (!lam_run_dir_answers(lam_stack_loader(bench->stack)))
        if (poll(&end, 1, 5) == 1)
            return lam_fail(err, LAM_UNAVAILABLE, "the loader did not come up");
    return LAM_OK;
}

static enum lam_status connect_and_measure(struct bench *bench, struct lam_err *err)
{
    enum lam_status status = wait_for_loader(bench, err);

    if (!status)
        status = lam_progress_start(
            lam_stack_loader(bench->stack), bench->model_bytes, &bench->progress, err);
    if (status)
        return status;
    lam_progress_hide(bench->progress); /* its thread would cost time of its own */
    status = connect_workers(bench, err);
    if (!status)
        status = measure(bench, err);
    lam_stack_on_end(bench->stack, NULL, NULL);
    return status;
}

/* The size of the model is known. */
static int execute(struct bench *bench, const struct lam_command_env *env)
{
    char n_workers[24];
    const char *const loader_args[] = {"--ram", bench->ram, "--checksum", bench->checksum,
        "--engine", bench->engine, "--workers", n_workers, NULL};
    struct lam_stack_config config = {
        .model = bench->model,
        .runtime_dir = env->runtime_dir,
        .loader_only = true,
        .loader_args = loader_args,
        .options = &bench->options,
    };
    struct lam_err err = {0};
    enum lam_status status;
    bool no_fit = false;
    int interrupted;

    snprintf(n_workers, sizeof n_workers, "%" PRId64, bench_workers(bench));
    bench->began_ns = lam_now_ns();
    status = lam_stack_start(&config, &bench->stack, &err);
    if (!status)
        status = connect_and_measure(bench, &err);
    if (status && bench->stack)
        no_fit = lam_stack_blame(bench->stack, &err) == LAM_RESOURCE_EXHAUSTED;
    for (int64_t i = 0; i < bench->n_workers; i++)
        lam_units_destroy(bench->units[i]);
    lam_progress_destroy(bench->progress);
    interrupted = lam_stack_stop(bench->stack);
    if (interrupted)
        lam_stack_die_by(interrupted);
    if (!status && bench->json)
        status = print_json(bench, &err);
    else if (!status)
        print_text(bench);
    if (no_fit)
        return lam_command_no_fit(&err);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

int lam_bench_loader(const struct lam_command_env *env, int argc, char **argv)
{
    struct bench bench = {.options = lam_stack_defaults(),
        .checksum = "on",
        .engine = "auto",
        .n_laps = 3,
        .n_workers = 1,
        .fio_files = LAM_BUF(FIO_FILES_BYTES_MAX)};
    const struct lam_flag flags[] = {
        {"ram", 0, LAM_FLAG_TEXT, &bench.ram, "SIZE",
            "Memory of the loader; default: half of the model.", 0, 0, NULL, NULL},
        {"laps", 0, LAM_FLAG_INT, &bench.n_laps, "N",
            "How often to go through the model after the first time.", 1, LAPS_MAX, NULL, NULL},
        {"workers", 0, LAM_FLAG_INT, &bench.n_workers, "N",
            "Workers that take the same unit at the same time, as a group in phase does.", 1,
            WORKERS_MAX, NULL, NULL},
        {"against-fio", 0, LAM_FLAG_BOOL, &bench.against_fio, NULL,
            "Find fio's best block size and queue depth for these files, then read with the loader "
            "and with fio in turn, five times, instead of --laps. fio reads all shards in turns.",
            0, 0, NULL, NULL},
        {"checksum", 0, LAM_FLAG_CHOICE, &bench.checksum, "STATE",
            "Whether the loader compares what it reads.", 0, 0, "on|off", NULL},
        {"engine", 0, LAM_FLAG_CHOICE, &bench.engine, "ENGINE", "How the loader reads.", 0, 0,
            "auto|io_uring|pread", NULL},
        lam_shard_flag(&bench.options.plan.shards),
        {"json", 0, LAM_FLAG_BOOL, &bench.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {"verbose", 0, LAM_FLAG_BOOL, &bench.options.verbose, NULL,
            "Show the loader's log on stderr.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar bench loader MODEL [flags]",
        .summary = "Starts a loader and takes every layer from it as a worker does, in a circle "
                   "and without computing, and measures: GB/s from the drive, processor time for "
                   "each GB, the share of bytes that cost no read.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_err err = {0};
    int exit_code;

    if (!lam_command_begin(&program, argc, argv, &bench.model, 1, &exit_code))
        return exit_code;
    exit_code = measure_model(&bench, &err) ? lam_command_fail(&err) : execute(&bench, env);
    lam_buf_done(&bench.fio_files);
    lam_kept_table_done(&bench.table);
    lam_free(bench.kept);
    return exit_code;
}
