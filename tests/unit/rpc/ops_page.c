/* ops_page: see ops_page.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "rpc/ops.h"
#include "tests/unit/rpc/ops_page.h"

#define DOCUMENT "docs/metrics.md"
#define TIMEOUT_NS (60 * LAM_NS_PER_S)

const char *ops_page(const char *address, const char *path)
{
    static char text[1 << 18];
    struct lam_buf body = LAM_BUF(sizeof text - 1);
    struct lam_err err = {0};

    if (lam_ops_get(address, path, TIMEOUT_NS, &body, &err) == LAM_OK)
        memcpy(text, body.data, body.size + 1);
    else
        snprintf(text, sizeof text, "%s", err.text);
    lam_buf_done(&body);
    return text;
}

double ops_page_value(const char *page, const char *series)
{
    char line[200];
    const char *found;

    snprintf(line, sizeof line, "\n%s ", series);
    found = strstr(page, line);
    if (found == NULL)
        fail_msg("no %s in\n%s", series, page);
    return strtod(found + strlen(line), NULL);
}

void ops_page_is_listed(const char *page, const char *prefix)
{
    FILE *file = fopen(DOCUMENT, "r");
    size_t n_listed = 0, n_exported = 0;
    char start[64], line[512];

    assert_non_null(file);
    snprintf(start, sizeof start, "| `%s", prefix);
    while (fgets(line, sizeof line, file) != NULL) {
        char type[200];

        if (strncmp(line, start, strlen(start)) != 0)
            continue;
        *strchr(line + 3, '`') = '\0';
        snprintf(type, sizeof type, "\n# TYPE %.150s ", line + 3);
        if (strstr(page, type) == NULL)
            fail_msg("%s lists %s, which is not exported", DOCUMENT, line + 3);
        n_listed++;
    }
    fclose(file);
    snprintf(start, sizeof start, "\n# TYPE %s", prefix);
    for (const char *at = page; (at = strstr(at, start)) != NULL; at++)
        n_exported++;
    assert_true(n_listed > 5);
    assert_int_equal(n_listed, n_exported);
}
