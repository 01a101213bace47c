/*
 * verify: `laminar verify`, is the model file still what it was at first sight? Reads all of it and
 * compares with the record that the loader keeps, or makes the record for a file that has none.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/json.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/file.h"
#include "loader/integrity.h"
#include "loader/verify.h"

#define BAR_CELLS 30
#define LINE_PERIOD_NS (5 * LAM_NS_PER_S) /* of plain lines */
#define PLACE_BYTES 48

struct verification {
    const char *path;
    struct lam_file file;
    bool file_open;
    struct lam_integrity *integrity;
    struct lam_verify_result *result;
    struct lam_integrity_counts before, after;
    bool is_terminal;
    uint64_t began_ns;
    uint64_t last_line_ns;
    double seconds;
};

/* A bar on a terminal, a line now and then elsewhere. */
static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct verification *v = arg;
    uint64_t now_ns = lam_now_ns();
    char bar[BAR_CELLS + 1];
    char done[24];
    char total[24];
    uint64_t cells = total_bytes > 0 ? done_bytes * BAR_CELLS / total_bytes : 0;

    lam_size_format(done_bytes, done, sizeof done);
    lam_size_format(total_bytes, total, sizeof total);
    if (v->is_terminal) {
        memset(bar, '.', BAR_CELLS);
        memset(bar, '#', cells);
        bar[BAR_CELLS] = '\0';
        if (done_bytes < total_bytes)
            fprintf(stderr, "\rverifying [%s] %s of %s \033[K", bar, done, total);
        else
            fprintf(stderr, "\r\033[K");
    } else if (now_ns - v->last_line_ns >= LINE_PERIOD_NS) {
        v->last_line_ns = now_ns;
        fprintf(stderr, "laminar: verified %s of %s\n", done, total);
    }
}

static enum lam_status verify(
    struct verification *v, const char *cache, bool renew, struct lam_err *err)
{
    struct lam_verify_config config = {.on_progress = on_progress, .arg = v};
    enum lam_status status = lam_file_open(v->path, &v->file, err);

    v->file_open = status == LAM_OK;
    if (v->file_open)
        status = lam_integrity_open(&v->file, cache, &v->integrity, err);
    v->result = lam_calloc(1, sizeof *v->result);
    if (status == LAM_OK && !v->result)
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the result");
    if (status != LAM_OK)
        return status;
    if (*lam_integrity_note(v->integrity))
        fprintf(stderr, "laminar: %s\n", lam_integrity_note(v->integrity));
    if (renew)
        lam_integrity_forget(v->integrity);
    lam_integrity_count(v->integrity, &v->before);
    config.file = &v->file;
    config.integrity = v->integrity;
    v->began_ns = v->last_line_ns = lam_now_ns();
    status = lam_verify(&config, v->result, err);
    v->seconds = (double)(lam_now_ns() - v->began_ns) / (double)LAM_NS_PER_S;
    if (v->is_terminal)
        fprintf(stderr, "\r\033[K");
    lam_integrity_count(v->integrity, &v->after);
    if (status == LAM_OK)
        status = lam_integrity_save(v->integrity, err);
    return status;
}

/* "layer 3", "head 0", "embedding": what lies at that offset. */
static const char *name_place(const struct lam_manifest *manifest,
    const struct lam_record_chunk *place, char text[PLACE_BYTES])
{
    bool in_embedding =
        manifest->embedding.file_offset <= place->file_offset &&
        place->file_offset - manifest->embedding.file_offset < manifest->embedding.bytes;

    for (uint32_t u = 0; u < manifest->n_units; u++) {
        const struct lam_unit *unit = &manifest->units[u];

        if (place->file_offset < unit->file_offset ||
            !lam_size_range_ok(place->file_offset - unit->file_offset, place->bytes, unit->bytes))
            continue;
        snprintf(text, PLACE_BYTES, "%s %" PRIu32, unit->kind == LAM_UNIT_LAYER ? "layer" : "head",
            unit->layer);
        return text;
    }
    return in_embedding ? "embedding" : "norms";
}

static enum lam_status print_json(const struct verification *v, struct lam_err *err)
{
    const struct lam_verify_result *result = v->result;
    json_t *root = lam_json_begin();
    json_t *places = json_array();
    char text[PLACE_BYTES];

