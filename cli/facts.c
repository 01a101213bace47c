/* facts: see facts.h. */
#include "cli/facts.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/folder.h"
#include "common/size.h"

/* Between a slow network disk and what no machine of these years does. */
#define RATE_MIN 1e6
#define RATE_MAX 1e14
#define SECONDS_MAX 1.0
#define BYTES_MAX ((json_int_t)1 << 50)
#define FOLDER_BYTES (PATH_MAX / 2)

static enum lam_status bad(struct lam_err *err, const char *field, const char *what)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT, "%s %s", field, what);
}

static bool is_rate(double rate)
{
    return rate >= RATE_MIN && rate <= RATE_MAX;
}

/* A speed, or nothing. */
static enum lam_status read_rate(
    const json_t *object, const char *field, double *ret_rate, struct lam_err *err)
{
    const json_t *value = json_object_get(object, field);
    double rate = json_number_value(value);

    if (!value)
        return LAM_OK;
    if (!json_is_number(value) || !is_rate(rate))
        return bad(err, field, "is no speed from 1 MB/s to 100 TB/s");
    *ret_rate = rate;
    return LAM_OK;
}

static enum lam_status read_bytes(
    const json_t *object, const char *field, uint64_t *ret_bytes, struct lam_err *err)
{
    const json_t *value = json_object_get(object, field);

    if (!json_is_integer(value) || json_integer_value(value) <= 0 ||
        json_integer_value(value) > BYTES_MAX)
        return bad(err, field, "is no number of bytes");
    *ret_bytes = (uint64_t)json_integer_value(value);
    return LAM_OK;
}

/* Plain ASCII: names are printed. */
static enum lam_status read_text(
    const json_t *object, const char *field, char *text, size_t text_bytes, struct lam_err *err)
{
    const json_t *value = json_object_get(object, field);
    size_t n_bytes = json_string_length(value);

    if (!json_is_string(value) || n_bytes >= text_bytes)
        return bad(err, field, "is no short text");
    for (size_t i = 0; i < n_bytes; i++)
        if (json_string_value(value)[i] < 0x20 || json_string_value(value)[i] > 0x7e)
            return bad(err, field, "has bytes that are no plain text");
    memcpy(text, json_string_value(value), n_bytes);
    text[n_bytes] = '\0';
    return LAM_OK;
}

/* A short time, or nothing. */
static enum lam_status read_seconds(
    const json_t *object, const char *field, double *ret_seconds, struct lam_err *err)
{
    const json_t *value = json_object_get(object, field);
    double seconds = json_number_value(value);

    if (!value)
        return LAM_OK;
    if (!json_is_number(value) || !(seconds >= 0 && seconds <= SECONDS_MAX))
        return bad(err, field, "is no time from 0 to 1 s");
    *ret_seconds = seconds;
    return LAM_OK;
}

/* Speeds by the names of formats; of those that are not named, none. */
static enum lam_status read_products(
    const json_t *object, double rates[LAM_DTYPE_END], struct lam_err *err)
{
    const json_t *products = json_object_get(object, "product_bytes_per_second");
    enum lam_status status = LAM_OK;

    if (products && !json_is_object(products))
        return bad(err, "product_bytes_per_second", "is no object");
    for (uint32_t id = 0; products && id < LAM_DTYPE_END && !status; id++)
        if (lam_dtype_known(id))
            status = read_rate(products, lam_dtype_info((enum lam_dtype)id)->name, &rates[id], err);
    return status;
}

static enum lam_status read_gpu(
    const json_t *object, struct lam_gpu_facts *gpu, struct lam_err *err)
{
    if (!json_is_object(object))
        return bad(err, "gpus", "holds something else than objects");
    if (read_text(object, "name", gpu->name, sizeof gpu->name, err) ||
        read_text(object, "driver", gpu->driver, sizeof gpu->driver, err) ||
        read_text(object, "library", gpu->library, sizeof gpu->library, err) ||
        read_bytes(object, "total_bytes", &gpu->total_bytes, err) ||
        read_bytes(object, "context_bytes", &gpu->context_bytes, err) ||
        read_rate(object, "link_bytes_per_second", &gpu->link_rate, err) ||
        read_rate(object, "memory_bytes_per_second", &gpu->memory_rate, err) ||
        read_products(object, gpu->product_rates, err) ||
        read_seconds(object, "layer_seconds", &gpu->layer_seconds, err))
        return err->status;
    if (gpu->context_bytes >= gpu->total_bytes)
        return bad(err, "context_bytes", "is not below total_bytes");
    return LAM_OK;
}

static enum lam_status read_root(const json_t *root, struct lam_facts *facts, struct lam_err *err)
{
    const json_t *gpus = json_object_get(root, "gpus");

    if (!json_is_object(root) || json_integer_value(json_object_get(root, "version")) != 1)
        return bad(err, "version", "is not 1");
    if (read_rate(root, "disk_bytes_per_second", &facts->disk_rate, err) ||
        read_rate(root, "memory_bytes_per_second", &facts->memory_rate, err))
        return err->status;
    if (gpus && (!json_is_array(gpus) || json_array_size(gpus) > LAM_FACTS_GPUS_MAX))
        return bad(err, "gpus", "is no list of up to 16");
    for (size_t i = 0; i < json_array_size(gpus); i++)
        if (read_gpu(json_array_get(gpus, i), &facts->gpus[facts->n_gpus++], err))
            return err->status;
    return LAM_OK;
}

enum lam_status lam_facts_parse(
    const char *text, size_t n_bytes, struct lam_facts *ret_facts, struct lam_err *err)
{
    struct lam_facts facts = {0};
    json_error_t where;
    enum lam_status status;
    json_t *root;

    if (n_bytes > LAM_FACTS_FILE_BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "more than %zu bytes", LAM_FACTS_FILE_BYTES_MAX);
    root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "line %d: %.80s", where.line, where.text);
    status = read_root(root, &facts, err);
    json_decref(root);
    if (!status)
        *ret_facts = facts;
    return status;
}

