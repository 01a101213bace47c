/*
 * verify: `laminar verify`, is the model file still what it was at first sight? Reads all of it and
 * compares with the record that the loader keeps, or makes the record for a file that has none.
 * With --target the loader that serves the file does that, beside its work.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/model_file.h"
#include "cli/verify_report.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/file.h"
#include "loader/integrity.h"

#define BAR_CELLS 30
#define LINE_PERIOD_NS (5 * LAM_NS_PER_S) /* of plain lines */

struct options {
    const char *path;
    const char *cache;
    const char *target; /* NULL: read it here */
    struct lam_shard_flag shards;
    bool renew;
    bool json;
};

struct progress {
    bool is_terminal;
    uint64_t last_line_ns;
};

/* A bar on a terminal, a line now and then elsewhere. */
static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *progress = arg;
    uint64_t now_ns = lam_now_ns();
    char bar[BAR_CELLS + 1];
    char done[24];
    char total[24];
    uint64_t cells = total_bytes > 0 ? done_bytes * BAR_CELLS / total_bytes : 0;

    lam_size_format(done_bytes, done, sizeof done);
    lam_size_format(total_bytes, total, sizeof total);
    if (progress->is_terminal) {
        memset(bar, '.', BAR_CELLS);
        memset(bar, '#', cells);
        bar[BAR_CELLS] = '\0';
        if (done_bytes < total_bytes)
            fprintf(stderr, "\rverifying [%s] %s of %s \033[K", bar, done, total);
        else
            fprintf(stderr, "\r\033[K");
    } else if (now_ns - progress->last_line_ns >= LINE_PERIOD_NS) {
        progress->last_line_ns = now_ns;
        fprintf(stderr, "laminar: verified %s of %s\n", done, total);
    }
}

static enum lam_status read_file(const struct lam_file *file, struct lam_integrity *integrity,
    struct progress *progress, struct lam_verify_report *report, struct lam_err *err)
{
    struct lam_verify_config config = {.file = file,
        .integrity = integrity,
        .n_threads = LAM_VERIFY_THREADS_MAX,
        .on_progress = on_progress,
        .arg = progress};
    struct lam_verify_result *result = lam_calloc(1, sizeof *result);
    enum lam_status status;

    if (!result)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the result");
    status = lam_verify(&config, result, err);
    report->total_bytes = result->total_bytes;
    report->n_chunks = result->n_chunks;
    report->n_compared = result->n_compared;
    report->n_recorded = result->n_chunks - result->n_compared;
    report->n_different = result->n_different;
    report->n_places = result->n_places;
    for (uint32_t i = 0; i < result->n_places; i++) {
        report->places[i].offset = result->places[i].file_offset;
        report->places[i].bytes = result->places[i].bytes;
        lam_verify_name_part(&file->manifest, &result->places[i], report->places[i].part);
    }
    snprintf(report->record, sizeof report->record, "%s", lam_integrity_path(integrity));
    lam_free(result);
    return status;
}

static enum lam_status verify_here(const struct options *options, struct progress *progress,
    struct lam_verify_report *report, struct lam_err *err)
{
    struct lam_integrity *integrity = NULL;
    struct lam_file_dirs dirs = lam_shard_dirs(&options->shards);
    struct lam_file file;
    enum lam_status status = lam_file_open(options->path, &dirs, &file, err);

    if (status != LAM_OK)
        return status;
    status = lam_integrity_open(&file, options->cache, &integrity, err);
    if (status == LAM_OK && *lam_integrity_note(integrity))
        fprintf(stderr, "laminar: %s\n", lam_integrity_note(integrity));
    if (status == LAM_OK && options->renew)
        lam_integrity_forget(integrity);
    if (status == LAM_OK)
        status = read_file(&file, integrity, progress, report, err);
    if (status == LAM_OK)
        status = lam_integrity_save(integrity, err);
    lam_integrity_close(integrity);
    lam_file_close(&file);
    return status;
}

static enum lam_status print_json(const struct options *options,
    const struct lam_verify_report *report, double seconds, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *places = json_array();

    for (uint32_t i = 0; i < report->n_places; i++) {
        const struct lam_verify_place *place = &report->places[i];
        json_t *object = json_object();

        json_object_set_new(object, "offset", json_integer((json_int_t)place->offset));
        json_object_set_new(object, "bytes", json_integer((json_int_t)place->bytes));
        json_object_set_new(object, "part", lam_json_text(place->part, strlen(place->part)));
        json_array_append_new(places, object);
    }
    json_object_set_new(root, "path", lam_json_text(options->path, strlen(options->path)));
    json_object_set_new(root, "ok", json_boolean(report->n_different == 0));
    json_object_set_new(root, "bytes", json_integer((json_int_t)report->total_bytes));
    json_object_set_new(root, "seconds", json_real(seconds));
    json_object_set_new(root, "chunks", json_integer((json_int_t)report->n_chunks));
    json_object_set_new(root, "compared", json_integer((json_int_t)report->n_compared));
    json_object_set_new(root, "recorded", json_integer((json_int_t)report->n_recorded));
    json_object_set_new(root, "different", json_integer((json_int_t)report->n_different));
    json_object_set_new(root, "places", places);
    json_object_set_new(root, "record", lam_json_text(report->record, strlen(report->record)));
    return lam_json_print(root, err);
}

