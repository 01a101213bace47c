/* vram: see vram.h. Items are cut at commas first, so that every error can name its position. */
#include "model/vram.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/flag.h"
#include "common/size.h"

#define ITEM_BYTES 64
#define DEVICES_MAX 64u
#define EXAMPLES "write for example 3GiB, 75%% or free-1GiB"
#define AUTO_MARGIN_BYTES (512 * LAM_MIB)
#define AUTO_MARGIN_PERCENT 3u
/* Above so many GiB a bare number was meant as MiB. */
#define BARE_GIB_MAX 2048u

struct item {
    char text[ITEM_BYTES];
    uint32_t position; /* from 1 */
};

struct parse {
    const struct lam_vram_device *devices;
    uint32_t n_devices;
    uint64_t caps[DEVICES_MAX];
    bool given[DEVICES_MAX];
    char notes[LAM_VRAM_NOTES_BYTES];
    struct lam_err *err;
};

static void append(char *text, size_t text_bytes, const char *fmt, ...) LAM_PRINTF(3, 4);

static void append(char *text, size_t text_bytes, const char *fmt, ...)
{
    size_t used = strlen(text);
    va_list args;

    va_start(args, fmt);
    vsnprintf(text + used, text_bytes - used, fmt, args);
    va_end(args);
}

/* "cuda:0 (80.00 GiB), cuda:1 (24.00 GiB)" */
static const char *list_devices(const struct parse *parse, char *text, size_t text_bytes)
{
    char size[24];

    text[0] = '\0';
    for (uint32_t d = 0; d < parse->n_devices; d++)
        append(text, text_bytes, "%s%s (%s)", d ? ", " : "", parse->devices[d].name,
            lam_size_format(parse->devices[d].total_bytes, size, sizeof size));
    return text;
}

static bool is_bare_number(const char *text)
{
    return text[strspn(text, "0123456789.")] == '\0';
}

/* free-1GiB, auto: of what is free, which has to be more than the margin. */
static enum lam_status parse_free(struct parse *parse, const struct item *item, const char *value,
    const struct lam_vram_device *device, uint64_t *ret_bytes)
{
    uint64_t margin = device->total_bytes / 100 * AUTO_MARGIN_PERCENT;
    char size[24];

    if (margin < AUTO_MARGIN_BYTES)
        margin = AUTO_MARGIN_BYTES;
    if (strncasecmp(value, "free", 4) == 0 &&
        (value[4] != '-' || lam_size_parse(value + 5, 0, &margin, NULL)))
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' is free without a size to leave; " EXAMPLES,
            item->position, item->text);
    if (margin >= device->free_bytes)
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' leaves nothing: only %s of %s are free; give a size",
            item->position, item->text, lam_size_format(device->free_bytes, size, sizeof size),
            device->name);
    *ret_bytes = device->free_bytes - margin;
    return LAM_OK;
}

static enum lam_status parse_size(struct parse *parse, const struct item *item, const char *value,
    const struct lam_vram_device *device, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;
    char size[24];

    if (value[0] == '-')
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' is negative; " EXAMPLES, item->position, item->text);
    if (lam_size_parse(value, device->total_bytes, &bytes, NULL))
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' is not a size; " EXAMPLES, item->position, item->text);
    if (is_bare_number(value) && bytes > BARE_GIB_MAX * LAM_GIB)
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' would be %s GiB; did you mean %sMiB?", item->position,
            item->text, value, value);
    if (bytes > device->total_bytes)
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' is more than the %s of %s; " EXAMPLES, item->position,
            item->text, lam_size_format(device->total_bytes, size, sizeof size), device->name);
    *ret_bytes = bytes;
    return LAM_OK;
}

/* The value for one device. item: for errors, the whole item; value: what stands behind "0=". */
static enum lam_status parse_value(
    struct parse *parse, const struct item *item, const char *value, uint32_t device)
{
    const struct lam_vram_device *d = &parse->devices[device];
    bool from_free = strcasecmp(value, "auto") == 0 || strncasecmp(value, "free", 4) == 0;
    char size[24];
    enum lam_status status = LAM_OK;

    parse->given[device] = true;
    parse->caps[device] = 0;
    if (strcasecmp(value, "off") == 0 || strcmp(value, "-") == 0)
        return LAM_OK;
    status = from_free ? parse_free(parse, item, value, d, &parse->caps[device])
                       : parse_size(parse, item, value, d, &parse->caps[device]);
    if (!status && (from_free || strchr(value, '%')))
        append(parse->notes, sizeof parse->notes, "%s: %s is %s\n", d->name, value,
            lam_size_format(parse->caps[device], size, sizeof size));
    return status;
}

/* The next item of *cursor, which moves behind its comma, or becomes NULL at the end. */
static enum lam_status next_item(const char **cursor, struct item *item, struct lam_err *err)
{
    const char *begin = *cursor;
    size_t length = strcspn(begin, ",");

