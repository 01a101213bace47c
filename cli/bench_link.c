/*
 * bench_link: `laminar bench link`, the way from pinned host memory to a GPU: the ceiling of every
 * model that streams. Round after round, because links are shared: with other programs, and on
 * virtual machines with other machines. Run it before and after what is held against it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/device.h"
#include "cli/json.h"
#include "common/clock.h"
#include "common/size.h"

#define CUDA_PREFIX "cuda:"
#define SECONDS_MAX 40 /* the child that measures is given a minute in all */

struct link_bench {
    const char *device;
    const char *folder;
    double seconds;
    bool json;
};

static enum lam_status print_json(const struct lam_device_answer *answer, struct lam_err *err)
{
    const struct lam_device_link *link = &answer->link;
    json_t *root = lam_json_begin();
    char name[24];

    snprintf(name, sizeof name, CUDA_PREFIX "%" PRIu32, answer->index);
    json_object_set_new(root, "device", json_string(name));
    json_object_set_new(root, "gpu", lam_json_text(answer->facts.name, strlen(answer->facts.name)));
    json_object_update_new(
        root, json_pack("{s:i,s:I,s:f,s:f,s:f}", "rounds", (int)link->n, "round_bytes",
                  (json_int_t)LAM_DEVICE_LINK_BYTES, "median_rate", link->median, "p10_rate",
                  link->p10, "p90_rate", link->p90));
    return lam_json_print(root, err);
}

static void print_text(const struct lam_device_answer *answer)
{
    const struct lam_device_link *link = &answer->link;

    printf("link       %.2f GB/s median, %.2f to %.2f for 8 of 10, of %" PRIu32
           " rounds of 512 MiB to " CUDA_PREFIX "%" PRIu32 " (%s)\n",
        link->median / 1e9, link->p10 / 1e9, link->p90 / 1e9, link->n, answer->index,
        answer->facts.name);
}

static int execute(const struct link_bench *bench, uint32_t index)
{
    const struct lam_device_question question = {.folder = bench->folder,
        .first = index,
        .n_max = 1,
        .link_ns = (uint64_t)(bench->seconds * (double)LAM_NS_PER_S)};
    struct lam_device_answer answer = {0};
    struct lam_err err = {0};
    uint32_t n = 0;
    enum lam_status status = lam_device_ask(&question, &answer, &n, &err);

    if (!status && bench->json)
        status = print_json(&answer, &err);
    else if (!status)
        print_text(&answer);
    return status ? lam_command_fail(&err) : LAM_EXIT_OK;
}

static const char *const epilog = "Examples:\n"
                                  "  laminar bench link\n"
                                  "  laminar bench link --device cuda:1 --seconds 20 --json";

int lam_bench_link(const struct lam_command_env *env, int argc, char **argv)
{
    struct link_bench bench = {.device = "cuda:0", .seconds = 2};
    const struct lam_flag flags[] = {
        {"device", 0, LAM_FLAG_TEXT, &bench.device, "cuda:N", "Which GPU.", 0, 0, NULL, NULL},
        {"seconds", 0, LAM_FLAG_REAL, &bench.seconds, "S", "For how long.", 0.1, SECONDS_MAX, NULL,
            NULL},
        {"cuda-library", 0, LAM_FLAG_TEXT, &bench.folder, "FOLDER",
            "Where liblaminar-cuda.so is, if not beside this program or in ../lib.", 0, 0, NULL,
            NULL},
        {"json", 0, LAM_FLAG_BOOL, &bench.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar bench link [flags]",
        .summary =
            "Copies 512 MiB of pinned memory to a GPU, in pieces of 64 MiB, again and again: "
            "the speed that every model which streams is held against, and how steady it is.",
        .flags = flags,
        .epilog = epilog,
    };
    struct lam_err err = {0};
    int64_t index = 0;
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    if (strncmp(bench.device, CUDA_PREFIX, strlen(CUDA_PREFIX)) == 0 &&
        lam_int_parse(bench.device + strlen(CUDA_PREFIX), 0, UINT32_MAX - 1, &index))
        return execute(&bench, (uint32_t)index);
    lam_fail(&err, LAM_INVALID_ARGUMENT, "--device: '%.40s' is no GPU; give cuda:0, cuda:1 ..",
        bench.device);
    return lam_command_usage(&err);
}
