/* utf8: strict UTF-8, for text from outside: nothing overlong, no surrogates, at most U+10FFFF. */
#ifndef LAMINAR_COMMON_UTF8_H
#define LAMINAR_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Decodes the code point that starts at text[0]; n > 0.
 * Returns its length 1..4 and sets *ret_code; 0 when the bytes are no UTF-8; -1 when they are a
 * valid beginning that is cut off at n.
 */
int lam_utf8_decode(const char *text, size_t n, uint32_t *ret_code);

/* Writes `code` (a valid scalar value) and returns the length 1..4. */
size_t lam_utf8_encode(uint32_t code, char out[4]);

/* Is the whole of text[0, n) valid? */
bool lam_utf8_valid(const char *text, size_t n);

/* How many bytes of text[0, n) end on a complete sequence; invalid bytes count as complete. */
size_t lam_utf8_complete_prefix(const char *text, size_t n);

#endif
