/*
 * doctor: `laminar doctor`, what this machine offers and lacks. Everything is tried or read,
 * nothing is guessed from version numbers. Each check is one line; the remedy stands with it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/device.h"
#include "cli/facts.h"
#include "cli/json.h"
#include "cli/measure.h"
#include "cli/uring_probe.h"
#include "common/buf.h"
#include "common/size.h"
#include "kernels/ops.h"

#define NOFILE_WANTED 1024u
#define FINDINGS_MAX (16 + LAM_FACTS_GPUS_MAX)
#define TEXT_BYTES 240

enum verdict { GOOD, NOTE, BAD };

static const char *const verdict_names[] = {"ok", "note", "fail"};

struct finding {
    const char *name;
    enum verdict verdict;
    char text[TEXT_BYTES]; /* what was found, and what to do about it */
};

struct report {
    struct finding findings[FINDINGS_MAX];
    size_t n;
};

struct doctor {
    bool json;
    bool measure;
    const char *model;        /* whose disk is measured; NULL: the cache folder's */
    const char *cuda_library; /* folder; NULL: where it is installed */
    struct lam_facts facts;
};

static void add(struct report *report, const char *name, enum verdict verdict, const char *fmt, ...)
    LAM_PRINTF(4, 5);

static void add(struct report *report, const char *name, enum verdict verdict, const char *fmt, ...)
{
    struct finding *finding = &report->findings[report->n++];
    va_list args;

    finding->name = name;
    finding->verdict = verdict;
    va_start(args, fmt);
    vsnprintf(finding->text, sizeof finding->text, fmt, args);
    va_end(args);
}