/* False: there is no home, or its name is too long. */
static bool find_path(const char *home, const char *name, char path[PATH_MAX])
{
    return home && home[0] == '/' && strlen(home) < FOLDER_BYTES &&
           snprintf(path, PATH_MAX, "%s/.cache/laminar/%s", home, name) < PATH_MAX;
}

enum lam_status lam_facts_read(const char *home, struct lam_facts *ret_facts, struct lam_err *err)
{
    char path[PATH_MAX];
    char text[LAM_FACTS_FILE_BYTES_MAX + 1];
    size_t n_bytes = 0;
    ssize_t n = 1;
    enum lam_status status;
    int fd =
        find_path(home, "facts.json", path) ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;

    *ret_facts = (struct lam_facts){0};
    if (fd < 0)
        return LAM_OK;
    while (n_bytes < sizeof text && (n = read(fd, text + n_bytes, sizeof text - n_bytes)) > 0)
        n_bytes += (size_t)n;
    close(fd);
    status = n < 0 ? lam_fail_errno(err, errno, "cannot be read")
                   : lam_facts_parse(text, n_bytes, ret_facts, err);
    return status ? lam_err_wrap(
                        err, status, "%.200s (remove it, or run `laminar doctor --measure`)", path)
                  : LAM_OK;
}

static json_t *json_of_products(const double rates[LAM_DTYPE_END])
{
    json_t *products = json_object();

    for (uint32_t id = 0; id < LAM_DTYPE_END; id++)
        if (is_rate(rates[id])) /* a device without a clock of its own measures anything */
            json_object_set_new(
                products, lam_dtype_info((enum lam_dtype)id)->name, json_real(rates[id]));
    return products;
}

static json_t *json_of_gpu(const struct lam_gpu_facts *gpu)
{
    json_t *object = json_pack("{s:s,s:s,s:s,s:I,s:I}", "name", gpu->name, "driver", gpu->driver,
        "library", gpu->library, "total_bytes", (json_int_t)gpu->total_bytes, "context_bytes",
        (json_int_t)gpu->context_bytes);

    if (gpu->link_rate > 0)
        json_object_set_new(object, "link_bytes_per_second", json_real(gpu->link_rate));
    if (gpu->memory_rate > 0)
        json_object_set_new(object, "memory_bytes_per_second", json_real(gpu->memory_rate));
    json_object_set_new(object, "product_bytes_per_second", json_of_products(gpu->product_rates));
    if (gpu->layer_seconds > 0)
        json_object_set_new(object, "layer_seconds", json_real(gpu->layer_seconds));
    return object;
}

static json_t *json_of(const struct lam_facts *facts)
{
    json_t *root = json_pack("{s:i}", "version", 1);
    json_t *gpus = json_array();

    if (facts->disk_rate > 0)
        json_object_set_new(root, "disk_bytes_per_second", json_real(facts->disk_rate));
    if (facts->memory_rate > 0)
        json_object_set_new(root, "memory_bytes_per_second", json_real(facts->memory_rate));
    for (uint32_t i = 0; i < facts->n_gpus; i++)
        json_array_append_new(gpus, json_of_gpu(&facts->gpus[i]));
    json_object_set_new(root, "gpus", gpus);
    return root;
}

enum lam_status lam_facts_write(
    const char *home, const struct lam_facts *facts, struct lam_err *err)
{
    char folder[PATH_MAX], path[PATH_MAX], fresh[PATH_MAX];
    char fresh_name[32];
    enum lam_status status;
    json_t *root;
    int failed;

    /* Each process its own: two that measure at once must not write into one file. */
    snprintf(fresh_name, sizeof fresh_name, "facts.json.%d", (int)getpid());
    if (!find_path(home, "", folder) || !find_path(home, "facts.json", path) ||
        !find_path(home, fresh_name, fresh))
        return lam_fail(err, LAM_FAILED_PRECONDITION, "there is no home folder: set HOME");
    status = lam_folder_make(folder, err);
    if (status)
        return status;
    root = json_of(facts);
    failed = json_dump_file(root, fresh, JSON_INDENT(2)) != 0 || rename(fresh, path) != 0;
    json_decref(root);
    if (failed) {
        lam_fail_errno(err, errno, "cannot write %.200s", path);
        unlink(fresh);
        return err->status;
    }
    return LAM_OK;
}

const struct lam_gpu_facts *lam_facts_find(
    const struct lam_facts *facts, const char *name, const char *driver, const char *library)
{
    for (uint32_t i = 0; i < facts->n_gpus; i++) {
        const struct lam_gpu_facts *gpu = &facts->gpus[i];
        if (strcmp(gpu->name, name) == 0 && strcmp(gpu->driver, driver) == 0 &&
            strcmp(gpu->library, library) == 0)
            return gpu;
    }
    return NULL;
}

const char *lam_facts_path(const char *home, char *path)
{
    if (!find_path(home, "facts.json", path))
        path[0] = '\0';
    return path;
}

void lam_facts_put(struct lam_facts *facts, const struct lam_gpu_facts *gpu)
{
    uint32_t at = 0;

    while (at < facts->n_gpus && strcmp(facts->gpus[at].name, gpu->name) != 0)
        at++;
    if (at == LAM_FACTS_GPUS_MAX) {
        memmove(&facts->gpus[0], &facts->gpus[1], (at - 1) * sizeof *facts->gpus);
        at--;
        facts->n_gpus--;
    }
    facts->n_gpus += at == facts->n_gpus;
    facts->gpus[at] = *gpu;
}
