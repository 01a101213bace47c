/*
 * plan_size: what a device holds beside weights and slots, to the byte.
 *
 * Activations are f32, as kernels/ops.h has them. Attention and feed-forward never run at the same
 * time, nor does the arrival of the embedding rows: these three share one piece of memory, as large
 * as the largest. The request was checked (plan.c): these sums stay far below 2^63.
 */
#include <string.h>

#include "common/size.h"
#include "model/plan_impl.h"

/* As lam_device_workspace_bytes of kernels/device.h has it: rows in 16 bits, in steps of both
 * sides; a tile of the weights in 16 bits; sums of parts of a long context, where cuBLAS has its
 * scratch too. tests/unit/model/plan_size_test.c holds the two against each other. */
#define ROWS_STEP 128u
#define COLS_STEP 64u
#define TILE_BYTES (64 * LAM_MIB)
#define SPLIT_ROWS 16u
#define SPLITS 64u
/* The CPU kernels' quantised rows: 32 values, scale and sum. */
#define Q8_BLOCK 32u
#define Q8_BLOCK_BYTES 40u
/* lam_sample_scratch_bytes of one token of the vocabulary. */
#define SAMPLER_BYTES 12u
/* What the worker holds of a sequence: its rows of a pass, its state, its parameters. */
#define SEQ_BYTES 128u

/* Reserves bytes at the running end. */
static uint64_t take(uint64_t *end, uint64_t bytes)
{
    uint64_t offset = *end;

    *end += lam_align_up(bytes, LAM_PLAN_ALIGN);
    return offset;
}

static uint64_t max_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The widths of the model, once. */
struct widths {
    uint64_t rows, seqs, wanted, embd, q, kv, ff, vocab, heads, rope;
    uint64_t page_tokens, context_pages, pages;
};

static struct widths widths_of(
    const struct lam_plan_request *request, const struct lam_plan_settings *settings)
{
    const struct lam_spec *spec = request->spec;
    uint64_t page_tokens = request->page_tokens > 0 ? request->page_tokens : LAM_PLAN_PAGE_TOKENS;
    uint64_t context_pages = (settings->n_ctx + page_tokens - 1) / page_tokens;

    return (struct widths){
        .rows = max_of(settings->prefill_chunk, settings->n_seqs),
        .seqs = settings->n_seqs,
        .wanted = request->n_logit_rows > 0 ? request->n_logit_rows : settings->n_seqs,
        .page_tokens = page_tokens,
        .context_pages = context_pages,
        .pages = request->n_pages > 0 ? request->n_pages : context_pages * settings->n_seqs,
        .embd = spec->n_embd,
        .q = (uint64_t)spec->n_heads * spec->head_dim,
        .kv = (uint64_t)spec->n_kv_heads * spec->head_dim,
        .ff = spec->n_ff,
        .vocab = spec->n_vocab,
        .heads = spec->n_heads,
        .rope = spec->rope_dim,
    };
}

static uint64_t workspace_bytes(const struct lam_plan_request *request, const struct widths *w)
{
    uint64_t longest = max_of(w->ff, max_of(w->embd, w->q));
    uint64_t cols = (longest + COLS_STEP - 1) / COLS_STEP * COLS_STEP;
    uint64_t rows = (w->rows + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP;

    if (request->devices[0].kind == LAM_DEVICE_CPU)
        return (longest + Q8_BLOCK - 1) / Q8_BLOCK * Q8_BLOCK_BYTES * w->rows;
    return rows * cols * 2 + max_of(TILE_BYTES, cols * 2 * ROWS_STEP) +
           lam_align_up(SPLIT_ROWS * SPLITS * (w->q + 2 * w->heads) * 4, LAM_PLAN_ALIGN) +
           lam_align_up(SPLIT_ROWS * w->heads * 2 * 4, LAM_PLAN_ALIGN);
}

/* Offsets from *end on, which moves behind the activations. */
static void place_activations(const struct lam_plan_request *request, const struct widths *w,
    uint64_t *end, struct lam_plan_buffers *buffers)
{
    bool cpu = request->devices[0].kind == LAM_DEVICE_CPU;
    uint64_t begin, attention, feed_forward, arrival;

    buffers->residual = take(end, w->rows * w->embd * 4);
    buffers->normed = take(end, w->rows * w->embd * 4);
    buffers->rope = take(end, w->rows * w->rope * 4);
    begin = *end;
    attention = begin;
    buffers->q = take(&attention, w->rows * w->q * 4);
    buffers->k = take(&attention, w->rows * w->kv * 4);
    buffers->v = take(&attention, w->rows * w->kv * 4);
    buffers->attended = take(&attention, w->rows * w->q * 4);
    feed_forward = cpu ? attention : begin; /* the CPU engine gives each its own place */
    buffers->gate = take(&feed_forward, w->rows * w->ff * 4);
    buffers->up = take(&feed_forward, w->rows * w->ff * 4);
    arrival = begin;
    buffers->arrival =
        take(&arrival, lam_plan_arrival_rows(w->rows) +
                           (cpu ? 0 : w->rows * request->manifest->embedding.row_bytes));
    *end = max_of(attention, max_of(feed_forward, arrival));
}

/* The worker's tables on the host, which the memory of a CPU holds too. */
static uint64_t bookkeeping_bytes(const struct lam_plan_settings *settings, const struct widths *w)
{
    uint64_t end = 0;

    take(&end, w->rows * (4 + 4 + 8)); /* ids, positions, rows of the embedding */
    take(&end, w->seqs * SEQ_BYTES);
    take(&end, (w->context_pages * w->seqs + w->seqs + w->pages) * 4); /* page tables, free pages */
    take(&end, w->context_pages * w->seqs * 4); /* the tables as the kernels have them */
    take(&end, w->seqs * settings->n_ctx * 4);  /* history, for penalties */
    take(&end, w->vocab * SAMPLER_BYTES);
    return end;
}

static void place_tables(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, const struct widths *w, uint64_t *end,
    struct lam_plan_buffers *buffers)
{
    buffers->page_tables = take(end, w->context_pages * w->seqs * 4);
    buffers->output_norm = take(end, w->embd * 4);
    buffers->rope_factors = take(end, w->rope / 2 * 4);
    if (request->devices[0].kind == LAM_DEVICE_CPU) {
        buffers->bookkeeping_bytes = bookkeeping_bytes(settings, w);
        buffers->bookkeeping = take(end, buffers->bookkeeping_bytes);
    }
    if (request->n_devices > 1)
        take(end, 2 * w->rows * (w->embd + w->ff) * 4); /* from the device before, to the next */
}

static uint64_t kv_row_bytes(enum lam_dtype dtype, uint64_t n_elems)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);

    return n_elems / info->block_elems * info->block_bytes;
}

