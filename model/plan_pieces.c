/*
 * plan_pieces: units cut into what is resident, or streamed, as a whole.
 *
 * Tensors of a group that lie together in the file stay together (a span), so that a piece is one
 * copy or two. Files written by llama.cpp give four spans for a layer: the attention norm, the
 * attention matrices, gate with up and norm, down. Rows of the head are cut so that no piece of it
 * is larger than the largest piece of a layer, which is what a slot must hold.
 */
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/plan_impl.h"

/* Starting a copy costs as much as 2.5 us of the link: measured with 64 KiB and 1 MiB pieces. */
#define COPY_SECONDS 2.5e-6
#define HEAD_ROWS_STEP 32u
#define PADDING_MAX 64u /* between tensors; the smallest vector of a model is not smaller */

static enum lam_piece_kind group_of(enum lam_tensor_role role)
{
    switch (role) {
    case LAM_T_FFN_NORM:
    case LAM_T_FFN_GATE:
    case LAM_T_FFN_UP:
        return LAM_PIECE_GATE_UP;
    case LAM_T_FFN_DOWN:
        return LAM_PIECE_DOWN;
    default:
        return LAM_PIECE_ATTENTION;
    }
}

/* Appends the bytes, to the last span when they follow it in the file. */
static void add_span(struct lam_plan_piece *piece, uint64_t offset, uint64_t bytes)
{
    struct lam_plan_span *last = piece->n_spans ? &piece->spans[piece->n_spans - 1] : NULL;
    uint64_t end = last ? last->unit_offset + last->bytes : 0;

    if (last && offset >= end && offset - end < PADDING_MAX) {
        last->bytes = offset + bytes - last->unit_offset;
        return;
    }
    piece->spans[piece->n_spans++] = (struct lam_plan_span){
        .unit_offset = offset,
        .bytes = bytes,
    };
}

static void finish_piece(struct lam_plan_piece *piece)
{
    for (uint32_t s = 0; s < piece->n_spans; s++) {
        piece->spans[s].piece_offset = piece->device_bytes;
        piece->bytes += piece->spans[s].bytes;
        piece->device_bytes += lam_align_up(piece->spans[s].bytes, LAM_PLAN_ALIGN);
    }
}

/* The tensors of one group in file order. */
static struct lam_plan_piece cut_group(
    const struct lam_unit *unit, uint32_t index, enum lam_piece_kind kind)
{
    struct lam_plan_piece piece = {.unit = index, .kind = kind};
    uint64_t from = 0;

    for (;;) {
        const struct lam_unit_tensor *next = NULL;
        for (uint32_t t = 0; t < unit->n_tensors; t++) {
            const struct lam_unit_tensor *tensor = &unit->tensors[t];
            if (group_of(tensor->role) == kind && tensor->offset >= from &&
                (!next || tensor->offset < next->offset))
                next = tensor;
        }
        if (!next)
            break;
        add_span(&piece, next->offset, next->bytes);
        from = next->offset + next->bytes;
    }
    finish_piece(&piece);
    return piece;
}

/* Rows of a head unit in pieces of at most bytes_max, evened out. Returns how many. */
static uint32_t cut_head(
    const struct lam_unit *unit, uint32_t index, uint64_t bytes_max, struct lam_plan_piece *pieces)
{
    uint64_t n_rows = unit->tensors[0].n_rows;
    uint64_t row_bytes = unit->tensors[0].bytes / n_rows;
    uint64_t rows_max = bytes_max / row_bytes > 0 ? bytes_max / row_bytes : 1;
    uint64_t n_pieces = (n_rows + rows_max - 1) / rows_max;
    uint64_t rows = (n_rows + n_pieces - 1) / n_pieces;
    uint32_t n = 0;

    if (rows_max >= HEAD_ROWS_STEP) {
        rows = (rows + HEAD_ROWS_STEP - 1) / HEAD_ROWS_STEP * HEAD_ROWS_STEP;
        rows = rows > rows_max ? rows_max / HEAD_ROWS_STEP * HEAD_ROWS_STEP : rows;
    }
    for (uint64_t at = 0; at < n_rows; at += rows, n++) {
        struct lam_plan_piece piece = {.unit = index, .kind = LAM_PIECE_HEAD};
        uint64_t take = n_rows - at < rows ? n_rows - at : rows;
        piece.row_begin = at;
        piece.n_rows = take;
        add_span(&piece, at * row_bytes, take * row_bytes);
        finish_piece(&piece);
        if (pieces)
            pieces[n] = piece;
    }
    return n;
}

