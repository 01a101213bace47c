/*
 * gguf_tensors: the table of tensors, and where they lie. See gguf.h; the cursor is gguf.c's.
 *
 * A tensor's size is the product of up to four numbers of the file: each product is held against
 * the file before the next one. The table has offsets from a data section whose begin follows from
 * the table's own end, so tensors are placed when all of it has been read.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/gguf_impl.h"

static enum lam_status take_dims(struct gguf_cursor *cursor, struct lam_gguf_tensor *tensor)
{
    enum lam_status status =
        lam_gguf_take(cursor, &tensor->n_dims, sizeof tensor->n_dims, "a tensor's dimension count");

    if (status)
        return status;
    if (tensor->n_dims < 1 || tensor->n_dims > 4)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "tensor '%.*s' has %" PRIu32 " dimensions; 1 to 4 are allowed", (int)tensor->name.size,
            tensor->name.data, tensor->n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims)
            status = lam_gguf_take(cursor, &tensor->dims[i], sizeof tensor->dims[i], "a dimension");
        if (status)
            return status;
        if (tensor->dims[i] == 0)
            return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
                "tensor '%.*s': dimension %" PRIu32 " is 0", (int)tensor->name.size,
                tensor->name.data, i);
    }
    return LAM_OK;
}

/* The tensor's size from its dims. Each product is held against the file before the next one. */
static enum lam_status size_tensor(const struct gguf_cursor *cursor, struct lam_gguf_tensor *tensor)
{
    uint64_t bytes = 0;
    bool fits;

    if (tensor->dims[0] % lam_dtype_info(tensor->dtype)->block_elems != 0)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "tensor '%.*s': rows of %" PRIu64 " weights are no multiple of the %s block (%" PRIu32
            ")",
            (int)tensor->name.size, tensor->name.data, tensor->dims[0],
            lam_dtype_info(tensor->dtype)->name, lam_dtype_info(tensor->dtype)->block_elems);
    fits = lam_dtype_row_bytes(tensor->dtype, tensor->dims[0], &bytes);
    for (uint32_t i = 1; i < 4 && fits; i++)
        fits = lam_size_mul(bytes, tensor->dims[i], &bytes) && bytes <= cursor->file_bytes;
    if (!fits)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "tensor '%.*s' is larger than the file (%" PRIu64
            " bytes); the file is cut off or damaged",
            (int)tensor->name.size, tensor->name.data, cursor->file_bytes);
    tensor->bytes = bytes;
    return LAM_OK;
}

static enum lam_status refuse_type(
    struct gguf_cursor *cursor, const struct lam_gguf_tensor *tensor, uint32_t type)
{
    const char *name = lam_dtype_name(type);

    return lam_fail(cursor->err, LAM_UNIMPLEMENTED,
        "tensor '%.*s' has the type id %" PRIu32
        " (%s), which this build does not run; use a file in Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, "
        "Q5_K, Q6_K, F16, BF16 or F32",
        (int)tensor->name.size, tensor->name.data, type, name ? name : "no known type");
}

/* Leaves tensor->offset relative to the data section, whose begin is not known yet. */
static enum lam_status take_tensor(struct gguf_cursor *cursor, struct lam_gguf_tensor *tensor)
{
    uint32_t type = 0;
    enum lam_status status = lam_gguf_take_name(cursor, "a tensor name", &tensor->name);

    if (!status)
        status = take_dims(cursor, tensor);
    if (!status)
        status = lam_gguf_take(cursor, &type, sizeof type, "a tensor's type");
    if (!status)
        status = lam_gguf_take(cursor, &tensor->offset, sizeof tensor->offset, "a tensor's offset");
    if (status)
        return status;
    if (!lam_dtype_known(type))
        return refuse_type(cursor, tensor, type);
    tensor->dtype = (enum lam_dtype)type;
    return size_tensor(cursor, tensor);
}

static enum lam_status take_tensors(struct gguf_cursor *cursor, struct lam_gguf *gguf, uint64_t n)
{
    enum lam_status status = LAM_OK;

    gguf->tensors = lam_calloc(n, sizeof gguf->tensors[0]);
    gguf->tensor_names = lam_calloc(n, sizeof gguf->tensor_names[0]);
    if (!gguf->tensors || !gguf->tensor_names)
        return lam_fail(
            cursor->err, LAM_RESOURCE_EXHAUSTED, "no memory for %" PRIu64 " tensors", n);
    gguf->n_tensors = n;
    for (uint64_t i = 0; i < n && !status; i++) {
        status = take_tensor(cursor, &gguf->tensors[i]);
        gguf->tensor_names[i] = (struct gguf_name){gguf->tensors[i].name, (uint32_t)i};
    }
    if (status)
        return status;
    gguf->table_end = cursor->at;
    return lam_gguf_sort_names(gguf->tensor_names, n, "tensor", cursor->err);
}

/* Makes the offsets absolute and holds each tensor against the file. */
static enum lam_status place_tensors(const struct gguf_cursor *cursor, struct lam_gguf *gguf)
{
    uint64_t data_begin = 0;

    if (!lam_size_align_up(gguf->table_end, gguf->alignment, &data_begin))
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT, "GGUF header: no end");
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        struct lam_gguf_tensor *tensor = &gguf->tensors[i];
        if (tensor->offset % gguf->alignment != 0)
            return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
                "tensor '%.*s': offset %" PRIu64 " is no multiple of the alignment %" PRIu64,
                (int)tensor->name.size, tensor->name.data, tensor->offset, gguf->alignment);
        if (!lam_size_add(data_begin, tensor->offset, &tensor->offset) ||
            !lam_size_range_ok(tensor->offset, tensor->bytes, cursor->file_bytes))
            return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
                "tensor '%.*s' reaches beyond the end of the file (%" PRIu64
                " bytes); the file is cut off or damaged",
                (int)tensor->name.size, tensor->name.data, cursor->file_bytes);
    }
    return LAM_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct lam_gguf_tensor *left = *(const struct lam_gguf_tensor *const *)a;
    const struct lam_gguf_tensor *right = *(const struct lam_gguf_tensor *const *)b;

    return (left->offset > right->offset) - (left->offset < right->offset);
}

static enum lam_status refuse_overlaps(const struct lam_gguf *gguf, struct lam_err *err)
{
    const struct lam_gguf_tensor **order = lam_calloc(gguf->n_tensors, sizeof *order);
    enum lam_status status = LAM_OK;

    if (!order)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory to order %" PRIu64 " tensors", gguf->n_tensors);
    for (uint64_t i = 0; i < gguf->n_tensors; i++)
        order[i] = &gguf->tensors[i];
    qsort(order, gguf->n_tensors, sizeof *order, compare_offsets);
    for (uint64_t i = 1; i < gguf->n_tensors && !status; i++)
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes)
            status = lam_fail(err, LAM_INVALID_ARGUMENT, "tensors '%.*s' and '%.*s' overlap",
                (int)order[i - 1]->name.size, order[i - 1]->name.data, (int)order[i]->name.size,
                order[i]->name.data);
    lam_free(order);
    return status;
}

enum lam_status lam_gguf_take_tensors(struct gguf_cursor *cursor, struct lam_gguf *gguf, uint64_t n)
{
    enum lam_status status = take_tensors(cursor, gguf, n);

    if (!status)
        status = place_tensors(cursor, gguf);
    if (!status)
        status = refuse_overlaps(gguf, cursor->err);
    return status;
}
