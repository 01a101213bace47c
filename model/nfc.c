/* nfc: see nfc.h. The tables are utf8proc's; memory is ours. */
#include "model/nfc.h"

#include <stdint.h>
#include <utf8proc.h>

#include "common/mem.h"
#include "common/utf8.h"

/* Unicode's stream-safe format allows 30. */
#define MARKS_MAX 256u

#define NFC (UTF8PROC_STABLE | UTF8PROC_COMPOSE)

bool lam_nfc_is_plain(const char *text, size_t n)
{
    /* The UTF-8 of U+0300 begins with 0xcc. */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0xcc)
            return false;
    return true;
}

static enum lam_status check_marks(const char *text, size_t n, struct lam_err *err)
{
    unsigned n_marks = 0;
    uint32_t code;

    for (size_t at = 0; at < n;) {
        int length = lam_utf8_decode(text + at, n - at, &code);
        if (length <= 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT, "the text is no UTF-8");
        at += (size_t)length;
        n_marks = utf8proc_get_property((utf8proc_int32_t)code)->combining_class ? n_marks + 1 : 0;
        if (n_marks > MARKS_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the text has more than %u combining marks in a row", MARKS_MAX);
    }
    return LAM_OK;
}

enum lam_status lam_nfc(const char *text, size_t n, struct lam_buf *out, struct lam_err *err)
{
    enum lam_status status = check_marks(text, n, err);
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t *codes;
    utf8proc_ssize_t n_codes, n_bytes;

    if (status)
        return status;
    n_codes = utf8proc_decompose(bytes, (utf8proc_ssize_t)n, NULL, 0, NFC);
    /* One more: reencoding in place ends with a NUL. */
    codes = n_codes < 0 ? NULL : lam_calloc((size_t)n_codes + 1, sizeof *codes);
    if (!codes)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to normalise %zu bytes", n);
    n_codes = utf8proc_decompose(bytes, (utf8proc_ssize_t)n, codes, n_codes, NFC);
    n_bytes = n_codes < 0 ? n_codes : utf8proc_reencode(codes, n_codes, NFC);
    if (n_bytes < 0)
        status = lam_fail(err, LAM_INTERNAL, "normalising failed: %s", utf8proc_errmsg(n_bytes));
    else if (!lam_buf_append(out, codes, (size_t)n_bytes))
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to normalise %zu bytes", n);
    lam_free(codes);
    return status;
}
