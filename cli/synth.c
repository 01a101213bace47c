/* synth: `laminar synth`, a model file of a given shape with random weights: for benchmarks and for
 * planning, without a download. What it generates is noise, but it is computed like any model. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/stack.h"
#include "cli/synth_model.h"
#include "cli/synth_shards.h"
#include "cli/synth_write.h"
#include "common/clock.h"
#include "common/size.h"
#include "model/preset.h"

#define BAR_CELLS 30

struct synth {
    const char *preset;
    const char *type;
    const char *split_max_size;
    int64_t n_layers;
    int64_t seed;
    bool json;
    bool is_terminal;
    uint64_t began_ns;
    struct lam_synth_output output;
};

static const char *const epilog =
    "Shapes are those of the models they are named after, with as many tokens in the vocabulary;\n"
    "tiny (4 layers, 14 MiB in f32) and small (8 layers) are for tests. Norms are 1 and matrices\n"
    "are scaled so that activations stay near 1 through all layers and logits are neither flat\n"
    "nor certain. The same flags give the same bytes.\n\n"
    "Types: all matrices have the one that is named, but in the K types the head has q6_k, as in\n"
    "files of llama.cpp (and with it the embedding where a shape uses it as its head). q4_k_m is\n"
    "q4_k with q6_k for the value and down matrices of half of the layers, as in such files. K\n"
    "types need rows of a multiple of 256 weights.\n\n"
    "Examples:\n"
    "  laminar synth --preset llama3-8b --type bf16 -o 8b.gguf\n"
    "  laminar synth --preset llama3-70b --type q4_k --layers 8 -o part.gguf\n"
    "  laminar synth --preset llama3-8b --split-max-size 2GiB -o 8b.gguf\n"
    "  laminar synth --preset llama3.1-405b --type q4_k_m --sparse -o plan.gguf";

static double seconds_since(uint64_t then_ns)
{
    return (double)(lam_now_ns() - then_ns) / (double)LAM_NS_PER_S;
}

static void draw(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct synth *synth = arg;
    char bar[BAR_CELLS + 1];
    char done[24];
    char total[24];
    uint64_t cells = done_bytes * BAR_CELLS / total_bytes;
    double seconds = seconds_since(synth->began_ns);

    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', cells);
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\rwriting [%s] %s of %s, %.2f GB/s \033[K", bar,
        lam_size_format(done_bytes, done, sizeof done),
        lam_size_format(total_bytes, total, sizeof total),
        seconds > 0 ? (double)done_bytes / seconds / 1e9 : 0);
}

static enum lam_status print_result(
    const struct synth *synth, const struct lam_synth_shards *shards, struct lam_err *err)
{
    const struct lam_synth_model *model = shards->model;
    const struct lam_spec *spec = &model->spec;
    char path[PATH_MAX] = "";
    double seconds = seconds_since(synth->began_ns);
    char bytes[24];
    json_t *root;
    uint64_t total_bytes = 0;

    for (uint32_t i = 0; i < shards->n; i++)
        total_bytes += shards->items[i].file_bytes;
    if (!lam_synth_shards_path(shards, synth->output.path, 0, path, sizeof path))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the path of the file is too long");
    if (!synth->json) {
        printf("%s: %s, %u layers, %.1f M weights, %s%s, %s", path, spec->name, spec->n_layers,
            (double)model->n_weights / 1e6, synth->type,
            synth->output.sparse ? " (header only)" : "",
            lam_size_format(total_bytes, bytes, sizeof bytes));
        if (shards->n > 1)
            printf(" in %u files", shards->n);
        printf(" in %.1f s\n", seconds);
        return LAM_OK;
    }
    root = lam_json_begin();
    json_object_set_new(root, "path", lam_json_text(path, strlen(path)));
    json_object_set_new(root, "files", json_integer(shards->n));
    json_object_set_new(root, "preset", json_string(synth->preset));
    json_object_set_new(root, "type", json_string(synth->type));
    json_object_set_new(root, "seed", json_integer(synth->seed));
    json_object_set_new(root, "layers", json_integer(spec->n_layers));
    json_object_set_new(root, "weights", json_integer((json_int_t)model->n_weights));
    json_object_set_new(root, "bytes", json_integer((json_int_t)total_bytes));
    json_object_set_new(root, "sparse", json_boolean(synth->output.sparse));
    json_object_set_new(root, "seconds", json_real(seconds));
    return lam_json_print(root, err);
}

/* 0: one file. */
static enum lam_status read_split(const char *text, uint64_t *ret_bytes, struct lam_err *err)
{
    enum lam_status status;