    item->position++;
    if (length == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--vram: item %" PRIu32 " is empty; " EXAMPLES,
            item->position);
    if (length >= sizeof item->text)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%.20s...' is too long; " EXAMPLES, item->position, begin);
    memcpy(item->text, begin, length);
    item->text[length] = '\0';
    for (size_t i = 0; i < length; i++)
        if (isspace((unsigned char)begin[i]))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "--vram: item %" PRIu32 " '%s' has a space in it; " EXAMPLES, item->position,
                item->text);
    *cursor = begin[length] ? begin + length + 1 : NULL;
    return LAM_OK;
}

static bool find_device(const struct parse *parse, const char *name, size_t length, uint32_t *ret)
{
    char text[ITEM_BYTES];
    int64_t index;

    memcpy(text, name, length);
    text[length] = '\0';
    if (lam_int_parse(text, 0, (int64_t)parse->n_devices - 1, &index)) {
        *ret = (uint32_t)index;
        return true;
    }
    for (uint32_t d = 0; d < parse->n_devices; d++)
        if (strcmp(parse->devices[d].name, text) == 0) {
            *ret = d;
            return true;
        }
    return false;
}

/* 0=3GiB */
static enum lam_status parse_named(struct parse *parse, const struct item *item)
{
    const char *equals = strchr(item->text, '=');
    char names[320];
    uint32_t device;

    if (!equals)
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' names no device but others do; write for example "
            "0=3GiB,1=75%%",
            item->position, item->text);
    if (!find_device(parse, item->text, (size_t)(equals - item->text), &device))
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' names no device; there is %s", item->position,
            item->text, list_devices(parse, names, sizeof names));
    if (parse->given[device])
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' names %s a second time; keep one", item->position,
            item->text, parse->devices[device].name);
    return parse_value(parse, item, equals + 1, device);
}

/* The item at its place in a list without names. */
static enum lam_status parse_placed(struct parse *parse, const struct item *item)
{
    char names[320];

    if (strchr(item->text, '='))
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' names a device but others do not; write for example "
            "0=3GiB,1=75%%",
            item->position, item->text);
    if (item->position > parse->n_devices)
        return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
            "--vram: item %" PRIu32 " '%s' is one too many: there is %s", item->position,
            item->text, list_devices(parse, names, sizeof names));
    return parse_value(parse, item, item->text, item->position - 1);
}

/* From `first` on, every device gets the item. */
static enum lam_status repeat(struct parse *parse, const struct item *item, uint32_t first)
{
    enum lam_status status = LAM_OK;

    for (uint32_t d = first; d < parse->n_devices && !status; d++)
        status = parse_value(parse, item, item->text, d);
    return status;
}

static enum lam_status parse_list(struct parse *parse, const char *spec)
{
    bool named = strchr(spec, '=') != NULL && strcspn(spec, "=") < strcspn(spec, ",");
    const char *cursor = spec;
    struct item item = {.position = 0};
    struct item last = item;
    enum lam_status status = LAM_OK;

    while (cursor && !status) {
        status = next_item(&cursor, &item, parse->err);
        if (!status && strcmp(item.text, "...") == 0) {
            if (cursor || last.position == 0 || named)
                return lam_fail(parse->err, LAM_INVALID_ARGUMENT,
                    "--vram: item %" PRIu32 " '...' repeats the item before it and stands last; "
                    "write for example 3GiB,75%%,...",
                    item.position);
            return repeat(parse, &last, last.position);
        }
        if (!status)
            status = named ? parse_named(parse, &item) : parse_placed(parse, &item);
        last = item;
    }
    if (!status && last.position == 1 && !named)
        status = repeat(parse, &last, 1);
    return status;
}

/* One note for all devices that the list leaves out. */
static void note_unused(struct parse *parse)
{
    char names[320] = "";
    uint32_t n = 0;

    for (uint32_t d = 0; d < parse->n_devices; d++)
        if (!parse->given[d])
            append(names, sizeof names, "%s%s", n++ ? ", " : "", parse->devices[d].name);
    if (n > 0)
        append(parse->notes, sizeof parse->notes,
            "%s: not used, because --vram lists %" PRIu32 " of %" PRIu32 " devices\n", names,
            parse->n_devices - n, parse->n_devices);
}

enum lam_status lam_vram_parse(const char *spec, const struct lam_vram_device *devices,
    uint32_t n_devices, uint64_t *ret_caps, char *ret_notes, struct lam_err *err)
{
    struct parse parse = {.devices = devices, .n_devices = n_devices, .err = err};
    uint64_t sum = 0;
    enum lam_status status;

    assert(n_devices > 0 && n_devices <= DEVICES_MAX);
    status = parse_list(&parse, spec);
    if (status)
        return status;
    for (uint32_t d = 0; d < n_devices; d++)
        sum |= parse.caps[d];
    if (sum == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--vram: '%.64s' leaves no device to compute on; " EXAMPLES, spec);
    note_unused(&parse);
    memcpy(ret_caps, parse.caps, n_devices * sizeof *ret_caps);
    memcpy(ret_notes, parse.notes, sizeof parse.notes);
    return LAM_OK;
}