/* The first bytes of a small file such as those in /proc; "" when it cannot be read. */
static void read_small(const char *path, char *buf, size_t buf_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, buf_bytes - 1);

    buf[n > 0 ? n : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

/* The number after "key:" in text such as /proc/meminfo; 0 when it is not there. */
static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    uint64_t value = 0;

    if (!at)
        return 0;
    for (at += strlen(key); *at == ' ' || *at == '\t'; at++)
        ;
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static void check_system(struct report *report)
{
    struct utsname name;
    char text[8192];
    char sizes[2][24];

    if (uname(&name) == 0)
        add(report, "kernel", GOOD, "%s %s, %s", name.sysname, name.release, name.machine);
    read_small("/proc/meminfo", text, sizeof text);
    add(report, "memory", GOOD, "%s in all, %s available",
        lam_size_format(number_after(text, "MemTotal:") * LAM_KIB, sizes[0], sizeof sizes[0]),
        lam_size_format(number_after(text, "MemAvailable:") * LAM_KIB, sizes[1], sizeof sizes[1]));
    if (number_after(text, "HugePages_Free:") > 0)
        add(report, "huge pages", GOOD, "%" PRIu64 " free of %" PRIu64 " KiB each",
            number_after(text, "HugePages_Free:"), number_after(text, "Hugepagesize:"));
    else
        add(report, "huge pages", NOTE,
            "none reserved: the loader asks for transparent ones, which Linux 6.1 or newer gives "
            "where enough memory is free; to reserve, write a number of 2 MiB pages to "
            "/proc/sys/vm/nr_hugepages");
}

static void check_io_uring(struct report *report)
{
    struct lam_err err = {0};

    if (lam_uring_probe("/proc/self/exe", &err) == LAM_OK)
        add(report, "io_uring", GOOD, "works: a read through a ring brought the right bytes");
    else
        add(report, "io_uring", NOTE, "%s; the loader reads with pread instead", err.text);
}

static void check_seccomp(struct report *report)
{
    char text[8192];
    uint64_t mode;

    read_small("/proc/self/status", text, sizeof text);
    mode = number_after(text, "Seccomp:");
    if (mode == 0)
        add(report, "seccomp", GOOD, "no filter");
    else
        add(report, "seccomp", NOTE,
            "mode %" PRIu64 ": a filter is active (a container's default one refuses io_uring)",
            mode);
}

static void check_shared_memory(struct report *report)
{
    int fd = memfd_create("laminar-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool sealed = fd >= 0 && ftruncate(fd, 4096) == 0 &&
                  fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0;

    if (sealed)
        add(report, "shared memory", GOOD, "sealed memfd works");
    else
        add(report, "shared memory", BAD, "no sealed memfd: %s; Linux 3.17 or newer is needed",
            strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void check_limits(struct report *report)
{
    struct rlimit limit;
    char size[24];

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        if (limit.rlim_cur >= NOFILE_WANTED)
            add(report, "open files", GOOD, "%llu", (unsigned long long)limit.rlim_cur);
        else
            add(report, "open files", BAD, "%llu: too few for a gateway; run ulimit -n %u",
                (unsigned long long)limit.rlim_cur, NOFILE_WANTED);
    }
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        if (limit.rlim_cur == RLIM_INFINITY)
            add(report, "locked memory", GOOD, "unlimited");
        else
            add(report, "locked memory", NOTE,
                "%s: the pool may be swapped out and rings stay small; ulimit -l unlimited lifts "
                "it",
                lam_size_format(limit.rlim_cur, size, sizeof size));
    }
}

static void check_kernels(struct report *report)
{
    const struct lam_kernel_config config = {
        .max_rows = 1, .max_cols = 256, .max_seqs = 1, .max_ctx = 64, .n_heads = 1, .head_dim = 64};
    struct lam_kernels *kernels = NULL;
    struct lam_err err = {0};
    const struct lam_kernel_ops *ops = lam_kernels_cpu();

    if (ops->create(&config, &kernels, &err) == LAM_OK)
        add(report, "processor", GOOD, "%s", ops->describe(kernels));
    else
        add(report, "processor", BAD, "%s", err.text);
    ops->destroy(kernels);
}

static void check_models(struct report *report, const char *home)
{
    char path[512];
    struct dirent *entry;
    DIR *folder = NULL;
    unsigned n = 0;

    if (home && snprintf(path, sizeof path, "%s/.cache/laminar/models", home) < (int)sizeof path)
        folder = opendir(path);
    while (folder && (entry = readdir(folder)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        n += dot && strcmp(dot, ".gguf") == 0;
    }
    if (folder)
        closedir(folder);
    if (n > 0)
        add(report, "models", GOOD, "%u in ~/.cache/laminar/models", n);
    else
        add(report, "models", NOTE,
            "none in ~/.cache/laminar/models; tools/demo fetches a small one");
}

/* What a GPU says, and with --measure its rates. First of all: it forks. */
static void check_gpus(struct report *report, struct doctor *doctor)
{
    const struct lam_device_question question = {
        .folder = doctor->cuda_library, .n_max = LAM_FACTS_GPUS_MAX, .measure = doctor->measure};
    struct lam_device_answer answers[LAM_FACTS_GPUS_MAX];
    struct lam_err err = {0};
    char sizes[2][24];
    uint32_t n = 0;

    if (lam_device_ask(&question, answers, &n, &err))
        add(report, "gpu", NOTE, "%s", err.text);
    for (uint32_t i = 0; i < n; i++) {
        const struct lam_gpu_facts *gpu = &answers[i].facts;
        char rates[80] = "";
        if (gpu->link_rate > 0)
            snprintf(rates, sizeof rates, "; link %.1f GB/s, memory %.0f GB/s",
                gpu->link_rate / 1e9, gpu->memory_rate / 1e9);
        add(report, "gpu", GOOD, "cuda:%" PRIu32 " %s, %s, driver %s; a process takes %s%s",
            answers[i].index, gpu->name,
            lam_size_format(gpu->total_bytes, sizes[0], sizeof sizes[0]),
            gpu->driver[0] ? gpu->driver : "unknown",
            lam_size_format(gpu->context_bytes, sizes[1], sizeof sizes[1]), rates);
        lam_facts_put(&doctor->facts, gpu);
    }
}

/* The disk of the model that was given, or of the folder. What was known before stays when this
 * fails. */
static void measure_disk(struct report *report, struct doctor *doctor, const char *folder)
{
    char io_cache[512];
    struct lam_speed speed;
    struct lam_err err = {0};
    enum lam_status status;

    snprintf(io_cache, sizeof io_cache, "%.500s/io", folder); /* the loader's own */
    status = doctor->model ? lam_speed_measure(doctor->model, io_cache, &speed, &err)
                           : lam_measure_disk_of(folder, io_cache, &speed, &err);
    if (status) {
        add(report, "disk rate", NOTE, "%s; --model FILE names a file to read", err.text);
        return;
    }
    doctor->facts.disk_rate = speed.rate;
    add(report, "disk rate", GOOD,
        "%.2f GB/s by %s, %" PRIu32 " requests of %" PRIu64 " KiB under way, from %s",
        speed.rate / 1e9, speed.engine, speed.depth, speed.request_bytes / LAM_KIB,
        doctor->model ? doctor->model : folder);
}

/* --measure: the machine's own rates, into the facts file. What cannot be measured is told, and
 * what was known of it before stays. */
static void measure(struct report *report, struct doctor *doctor, const char *home)
{
    char folder[512] = "/tmp";
    struct lam_err err = {0};

    if (lam_measure_memory(&doctor->facts.memory_rate, &err))
        add(report, "memory rate", NOTE, "%s", err.text);
    else
        add(report, "memory rate", GOOD, "%.1f GB/s, read by all processors",
            doctor->facts.memory_rate / 1e9);
    if (home)
        snprintf(folder, sizeof folder, "%s/.cache/laminar", home);
    /* The folder of the disk's file is that of the facts: it is there when they can be written. */
    if (lam_facts_write(home, &doctor->facts, &err)) {
        add(report, "facts", BAD, "%s", err.text);
        return;
    }
    measure_disk(report, doctor, folder);
    if (lam_facts_write(home, &doctor->facts, &err))
        add(report, "facts", BAD, "%s", err.text);
    else
        add(report, "facts", GOOD, "written to %s/facts.json, where plans look", folder);
}

static enum lam_status print_json(const struct report *report, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *findings = json_array();

    for (size_t i = 0; i < report->n; i++)
        json_array_append_new(findings,
            json_pack("{s:s,s:s,s:o}", "name", report->findings[i].name, "verdict",
                verdict_names[report->findings[i].verdict], "text",
                lam_json_text(report->findings[i].text, strlen(report->findings[i].text))));
    json_object_set_new(root, "findings", findings);
    return lam_json_print(root, err);
}

static int print(const struct report *report, bool json)
{
    struct lam_err err = {0};
    int exit_code = LAM_EXIT_OK;

    for (size_t i = 0; i < report->n; i++) {
        const struct finding *finding = &report->findings[i];
        if (finding->verdict == BAD)
            exit_code = LAM_EXIT_FAILED;
        if (!json)
            printf(
                "%-5s %-14s %s\n", verdict_names[finding->verdict], finding->name, finding->text);
    }
    if (json && print_json(report, &err))
        exit_code = lam_command_fail(&err);
    return exit_code;
}

static const char *const epilog =
    "Examples:\n"
    "  laminar doctor\n"
    "  laminar doctor --measure --model model.gguf   (plans are as good as what they know)";

int lam_command_doctor(const struct lam_command_env *env, int argc, char **argv)
{
    struct report report = {0};
    struct doctor doctor = {0};
    struct lam_err err = {0};
    const struct lam_flag flags[] = {
        {"measure", 0, LAM_FLAG_BOOL, &doctor.measure, NULL,
            "Also measure disk, memory and GPUs for some seconds, and keep the figures for plans.",
            0, 0, NULL, NULL},
        {"model", 0, LAM_FLAG_TEXT, &doctor.model, "FILE",
            "With --measure: a large file on the disk of the models; else one is written in "
            "~/.cache/laminar for this.",
            0, 0, NULL, NULL},
        {"cuda-library", 0, LAM_FLAG_TEXT, &doctor.cuda_library, "FOLDER",
            "Where liblaminar-cuda.so is, if not beside this program or in ../lib.", 0, 0, NULL,
            NULL},
        {"json", 0, LAM_FLAG_BOOL, &doctor.json, NULL, "Print one JSON object.", 0, 0, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar doctor [--measure] [flags]",
        .summary = "Checks what the services need of this machine. Exits 1 when something that "
                   "cannot be done without is missing.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    if (!lam_command_begin(&program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    if (doctor.model && !doctor.measure) {
        lam_fail(&err, LAM_INVALID_ARGUMENT, "--model is for --measure; give both or none");
        return lam_command_usage(&err);
    }
    /* A file that cannot be read is replaced by --measure, which is what its error asks for. */
    if (lam_facts_read(env->home, &doctor.facts, &err) && !doctor.measure)
        add(&report, "facts", NOTE, "%s", err.text);
    check_gpus(&report, &doctor);
    check_system(&report);
    check_kernels(&report);
    check_io_uring(&report);
    check_seccomp(&report);
    check_shared_memory(&report);
    check_limits(&report);
    check_models(&report, env->home);
    if (doctor.measure)
        measure(&report, &doctor, env->home);
    return print(&report, doctor.json);
}