    *ret_bytes = 0;
    if (!text)
        return LAM_OK;
    status = lam_size_parse(text, 0, ret_bytes, err);
    if (status)
        return lam_err_wrap(err, status, "--split-max-size");
    if (*ret_bytes == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--split-max-size 0 leaves no room for a tensor: give a size such as 2GiB");
    return LAM_OK;
}

static int execute(struct synth *synth)
{
    const struct lam_synth_request request = {.preset = lam_preset_find(synth->preset),
        .type = synth->type,
        .n_layers = (uint32_t)synth->n_layers,
        .seed = (uint64_t)synth->seed};
    struct lam_synth_model model = {0};
    struct lam_synth_shards shards = {0};
    struct lam_err err = {0};
    int interrupted = 0;
    uint64_t split_bytes;
    enum lam_status status = read_split(synth->split_max_size, &split_bytes, &err);
    bool is_usage;

    if (!status)
        status = lam_synth_model_init(&model, &request, &err);
    if (!status)
        status = lam_synth_shards_init(&shards, &model, split_bytes, &err);
    is_usage = status == LAM_INVALID_ARGUMENT;
    synth->began_ns = lam_now_ns();
    if (!status)
        status = lam_synth_write(
            &shards, &synth->output, synth->is_terminal ? draw : NULL, synth, &interrupted, &err);
    if (synth->is_terminal)
        fprintf(stderr, "\r\033[K");
    if (!status)
        status = print_result(synth, &shards, &err);
    lam_synth_shards_done(&shards);
    lam_synth_model_done(&model);
    if (interrupted)
        lam_stack_die_by(interrupted);
    if (is_usage)
        return lam_command_usage(&err);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

int lam_command_synth(const struct lam_command_env *env, int argc, char **argv)
{
    struct synth synth = {
        .preset = "tiny", .type = "bf16", .is_terminal = isatty(STDERR_FILENO) == 1};
    const struct lam_flag flags[] = {
        {"output", 'o', LAM_FLAG_TEXT, &synth.output.path, "FILE", "The file to write.", 0, 0, NULL,
            NULL},
        {"preset", 0, LAM_FLAG_CHOICE, &synth.preset, "NAME", "The shape.", 0, 0,
            LAM_PRESET_CHOICES, NULL},
        {"type", 0, LAM_FLAG_CHOICE, &synth.type, "TYPE", "Number format of the matrices.", 0, 0,
            LAM_SYNTH_TYPES, NULL},
        {"layers", 0, LAM_FLAG_INT, &synth.n_layers, "N", "Layers; 0: as the shape has.", 0,
            LAM_LAYERS_MAX, NULL, NULL},
        {"seed", 0, LAM_FLAG_INT, &synth.seed, "N", "Another seed, other weights.", 0, 1ll << 53,
            NULL, NULL},
        {"sparse", 0, LAM_FLAG_BOOL, &synth.output.sparse, NULL,
            "Write the header only and leave the weights a hole: for `laminar plan`.", 0, 0, NULL,
            NULL},
        {"split-max-size", 0, LAM_FLAG_TEXT, &synth.split_max_size, "SIZE",
            "Write shards of at most this many bytes of tensors, named FILE-00001-of-0000N.gguf, "
            "as llama.cpp's gguf-split does; commands take the first one.",
            0, 0, NULL, NULL},
        {"force", 0, LAM_FLAG_BOOL, &synth.output.force, NULL, "Replace FILE if it is there.", 0, 0,
            NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &synth.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar synth -o FILE [--preset NAME] [--type TYPE] [flags]",
        .summary = "Writes a GGUF file of a model's shape with random weights, as fast as the disk "
                   "takes it: for benchmarks and capacity planning without a download.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_err err = {0};
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    if (!synth.output.path || !*synth.output.path) {
        lam_fail(&err, LAM_INVALID_ARGUMENT, "write -o FILE: where the model goes");
        return lam_command_usage(&err);
    }
    return execute(&synth);
}
