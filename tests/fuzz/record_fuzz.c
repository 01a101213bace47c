/*
 * A record of checksums from a cache directory that anybody may have written to. The file's own
 * checksum would stop nearly every input at the door, so it is put right first.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <xxhash.h>

#include "common/mem.h"
#include "loader/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct lam_unit units[] = {
    {.file_offset = 4096, .bytes = 100}, {.file_offset = 8192, .bytes = (uint64_t)270 << 20}};
static const struct lam_manifest manifest = {
    .n_units = 2, .units = units, .embedding = {.file_offset = 12288, .bytes = 40000}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct lam_record_identity identity = {.device = 1, .inode = 2, .bytes = 3};
    struct lam_record record;
    struct lam_buf start = LAM_BUF(1 << 16);
    struct lam_err err = {0};
    enum lam_status status;

    if (lam_record_init(&identity, &manifest, &record, NULL) != LAM_OK)
        return 0;
    /* The input is laid over an honest record, so that it gets past the identity. */
    if (lam_record_format(&record, &start) && size <= 2 * start.size) {
        size_t n_bytes = size > start.size ? size : start.size;
        char *bytes = lam_calloc(n_bytes, 1);

        assert(bytes != NULL);
        memcpy(bytes, start.data, start.size);
        for (size_t i = 0; i < size; i++)
            bytes[i] = (char)(bytes[i] ^ data[i]);
        if (n_bytes >= 8) {
            uint64_t sum = XXH3_64bits(bytes, n_bytes - 8);

            memcpy(bytes + n_bytes - 8, &sum, 8);
        }
        status = lam_record_parse(&record, bytes, n_bytes, &err);
        assert(status == LAM_OK || err.text[0] != '\0');
        for (uint64_t c = 0; c < record.n_chunks; c++)
            record.n_known -= lam_record_knows(&record, c);
        assert(record.n_known == 0);
        lam_free(bytes);
    }
    lam_buf_done(&start);
    lam_record_done(&record);
    return 0;
}
