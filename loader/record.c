/* record: see the header. */
#include "loader/record.h"

#include <assert.h>
#include <endian.h>
#include <string.h>
#include <xxhash.h>

#include "common/mem.h"
#include "common/size.h"

#define MAGIC 0x0a534d55534d414cull /* "LAMSUMS\n" */
#define VERSION 1u
#define WORD sizeof(uint64_t)

/* Words of the file before the known bits. */
enum {
    AT_MAGIC,
    AT_VERSION,
    AT_IDENTITY,
    AT_LAYOUT = AT_IDENTITY + 8,
    AT_CHUNKS,
    HEAD_WORDS,
};

static uint64_t n_known_words(const struct lam_record *record)
{
    return (record->n_chunks + 63) / 64;
}

static uint64_t n_words(const struct lam_record *record)
{
    return HEAD_WORDS + n_known_words(record) + record->n_chunks + 1;
}

uint64_t lam_record_file_bytes(const struct lam_record *record)
{
    return n_words(record) * WORD;
}

static uint64_t chunks_in(const struct lam_record_extent *extent)
{
    return (extent->bytes + extent->chunk_bytes - 1) / extent->chunk_bytes;
}

static void add_extent(
    struct lam_record *record, uint64_t file_offset, uint64_t bytes, uint64_t chunk_bytes)
{
    struct lam_record_extent *extent = &record->extents[record->n_extents];

    if (bytes == 0)
        return;
    *extent = (struct lam_record_extent){.file_offset = file_offset,
        .bytes = bytes,
        .chunk_bytes = chunk_bytes,
        .first_chunk = record->n_chunks};
    record->n_extents++;
    record->n_chunks += chunks_in(extent);
}

enum lam_status lam_record_init(const struct lam_record_identity *identity,
    const struct lam_manifest *manifest, struct lam_record *ret_record, struct lam_err *err)
{
    const struct lam_extent *others[] = {
        &manifest->embedding, &manifest->output_norm, &manifest->rope_freqs};
    size_t n_others = sizeof(others) / sizeof(*others);
    struct lam_record record = {.identity = *identity, .n_units = manifest->n_units};

    record.extents = lam_calloc(manifest->n_units + n_others, sizeof(*record.extents));
    if (record.extents == NULL)
        goto fail;
    for (uint32_t u = 0; u < manifest->n_units; u++) {
        assert(manifest->units[u].bytes > 0);
        add_extent(&record, manifest->units[u].file_offset, manifest->units[u].bytes,
            LAM_RECORD_CHUNK_BYTES);
    }
    for (size_t i = 0; i < n_others; i++)
        add_extent(&record, others[i]->file_offset, others[i]->bytes, LAM_RECORD_SMALL_CHUNK_BYTES);
    record.sums = lam_calloc(record.n_chunks + 1, WORD);
    record.known = lam_calloc(n_known_words(&record) + 1, WORD);
    if (record.sums == NULL || record.known == NULL)
        goto fail;
    *ret_record = record;
    return LAM_OK;

fail:
    lam_record_done(&record);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the checksums of the model");
}

void lam_record_done(struct lam_record *record)
{
    lam_free(record->extents);
    lam_free(record->sums);
    lam_free(record->known);
    *record = (struct lam_record){0};
}

void lam_record_forget(struct lam_record *record)
{
    memset(record->known, 0, n_known_words(record) * WORD);
    record->n_known = 0;
}

/* ---- as a file ---- */

/* Where the chunks lie: another cut of the same model must not take these sums for its own. */
static uint64_t layout_of(const struct lam_record *record)
{
    return XXH3_64bits(record->extents, record->n_extents * sizeof(*record->extents));
}

static void identity_words(const struct lam_record_identity *identity, uint64_t words[8])
{
    words[0] = identity->device;
    words[1] = identity->inode;
    words[2] = identity->bytes;
    words[3] = (uint64_t)identity->mtime_s;
    words[4] = (uint64_t)identity->mtime_ns;
    words[5] = (uint64_t)identity->ctime_s;
    words[6] = (uint64_t)identity->ctime_ns;
    words[7] = identity->digest;
}

static uint64_t word_at(const unsigned char *bytes, uint64_t index)
{
    uint64_t word;

    memcpy(&word, bytes + index * WORD, WORD);
    return le64toh(word);
}

static bool put(struct lam_buf *buf, uint64_t value)
{
    uint64_t word = htole64(value);

    return lam_buf_append(buf, &word, WORD);
}

static bool put_all(struct lam_buf *buf, const uint64_t *words, uint64_t n)
{
    bool fits = true;

    for (uint64_t i = 0; i < n && fits; i++)
        fits = put(buf, words[i]);
    return fits;
}