static void print_text(const struct lam_verify_report *report, double seconds)
{
    char size[24];

    for (uint32_t i = 0; i < report->n_places; i++)
        printf("differs       %" PRIu64 " bytes at %" PRIu64 " (%s)\n", report->places[i].bytes,
            report->places[i].offset, report->places[i].part);
    lam_size_format(report->total_bytes, size, sizeof size);
    if (report->n_different > 0)
        return;
    printf("ok            %s in %.1f s, %.2f GB/s\n", size, seconds,
        seconds > 0 ? (double)report->total_bytes / seconds / 1e9 : 0);
    if (report->n_compared > 0)
        printf("compared      %" PRIu64 " chunks are what they were at first sight\n",
            report->n_compared);
    if (report->n_recorded > 0)
        printf("recorded      %" PRIu64 " chunks, seen for the first time\n", report->n_recorded);
}

/* Where the loader keeps its records; "" without a home. */
static void default_cache(const struct lam_command_env *env, char text[PATH_MAX])
{
    text[0] = '\0';
    if (env->home && env->home[0] == '/' &&
        snprintf(text, PATH_MAX, "%s/.cache/laminar/integrity", env->home) >= PATH_MAX)
        text[0] = '\0';
}

static int print(
    const struct options *options, const struct lam_verify_report *report, double seconds)
{
    struct lam_err err = {0};

    if (options->json && print_json(options, report, seconds, &err))
        return lam_command_fail(&err);
    if (!options->json)
        print_text(report, seconds);
    if (report->n_different == 0)
        return LAM_EXIT_OK;
    lam_fail(&err, LAM_DATA_LOSS,
        "%" PRIu64 " of %" PRIu64 " chunks of %.200s are not what they were at first sight, and "
        "nobody wrote to the file: check the drive and the memory, then restore the file; "
        "--renew if it is right as it is",
        report->n_different, report->n_chunks, options->path);
    return lam_command_fail(&err);
}

static int execute(const struct options *options)
{
    struct progress progress = {.is_terminal = isatty(STDERR_FILENO) == 1};
    struct lam_verify_report *report = lam_calloc(1, sizeof *report);
    struct lam_err err = {0};
    enum lam_status status;
    uint64_t began_ns;
    int exit_code;

    if (!report) {
        lam_fail(&err, LAM_RESOURCE_EXHAUSTED, "no memory for the result");
        return lam_command_fail(&err);
    }
    began_ns = progress.last_line_ns = lam_now_ns();
    if (options->target)
        status =
            lam_verify_remote(options->target, options->path, on_progress, &progress, report, &err);
    else
        status = verify_here(options, &progress, report, &err);
    if (progress.is_terminal)
        fprintf(stderr, "\r\033[K");
    exit_code =
        status ? lam_command_fail(&err)
               : print(options, report, (double)(lam_now_ns() - began_ns) / (double)LAM_NS_PER_S);
    lam_free(report);
    return exit_code;
}

static const char *const epilog =
    "Examples:\n"
    "  laminar verify model.gguf\n"
    "  laminar verify model.gguf --renew         (the file was replaced on purpose)\n"
    "  laminar verify /models/model.gguf --target unix:/run/laminar/loader.sock";

int lam_command_verify(const struct lam_command_env *env, int argc, char **argv)
{
    char home_cache[PATH_MAX];
    struct options options = {0};
    struct lam_err err = {0};
    const struct lam_flag flags[] = {
        {"target", 0, LAM_FLAG_TEXT, &options.target, "ADDR",
            "Have the loader there read its model, MODEL as its --model has it, at a rate that "
            "leaves its workers their speed; HOST:PORT or unix:PATH.",
            0, 0, NULL, NULL},
        {"renew", 0, LAM_FLAG_BOOL, &options.renew, NULL,
            "Forget what the file was, and record what it is now.", 0, 0, NULL, NULL},
        {"integrity-cache", 0, LAM_FLAG_TEXT, &options.cache, "DIR",
            "Where the checksums are kept; default ~/.cache/laminar/integrity.", 0, 0, NULL, NULL},
        lam_shard_flag(&options.shards),
        {"json", 0, LAM_FLAG_BOOL, &options.json, NULL, "Print everything as one JSON object.", 0,
            0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar verify MODEL [flags]",
        .summary = "Reads a model file from the drive and compares it with what it was when it was "
                   "first read on this machine; a file that was never read is recorded. Exits 1 "
                   "when a byte differs.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    if (!lam_command_begin(&program, argc, argv, &options.path, 1, &exit_code))
        return exit_code;
    if (options.target && (options.renew || options.cache)) {
        lam_fail(&err, LAM_INVALID_ARGUMENT,
            "--target uses the loader's own record: leave out --renew and --integrity-cache, or "
            "--target");
        return lam_command_usage(&err);
    }
    if (!options.cache) {
        default_cache(env, home_cache);
        options.cache = home_cache;
    }
    return execute(&options);
}
