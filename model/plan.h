/*
 * plan: where every byte goes and how long a pass takes, before anything is loaded. A pure function
 * of the model's headers, facts about the hardware and a request: no device, no clock, no file; the
 * same input gives the same plan. A worker's arena and a loader's pool are built from the result,
 * so plan and allocation cannot drift apart.
 *
 * A unit (model/manifest.h) is cut into *pieces*: what is resident in a device, or flows through
 * its slots, as a whole. Pieces are whole units, or, where memory is tight, tensor groups:
 * attention; gate and up; down; row tiles of the head. Every piece is in exactly one tier: resident
 * in its device, kept in RAM, or read from disk in each pass; the last two cross the link.
 *
 * Device memory, everything that the process holds there, never above the cap:
 *
 *     | context | arena: workspace, activations, logits, tables, KV, slots, residents, embedding |
 *
 * The arena is one allocation. Regions lie in it in this order at multiples of 256 bytes.
 *
 * Several devices: every matrix is streamed over the link of its own device. When something must be
 * streamed the layers are *dealt*: device 0 has layer 0, device 1 layer 1 and so on around, in
 * shares that take all links equally long, and a third slot lets a device load its next layer while
 * the others compute. Then all links run all the time and a pass takes as long as the largest
 * share. With one range of layers per device (LAM_STAGES_RANGES) a device can only fill its slots
 * while it waits, so a pass takes the sum. When nothing is streamed, ranges are used: fewer hops.
 *
 * More memory never makes a plan slower, for devices that compute equally fast and all of the
 * request given. docs/design/002-planner.md says how.
 */
#ifndef LAMINAR_MODEL_PLAN_H
#define LAMINAR_MODEL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/size.h"
#include "common/status.h"
#include "model/manifest.h"
#include "model/spec.h"

#define LAM_PLAN_DEVICES_MAX 16u
#define LAM_PLAN_ALIGN 256u
#define LAM_PLAN_ARENA_STEP ((uint64_t)2 << 20) /* what a device hands out at least */
#define LAM_PLAN_PAGE_TOKENS 64u
#define LAM_PLAN_SPANS_MAX 9u

enum lam_device_kind {
    LAM_DEVICE_GPU,
    LAM_DEVICE_CPU, /* weights are used in place, in the pool: no slots, no link */
};

/* Rates are in bytes, or operations, per second and positive. */
struct lam_plan_device {
    char name[32];
    enum lam_device_kind kind;
    uint64_t total_bytes;   /* of the device; 0: not known */
    uint64_t cap_bytes;     /* all that the process may hold there; 0: not used. CPU: not read */
    uint64_t context_bytes; /* taken before the arena: calibrated, or a stated default */
    double link_rate;       /* host to device. CPU: not read */
    double memory_rate;     /* device memory. CPU: not read */
    double product_rate;    /* weights in products with one row; 0: as memory_rate. CPU: not read */
    double
        layer_seconds; /* of a layer with one row, beside products; 0: as assumed. CPU: not read */
    double flop_rate;
};

struct lam_plan_host {
    uint64_t ram_bytes; /* for the pool; CPU: for pool, context and arena together */
    double disk_rate;
    double memory_rate;     /* all links together cannot be faster */
    uint64_t align;         /* of direct reads: a power of two; 0: 4,096 */
    const uint32_t *drives; /* [n_units] each unit's, < n_drives, all of disk_rate; NULL: one */
    uint32_t n_drives;
};

enum lam_objective {
    LAM_OBJECTIVE_LATENCY,    /* memory goes to resident weights */
    LAM_OBJECTIVE_THROUGHPUT, /* a batch that is not given may grow: memory goes to its KV */
};

enum lam_stages {
    LAM_STAGES_AUTO,   /* dealt when something is streamed, else ranges */
    LAM_STAGES_RANGES, /* one range of layers for each device, shares balanced */
};

/* Zero is "not given": the default, which a plan may lower when nothing else fits (see notes). */
struct lam_plan_request {
    const struct lam_spec *spec;
    const struct lam_manifest *manifest;
    const struct lam_plan_device *devices; /* [n_devices], all GPUs or one CPU */
    uint32_t n_devices;
    struct lam_plan_host host;
    uint32_t n_ctx;          /* tokens of a sequence; default: the model's, at most 8,192 */
    uint32_t n_seqs;         /* sequences in a pass; default 1 */
    uint32_t prefill_chunk;  /* rows of a pass; default 512, CPU: 256 */
    uint32_t n_logit_rows;   /* rows of a pass whose logits are computed; default n_seqs */
    uint32_t page_tokens;    /* of KV: a power of two; default LAM_PLAN_PAGE_TOKENS */
    uint32_t n_pages;        /* of KV, for all sequences; default: a whole context for each */
    uint32_t layer_batch;    /* whole units in a slot; 0: tensor groups or one unit, as is best */
    enum lam_dtype kv_dtype; /* read when kv_given: F32, F16 or (GPU) Q8_0; default F16 */
    bool kv_given;
    bool kv_q8_allowed; /* the device's kernels can: Q8_0 is a possible sacrifice and lever */
    enum lam_objective objective;
    enum lam_stages stages;
};