bool lam_record_format(const struct lam_record *record, struct lam_buf *buf)
{
    uint64_t identity[8];

    assert(buf->size == 0);
    identity_words(&record->identity, identity);
    return put(buf, MAGIC) && put(buf, VERSION) && put_all(buf, identity, 8) &&
           put(buf, layout_of(record)) && put(buf, record->n_chunks) &&
           put_all(buf, record->known, n_known_words(record)) &&
           put_all(buf, record->sums, record->n_chunks) &&
           put(buf, XXH3_64bits(buf->data, buf->size));
}

/* Is it a whole record, of us? */
static enum lam_status check_form(const unsigned char *bytes, uint64_t n_bytes, struct lam_err *err)
{
    if (n_bytes < (HEAD_WORDS + 1) * WORD || n_bytes % WORD != 0 ||
        word_at(bytes, AT_MAGIC) != MAGIC)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "it is no record of checksums");
    if (XXH3_64bits(bytes, n_bytes - WORD) != word_at(bytes, n_bytes / WORD - 1))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "its own checksum is wrong");
    if (word_at(bytes, AT_VERSION) != VERSION)
        return lam_fail(err, LAM_NOT_FOUND, "it is of another version");
    return LAM_OK;
}

/* Is it about the bytes that we have? */
static enum lam_status check_identity(
    const struct lam_record *record, const unsigned char *bytes, struct lam_err *err)
{
    uint64_t ours[8];
    uint32_t same = 0;

    identity_words(&record->identity, ours);
    while (same < 8 && word_at(bytes, AT_IDENTITY + same) == ours[same])
        same++;
    if (same < 7)
        return lam_fail(err, LAM_NOT_FOUND, "the model file was written to since then");
    if (same == 7)
        return lam_fail(err, LAM_DATA_LOSS, "the header of the model file had another checksum");
    return LAM_OK;
}

enum lam_status lam_record_parse(
    struct lam_record *record, const void *bytes, uint64_t n_bytes, struct lam_err *err)
{
    const unsigned char *at = bytes;
    uint64_t n_known = 0;
    enum lam_status status = check_form(at, n_bytes, err);

    if (status == LAM_OK)
        status = check_identity(record, at, err);
    if (status != LAM_OK)
        return status;
    if (word_at(at, AT_LAYOUT) != layout_of(record) || word_at(at, AT_CHUNKS) != record->n_chunks)
        return lam_fail(err, LAM_NOT_FOUND, "the model was cut into other units then");
    if (n_bytes != lam_record_file_bytes(record))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "its size is wrong");
    for (uint64_t w = 0; w < n_known_words(record); w++)
        n_known += (uint64_t)__builtin_popcountll(word_at(at, HEAD_WORDS + w));
    if (record->n_chunks % 64 != 0 &&
        word_at(at, HEAD_WORDS + n_known_words(record) - 1) >> record->n_chunks % 64 != 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "it knows more chunks than there are");
    for (uint64_t w = 0; w < n_known_words(record); w++)
        record->known[w] = word_at(at, HEAD_WORDS + w);
    for (uint64_t c = 0; c < record->n_chunks; c++)
        record->sums[c] = word_at(at, HEAD_WORDS + n_known_words(record) + c);
    record->n_known = n_known;
    return LAM_OK;
}

/* ---- chunks ---- */

void lam_record_chunks_of(
    const struct lam_record *record, uint32_t index, uint64_t *ret_first, uint64_t *ret_n)
{
    assert(index < record->n_extents);
    *ret_first = record->extents[index].first_chunk;
    *ret_n = chunks_in(&record->extents[index]);
}

struct lam_record_chunk lam_record_chunk(const struct lam_record *record, uint64_t chunk)
{
    const struct lam_record_extent *extent;
    uint32_t low = 0;
    uint32_t high = record->n_extents;
    uint64_t at, left;

    assert(chunk < record->n_chunks);
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (record->extents[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    extent = &record->extents[low];
    at = (chunk - extent->first_chunk) * extent->chunk_bytes;
    left = extent->bytes - at;
    return (struct lam_record_chunk){.file_offset = extent->file_offset + at,
        .bytes = left < extent->chunk_bytes ? left : extent->chunk_bytes};
}

bool lam_record_find_small(
    const struct lam_record *record, uint64_t file_offset, uint64_t *ret_chunk)
{
    for (uint32_t e = record->n_units; e < record->n_extents; e++) {
        const struct lam_record_extent *extent = &record->extents[e];

        if (file_offset < extent->file_offset || file_offset - extent->file_offset >= extent->bytes)
            continue;
        *ret_chunk =
            extent->first_chunk + (file_offset - extent->file_offset) / extent->chunk_bytes;
        return true;
    }
    return false;
}

bool lam_record_knows(const struct lam_record *record, uint64_t chunk)
{
    assert(chunk < record->n_chunks);
    return (record->known[chunk / 64] >> chunk % 64 & 1) != 0;
}

void lam_record_set(struct lam_record *record, uint64_t chunk, uint64_t sum)
{
    assert(!lam_record_knows(record, chunk));
    record->sums[chunk] = sum;
    record->known[chunk / 64] |= (uint64_t)1 << chunk % 64;
    record->n_known++;
}
