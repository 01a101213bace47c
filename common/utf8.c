/* utf8: see utf8.h. */
#include "common/utf8.h"

static const uint32_t least_code[5] = {0, 0, 0x80, 0x800, 0x10000};

static int sequence_length(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead < 0xe0)
        return 2;
    if (lead >= 0xe0 && lead < 0xf0)
        return 3;
    if (lead >= 0xf0 && lead < 0xf5)
        return 4;
    return 0;
}

int lam_utf8_decode(const char *text, size_t n, uint32_t *ret_code)
{
    unsigned char lead = (unsigned char)text[0];
    int length = sequence_length(lead);
    uint32_t code;

    if (length <= 1) {
        *ret_code = lead;
        return length;
    }
    code = lead & (0xffu >> (length + 1));
    for (int i = 1; i < length; i++) {
        unsigned char next;
        if ((size_t)i == n)
            return -1;
        next = (unsigned char)text[i];
        if ((next & 0xc0) != 0x80)
            return 0;
        /* The second byte alone decides overlong, surrogate and too large. */
        if (i == 1 && ((lead == 0xe0 && next < 0xa0) || (lead == 0xed && next >= 0xa0) ||
                          (lead == 0xf0 && next < 0x90) || (lead == 0xf4 && next >= 0x90)))
            return 0;
        code = code << 6 | (next & 0x3f);
    }
    if (code < least_code[length])
        return 0;
    *ret_code = code;
    return length;
}

size_t lam_utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

bool lam_utf8_valid(const char *text, size_t n)
{
    uint32_t code;

    for (size_t at = 0; at < n;) {
        int length = lam_utf8_decode(text + at, n - at, &code);
        if (length <= 0)
            return false;
        at += (size_t)length;
    }
    return true;
}

size_t lam_utf8_complete_prefix(const char *text, size_t n)
{
    uint32_t code;

    /* Only the last three bytes can begin a sequence that n cuts off. */
    for (size_t back = n < 3 ? n : 3; back > 0; back--)
        if (lam_utf8_decode(text + n - back, back, &code) == -1)
            return n - back;
    return n;
}
