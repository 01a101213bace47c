/*
 * Fuzz target: a model file's header, through everything that reads it: parse, describe, typed
 * access, spec, manifest.
 *
 * Input: 8 bytes (little-endian) that say by how much the file is larger than the header, then the
 * header. Beyond "no crash" the invariants that later code relies on are asserted: tensors and
 * units inside the file, prefixes that ask for more. First inputs: gguf_seeds.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/size.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_values(const struct lam_gguf *gguf)
{
    for (uint64_t i = 0; i < lam_gguf_n_keys(gguf); i++) {
        struct lam_str key = lam_gguf_key(gguf, i);
        struct lam_gguf_strings strings = {0};
        struct lam_gguf_f32s f32s = {0};
        struct lam_gguf_i32s i32s = {0};
        char name[256];
        char text[64];
        uint64_t sum = 0;

        lam_gguf_describe(gguf, i, text, sizeof text);
        assert(strlen(text) < sizeof text);
        assert(key.size < sizeof name);
        memcpy(name, key.data, key.size);
        name[key.size] = '\0';
        if (lam_gguf_strings(gguf, name, &strings, NULL) == LAM_OK)
            for (uint64_t s = 0; s < strings.n; s++)
                sum += strings.items[s].size ? (unsigned char)strings.items[s].data[0] : 0u;
        if (lam_gguf_i32s(gguf, name, &i32s, NULL) == LAM_OK && i32s.n > 0)
            sum += (uint32_t)i32s.items[i32s.n - 1];
        if (lam_gguf_f32s(gguf, name, &f32s, NULL) == LAM_OK && f32s.n > 0)
            sum += f32s.items[f32s.n - 1] > 0;
        assert(sum < UINT64_MAX);
    }
}

static void check_tensors(const struct lam_gguf *gguf, uint64_t file_bytes)
{
    for (uint64_t i = 0; i < lam_gguf_n_tensors(gguf); i++) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(gguf, i);
        assert(lam_size_range_ok(tensor->offset, tensor->bytes, file_bytes));
        assert(tensor->offset >= lam_gguf_header_bytes(gguf));
        assert(tensor->bytes > 0);
    }
}

static void check_units(const struct lam_manifest *manifest, uint64_t file_bytes)
{
    for (uint32_t i = 0; i < manifest->n_units; i++) {
        const struct lam_unit *unit = &manifest->units[i];
        assert(lam_size_range_ok(unit->file_offset, unit->bytes, file_bytes));
        assert(unit->bytes > 0 && unit->bytes <= manifest->unit_bytes_max);
        for (uint32_t t = 0; t < unit->n_tensors; t++)
            assert(lam_size_range_ok(unit->tensors[t].offset, unit->tensors[t].bytes, unit->bytes));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lam_gguf *gguf = NULL;
    struct lam_manifest manifest = {0};
    struct lam_err err = {0};
    struct lam_spec spec;
    uint64_t extra;
    uint64_t file_bytes;
    enum lam_status status;

    if (size < sizeof extra)
        return 0;
    memcpy(&extra, data, sizeof extra);
    data += sizeof extra;
    size -= sizeof extra;
    if (!lam_size_add(size, extra, &file_bytes))
        return 0;
    status = lam_gguf_parse(data, size, file_bytes, &gguf, &err);
    assert(status == LAM_OK || err.text[0]);
    assert(status != LAM_OUT_OF_RANGE || extra > 0);
    if (status)
        return 0;
    read_values(gguf);
    check_tensors(gguf, file_bytes);
    if (lam_spec_read(gguf, &spec, &err) == LAM_OK &&
        lam_manifest_build(gguf, &spec, &manifest, &err) == LAM_OK)
        check_units(&manifest, file_bytes);
    lam_manifest_done(&manifest);
    lam_gguf_destroy(gguf);
    return 0;
}