enum lam_tier { LAM_TIER_DEVICE, LAM_TIER_RAM, LAM_TIER_DISK };

enum lam_piece_kind {
    LAM_PIECE_UNIT, /* all of it */
    LAM_PIECE_ATTENTION,
    LAM_PIECE_GATE_UP,
    LAM_PIECE_DOWN,
    LAM_PIECE_HEAD, /* rows of a head unit */
};

/* Bytes of a unit that lie together in the file and on the device. */
struct lam_plan_span {
    uint64_t unit_offset;
    uint64_t bytes;
    uint64_t piece_offset; /* multiple of LAM_PLAN_ALIGN */
};

struct lam_plan_piece {
    uint32_t unit;
    enum lam_piece_kind kind;
    enum lam_tier tier;
    uint32_t device;
    uint32_t n_spans;
    struct lam_plan_span spans[LAM_PLAN_SPANS_MAX];
    uint64_t bytes;             /* sum of the spans: what crosses the link */
    uint64_t device_bytes;      /* what it takes on a device: spans padded to LAM_PLAN_ALIGN */
    uint64_t offset;            /* resident: of its first byte in the arena; else 0 */
    uint64_t row_begin, n_rows; /* HEAD: rows of the unit's matrix; else 0 */
};

enum lam_region_kind {
    LAM_REGION_WORKSPACE,   /* of the kernels: rows and a tile in 16 bits, split KV */
    LAM_REGION_ACTIVATIONS, /* struct lam_plan_buffers */
    LAM_REGION_LOGITS,
    LAM_REGION_TABLES, /* positions, page tables, small vectors, buffers between devices */
    LAM_REGION_KV,     /* [kv layer][K, V][n_pages][kv_page_bytes] */
    LAM_REGION_SLOTS,  /* n_slots * slot_bytes, which pieces share as worker/ring.h says */
    LAM_REGION_RESIDENT,
    /* The embedding table as it lies in the file, where one device holds everything else and has
     * room left; else empty: rows come from the host, or from a head that is the same matrix. */
    LAM_REGION_EMBEDDING,
    LAM_REGIONS,
};

struct lam_plan_region {
    uint64_t offset; /* in the arena */
    uint64_t bytes;
};

/* f32, offsets in the arena. Attention's buffers and feed-forward's share their memory. */
struct lam_plan_buffers {
    uint64_t residual; /* [T, D] */
    uint64_t normed;   /* [T, D] */
    uint64_t rope;     /* [T, rope_dim] */
    uint64_t q, k, v;  /* [T, H*d], [T, K*d] twice */
    uint64_t attended; /* [T, H*d] */
    uint64_t gate, up; /* [T, F] */
    uint64_t arrival;  /* i32 [T] positions, at lam_plan_arrival_rows the embedding rows */
    uint64_t head_in;  /* [n_logit_rows, D], in LOGITS */
    uint64_t logits;   /* [n_logit_rows, V], in LOGITS */
    /* In TABLES, not all of them f32: */
    uint64_t page_tables;  /* u32 [n_seqs, pages of a context] */
    uint64_t output_norm;  /* [D] */
    uint64_t rope_factors; /* [rope_dim / 2] */
    uint64_t bookkeeping;  /* CPU: the worker's own tables (worker/layout.h) */
    uint64_t bookkeeping_bytes;
};

/* Where the packed embedding rows of a pass of n_rows lie in its arrival: all of it comes from the
 * host in one piece. */
static inline uint64_t lam_plan_arrival_rows(uint64_t n_rows)
{
    return lam_align_up(n_rows * sizeof(int32_t), LAM_PLAN_ALIGN);
}

