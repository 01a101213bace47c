/* json: see json.h. Objects keep the order in which their members were set. */
#include "cli/json.h"

#include <stdio.h>

#include "common/buf.h"
#include "common/utf8.h"

json_t *lam_json_begin(void)
{
    return json_pack("{s:i}", "version", 1);
}

json_t *lam_json_text(const char *text, size_t n_bytes)
{
    struct lam_buf clean = LAM_BUF(SIZE_MAX / 2);
    json_t *value = NULL;
    bool fits = true;

    for (size_t at = 0; at < n_bytes && fits;) {
        uint32_t code;
        int length = lam_utf8_decode(text + at, n_bytes - at, &code);
        if (length > 0)
            fits = lam_buf_append(&clean, text + at, (size_t)length);
        else
            fits = lam_buf_text(&clean, "\xef\xbf\xbd");
        at += length > 0 ? (size_t)length : 1;
    }
    if (fits)
        value = json_stringn(clean.data ? clean.data : "", clean.size);
    lam_buf_done(&clean);
    return value;
}

json_t *lam_json_ids(const int32_t *ids, size_t n)
{
    json_t *array = json_array();

    for (size_t i = 0; i < n && array; i++)
        if (json_array_append_new(array, json_integer(ids[i])) != 0) {
            json_decref(array);
            array = NULL;
        }
    return array;
}

enum lam_status lam_json_print(json_t *object, struct lam_err *err)
{
    int failed;

    if (!object)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to print the result");
    failed = json_dumpf(object, stdout, JSON_REAL_PRECISION(9) | JSON_COMPACT);
    json_decref(object);
    if (failed || putchar('\n') == EOF || fflush(stdout) != 0)
        return lam_fail(err, LAM_UNAVAILABLE, "cannot write to standard output; is it closed?");
    return LAM_OK;
}