    for (uint32_t i = 0; i < result->n_places; i++)
        json_array_append_new(
            places, json_pack("{s:I,s:I,s:s}", "offset", (json_int_t)result->places[i].file_offset,
                        "bytes", (json_int_t)result->places[i].bytes, "part",
                        name_place(&v->file.manifest, &result->places[i], text)));
    json_object_set_new(root, "path", lam_json_text(v->path, strlen(v->path)));
    json_object_set_new(root, "ok", json_boolean(result->n_different == 0));
    json_object_set_new(root, "bytes", json_integer((json_int_t)result->total_bytes));
    json_object_set_new(root, "seconds", json_real(v->seconds));
    json_object_set_new(root, "chunks", json_integer((json_int_t)v->after.chunks));
    json_object_set_new(root, "compared", json_integer((json_int_t)v->before.known));
    json_object_set_new(root, "recorded", json_integer((json_int_t)v->after.recorded));
    json_object_set_new(root, "different", json_integer((json_int_t)result->n_different));
    json_object_set_new(root, "places", places);
    json_object_set_new(root, "record",
        lam_json_text(lam_integrity_path(v->integrity), strlen(lam_integrity_path(v->integrity))));
    return lam_json_print(root, err);
}

static void print_text(const struct verification *v)
{
    const struct lam_verify_result *result = v->result;
    char size[24];
    char text[PLACE_BYTES];

    for (uint32_t i = 0; i < result->n_places; i++)
        printf("differs       %" PRIu64 " bytes at %" PRIu64 " (%s)\n", result->places[i].bytes,
            result->places[i].file_offset, name_place(&v->file.manifest, &result->places[i], text));
    lam_size_format(result->total_bytes, size, sizeof size);
    if (result->n_different > 0)
        return;
    printf("ok            %s in %.1f s, %.2f GB/s\n", size, v->seconds,
        v->seconds > 0 ? (double)result->total_bytes / v->seconds / 1e9 : 0);
    if (v->before.known > 0)
        printf("compared      %" PRIu64 " chunks are what they were at first sight\n",
            v->before.known);
    if (v->after.recorded > 0)
        printf("recorded      %" PRIu64 " chunks, seen for the first time\n", v->after.recorded);
}

/* Where the loader keeps its records; "" without a home. */
static void default_cache(const struct lam_command_env *env, char text[PATH_MAX])
{
    text[0] = '\0';
    if (env->home && env->home[0] == '/' &&
        snprintf(text, PATH_MAX, "%s/.cache/laminar/integrity", env->home) >= PATH_MAX)
        text[0] = '\0';
}

static int report(const struct verification *v, bool json)
{
    struct lam_err err = {0};

    if (json && print_json(v, &err))
        return lam_command_fail(&err);
    if (!json)
        print_text(v);
    if (v->result->n_different == 0)
        return LAM_EXIT_OK;
    lam_fail(&err, LAM_DATA_LOSS,
        "%" PRIu64 " of %" PRIu64 " chunks of %.200s are not what they were at first sight, and "
        "nobody wrote to the file: check the drive and the memory, then restore the file; "
        "--renew if it is right as it is",
        v->result->n_different, v->after.chunks, v->path);
    return lam_command_fail(&err);
}

int lam_command_verify(const struct lam_command_env *env, int argc, char **argv)
{
    struct verification v = {.is_terminal = isatty(STDERR_FILENO) == 1};
    struct lam_err err = {0};
    char home_cache[PATH_MAX];
    const char *cache = home_cache;
    bool json = false;
    bool renew = false;
    const struct lam_flag flags[] = {
        {"renew", 0, LAM_FLAG_BOOL, &renew, NULL,
            "Forget what the file was, and record what it is now.", 0, 0, NULL, NULL},
        {"integrity-cache", 0, LAM_FLAG_TEXT, &cache, "DIR",
            "Where the checksums are kept; default ~/.cache/laminar/integrity.", 0, 0, NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &json, NULL, "Print everything as one JSON object.", 0, 0, NULL,
            NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar verify MODEL [flags]",
        .summary = "Reads a model file from the drive and compares it with what it was when it was "
                   "first read on this machine; a file that was never read is recorded. Exits 1 "
                   "when a byte differs.",
        .flags = flags,
    };
    int exit_code;

    default_cache(env, home_cache);
    if (!lam_command_begin(&program, argc, argv, &v.path, 1, &exit_code))
        return exit_code;
    exit_code = verify(&v, cache, renew, &err) ? lam_command_fail(&err) : report(&v, json);
    lam_free(v.result);
    lam_integrity_close(v.integrity);
    if (v.file_open)
        lam_file_close(&v.file);
    return exit_code;
}