static struct lam_plan_piece whole_unit(const struct lam_unit *unit, uint32_t index)
{
    struct lam_plan_piece piece = {.unit = index, .kind = LAM_PIECE_UNIT};

    add_span(&piece, 0, unit->bytes);
    finish_piece(&piece);
    return piece;
}

/* Writes the pieces of one unit, or only counts them. */
static uint32_t cut_unit(const struct lam_unit *unit, uint32_t index, bool groups,
    uint64_t head_bytes_max, struct lam_plan_piece *pieces)
{
    if (groups && unit->kind == LAM_UNIT_HEAD)
        return cut_head(unit, index, head_bytes_max, pieces);
    if (groups) {
        pieces[0] = cut_group(unit, index, LAM_PIECE_ATTENTION);
        pieces[1] = cut_group(unit, index, LAM_PIECE_GATE_UP);
        pieces[2] = cut_group(unit, index, LAM_PIECE_DOWN);
        return 3;
    }
    pieces[0] = whole_unit(unit, index);
    return 1;
}

/* The largest group of any layer. */
static uint64_t group_bytes_max(const struct lam_manifest *manifest)
{
    uint64_t max = 0;

    for (uint32_t u = 0; u < manifest->n_units; u++) {
        struct lam_plan_piece pieces[3];
        if (manifest->units[u].kind != LAM_UNIT_LAYER)
            continue;
        cut_unit(&manifest->units[u], u, true, 0, pieces);
        for (uint32_t i = 0; i < 3; i++)
            max = pieces[i].device_bytes > max ? pieces[i].device_bytes : max;
    }
    return max;
}

static double count_weights(const struct lam_manifest *manifest)
{
    double n = 0;

    for (uint32_t u = 0; u < manifest->n_units; u++)
        for (uint32_t t = 0; t < manifest->units[u].n_tensors; t++)
            n += (double)manifest->units[u].tensors[t].n_rows *
                 (double)manifest->units[u].tensors[t].n_cols;
    return n;
}

bool lam_cutting_init(struct lam_cutting *cutting, const struct lam_manifest *manifest, bool groups)
{
    uint64_t head_max = groups ? group_bytes_max(manifest) : 0;
    uint64_t n_max = 0;
    uint64_t n_spans = 0;

    memset(cutting, 0, sizeof *cutting);
    cutting->groups = groups;
    for (uint32_t u = 0; u < manifest->n_units; u++)
        n_max += groups && manifest->units[u].kind == LAM_UNIT_HEAD
                     ? cut_head(&manifest->units[u], u, head_max, NULL)
                     : 3;
    cutting->pieces = lam_calloc(n_max, sizeof *cutting->pieces);
    cutting->first = lam_calloc((size_t)manifest->n_units + 1, sizeof *cutting->first);
    if (!cutting->pieces || !cutting->first) {
        lam_cutting_done(cutting);
        return false;
    }
    for (uint32_t u = 0; u < manifest->n_units; u++) {
        cutting->n_pieces +=
            cut_unit(&manifest->units[u], u, groups, head_max, cutting->pieces + cutting->n_pieces);
        cutting->first[u + 1] = cutting->n_pieces;
    }
    for (uint32_t i = 0; i < cutting->n_pieces; i++) {
        const struct lam_plan_piece *piece = &cutting->pieces[i];
        cutting->bytes += piece->device_bytes;
        n_spans += piece->n_spans;
        if (piece->device_bytes > cutting->piece_bytes_max)
            cutting->piece_bytes_max = piece->device_bytes;
    }
    cutting->copy_bytes = (double)cutting->bytes / (double)n_spans;
    cutting->weights_per_byte = count_weights(manifest) / (double)cutting->bytes;
    return true;
}

void lam_cutting_done(struct lam_cutting *cutting)
{
    lam_free(cutting->pieces);
    lam_free(cutting->first);
    memset(cutting, 0, sizeof *cutting);
}

double lam_cutting_rate(const struct lam_cutting *cutting, double link_rate)
{
    return cutting->copy_bytes / (cutting->copy_bytes / link_rate + COPY_SECONDS);
}

bool lam_plan_tensor_offset(
    const struct lam_plan_piece *piece, const struct lam_unit_tensor *tensor, uint64_t *ret_offset)
{
    if (piece->kind == LAM_PIECE_HEAD) {
        *ret_offset = 0;
        return true;
    }
    for (uint32_t s = 0; s < piece->n_spans; s++) {
        const struct lam_plan_span *span = &piece->spans[s];
        if (tensor->offset < span->unit_offset || tensor->offset >= span->unit_offset + span->bytes)
            continue;
        *ret_offset = span->piece_offset + (tensor->offset - span->unit_offset);
        return true;
    }
    return false;
}