struct lam_plan_arena {
    bool used;
    struct lam_plan_region regions[LAM_REGIONS];
    struct lam_plan_buffers buffers;
    uint64_t arena_bytes; /* one allocation, a multiple of LAM_PLAN_ARENA_STEP (CPU: of ALIGN) */
    uint64_t context_bytes;
    uint64_t total_bytes;       /* context and arena: <= cap */
    uint64_t minimum_bytes;     /* the smallest cap with which this device can do its share */
    uint32_t n_slots;           /* 0: nothing is streamed; else at least 2 */
    uint64_t slot_bytes;        /* the largest piece, times layer_batch */
    uint32_t n_streamed;        /* pieces in a pass */
    uint32_t n_layers;          /* whose attention, and so KV, is here */
    uint32_t n_layers_resident; /* of those: all that this device has of it is. CPU: RAM keeps it */
    uint64_t streamed_bytes;    /* over its link in a pass */
    double link_seconds;        /* per pass */
    double compute_seconds;
};

struct lam_plan_layer {
    uint32_t device;   /* of its attention */
    uint32_t kv_index; /* within the KV region of that device */
};

/* The loader's pool: what it makes of budget_bytes, by the rule of model/kept.h. */
struct lam_plan_pool {
    uint64_t budget_bytes; /* for --ram of the loader: at most what was given */
    uint64_t pool_bytes;   /* what it takes of that */
    uint64_t slot_bytes;   /* the largest unit's window; 0 when everything is kept */
    uint32_t n_lanes;      /* of the ring that the other units flow through */
    uint64_t lane_bytes;   /* a slot, and what is read ahead into it */
    uint64_t part_bytes;   /* the end of one unit, where no whole one fits any more */
    uint32_t n_ahead;      /* slots for what several drives read ahead of their turn */
    uint64_t table_bytes;  /* beside all units: the embedding; 0: its rows are read when needed */
    uint32_t n_kept;
    bool *kept;            /* [n_units] */
    uint64_t *offsets;     /* [n_units] of kept units in the pool; 0 for others */
    uint64_t unkept_bytes; /* that a pass needs and the pool does not keep: aligned windows */
    uint64_t disk_bytes;   /* of these, read in a pass; the rest lies in lanes that rest */
};

enum lam_bound { LAM_BOUND_COMPUTE, LAM_BOUND_LINK, LAM_BOUND_DISK, LAM_BOUND_HOST_MEMORY };

#define LAM_PLAN_NOTES_BYTES 1024u
#define LAM_PLAN_LEVERS_MAX 12u

/* One thing to change. saves_bytes: how much closer to its cap the tightest device comes, from
 * planning anew with it. */
struct lam_plan_lever {
    char flag[192]; /* "--ctx 2048" */
    uint64_t saves_bytes;
    bool fits; /* enough by itself */
};

struct lam_plan {
    bool fits;
    struct lam_err reason; /* when it does not: the arithmetic and the levers */
    uint32_t n_ctx, n_seqs, prefill_chunk, layer_batch; /* layer_batch 0: tensor groups */
    uint32_t n_logit_rows;
    enum lam_dtype kv_dtype;
    bool dealt;
    uint32_t page_tokens;
    uint32_t n_pages; /* of KV, in every layer */
    uint64_t kv_page_bytes;
    uint32_t n_devices;
    struct lam_plan_arena arenas[LAM_PLAN_DEVICES_MAX];
    uint32_t n_units;
    uint32_t n_pieces;
    struct lam_plan_piece *pieces; /* [n_pieces], in pass order */
    uint32_t n_layers;
    struct lam_plan_layer *layers;
    struct lam_plan_pool pool;
    double pass_seconds; /* n_seqs tokens, half of the context filled */
    double tokens_per_second;
    enum lam_bound bound;
    uint32_t bound_device;            /* BOUND_LINK */
    char notes[LAM_PLAN_NOTES_BYTES]; /* one line each: every sacrifice, in order */
    uint32_t n_levers;
    struct lam_plan_lever levers[LAM_PLAN_LEVERS_MAX];
};

/*
 * A request that cannot be met is a plan as well: fits is false, reason and levers say what is
 * missing, arenas hold the least that each device needs; there are no pieces and no times.
 * Errors: LAM_INVALID_ARGUMENT (a field out of range, named by its flag), LAM_RESOURCE_EXHAUSTED
 * (no memory for the plan itself). Destroy with lam_plan_done.
 */
LAM_MUST_USE enum lam_status lam_plan_make(
    const struct lam_plan_request *request, struct lam_plan *ret_plan, struct lam_err *err);

void lam_plan_done(struct lam_plan *plan); /* a zeroed struct is allowed */

/* Where a tensor of a piece's unit lies, from the piece's first byte on the device; false when the
 * piece does not hold its first byte. HEAD pieces: the first of their rows. */
LAM_MUST_USE bool lam_plan_tensor_offset(
    const struct lam_plan_piece *piece, const struct lam_unit_tensor *tensor, uint64_t *ret_offset);

#endif
