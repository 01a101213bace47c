/* size: see size.h. */
#include "common/size.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    double bytes;
};

static const struct unit units[] = {
    {"", 1024.0 * 1024 * 1024},
    {"b", 1},
    {"kib", 1024},
    {"mib", 1024.0 * 1024},
    {"gib", 1024.0 * 1024 * 1024},
    {"tib", 1024.0 * 1024 * 1024 * 1024},
    {"kb", 1e3},
    {"mb", 1e6},
    {"gb", 1e9},
    {"tb", 1e12},
};

/* Digits, one optional point, digits. No sign, exponent, hexadecimal or locale: strtod would take
 * them. */
static bool parse_decimal(const char **cursor, double *ret)
{
    const char *p = *cursor;
    double value = 0;
    double scale = 1;
    bool any = false;

    for (; isdigit((unsigned char)*p); p++, any = true)
        value = value * 10 + (*p - '0');
    if (*p == '.')
        for (p++; isdigit((unsigned char)*p); p++, any = true)
            value += (*p - '0') * (scale /= 10);
    if (!any)
        return false;
    *cursor = p;
    *ret = value;
    return true;
}

enum lam_status lam_size_parse(
    const char *text, uint64_t whole, uint64_t *ret_bytes, struct lam_err *err)
{
    const char *p = text;
    double value = 0;
    double bytes = -1;

    if (parse_decimal(&p, &value)) {
        if (strcmp(p, "%") == 0 && whole > 0 && value <= 100)
            bytes = (double)whole * value / 100;
        for (uint64_t i = 0; i < sizeof units / sizeof units[0]; i++)
            if (strcasecmp(p, units[i].name) == 0)
                bytes = value * units[i].bytes;
    }
    if (bytes < 0 || bytes > 9e18)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.64s' is not a size; write for example 3GiB, "
            "512MiB%s or 3.5 (GiB)",
            text, whole > 0 ? ", 75%" : "");
    *ret_bytes = (uint64_t)bytes;
    return LAM_OK;
}

char *lam_size_format(uint64_t bytes, char *buf, uint64_t buf_bytes)
{
    if (bytes >= LAM_GIB)
        snprintf(buf, buf_bytes, "%.2f GiB", (double)bytes / (double)LAM_GIB);
    else if (bytes >= LAM_MIB)
        snprintf(buf, buf_bytes, "%.1f MiB", (double)bytes / (double)LAM_MIB);
    else if (bytes >= LAM_KIB)
        snprintf(buf, buf_bytes, "%.1f KiB", (double)bytes / (double)LAM_KIB);
    else
        snprintf(buf, buf_bytes, "%u B", (unsigned)bytes);
    return buf;
}