struct lam_plan_sizes lam_plan_sizes(
    const struct lam_plan_request *request, const struct lam_plan_settings *settings)
{
    struct widths w = widths_of(request, settings);
    struct lam_plan_buffers buffers = {0};
    struct lam_plan_sizes sizes = {0};

    take(&sizes.base_bytes, workspace_bytes(request, &w));
    place_activations(request, &w, &sizes.base_bytes, &buffers);
    place_tables(request, settings, &w, &sizes.base_bytes, &buffers);
    take(&sizes.head_bytes, w.wanted * w.embd * 4);
    take(&sizes.head_bytes, w.wanted * w.vocab * 4);
    sizes.n_logit_rows = (uint32_t)w.wanted;
    sizes.page_tokens = (uint32_t)w.page_tokens;
    sizes.n_pages = (uint32_t)w.pages;
    sizes.kv_page_bytes = kv_row_bytes(settings->kv_dtype, w.kv) * w.page_tokens;
    sizes.kv_layer_bytes = lam_align_up(2 * sizes.kv_page_bytes * sizes.n_pages, LAM_PLAN_ALIGN);
    return sizes;
}

void lam_plan_lay_out(const struct lam_plan_request *request,
    const struct lam_plan_settings *settings, bool has_head, uint32_t n_kv_layers,
    uint64_t slots_bytes, uint64_t resident_bytes, uint64_t embedding_bytes,
    struct lam_plan_arena *arena)
{
    struct lam_plan_sizes sizes = lam_plan_sizes(request, settings);
    struct widths w = widths_of(request, settings);
    uint64_t ends[LAM_REGIONS];
    uint64_t end = 0;

    take(&end, workspace_bytes(request, &w));
    ends[LAM_REGION_WORKSPACE] = end;
    place_activations(request, &w, &end, &arena->buffers);
    ends[LAM_REGION_ACTIVATIONS] = end;
    if (has_head) {
        arena->buffers.head_in = take(&end, w.wanted * w.embd * 4);
        arena->buffers.logits = take(&end, w.wanted * w.vocab * 4);
    }
    ends[LAM_REGION_LOGITS] = end;
    place_tables(request, settings, &w, &end, &arena->buffers);
    ends[LAM_REGION_TABLES] = end;
    ends[LAM_REGION_KV] = end += n_kv_layers * sizes.kv_layer_bytes;
    ends[LAM_REGION_SLOTS] = end += slots_bytes;
    ends[LAM_REGION_RESIDENT] = end += resident_bytes;
    ends[LAM_REGION_EMBEDDING] = end += lam_align_up(embedding_bytes, LAM_PLAN_ALIGN);
    for (uint32_t r = 0; r < LAM_REGIONS; r++) {
        arena->regions[r].offset = r > 0 ? ends[r - 1] : 0;
        arena->regions[r].bytes = ends[r] - arena->regions[r].offset;
    }
    arena->arena_bytes = lam_align_up(
        end, request->devices[0].kind == LAM_DEVICE_CPU ? LAM_PLAN_ALIGN : LAM_PLAN_ARENA_STEP);
}
