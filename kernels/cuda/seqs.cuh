/* seqs: the sequences of a call as a kernel parameter, a batch at a time. */
#ifndef LAMINAR_KERNELS_CUDA_SEQS_CUH
#define LAMINAR_KERNELS_CUDA_SEQS_CUH

#include "kernels/ops.h"

enum { SEQ_BATCH = 64 };

struct seq_batch {
    lam_seq_rows seqs[SEQ_BATCH];
};

/* launch(batch, n_in_batch, rows_max) for each batch that has rows; its result is a runtime error
 * number. want(seq): whether a sequence takes part. */
template <typename WANT, typename LAUNCH>
static int for_seqs(
    const lam_seq_rows *seqs, uint32_t n_seqs, const WANT &want, const LAUNCH &launch)
{
    seq_batch batch = {};
    uint32_t n = 0;
    uint32_t rows_max = 0;
    int error = 0;

    for (uint32_t i = 0; i < n_seqs && error == 0; i++) {
        if (seqs[i].n_rows == 0 || !want(seqs[i]))
            continue;
        batch.seqs[n++] = seqs[i];
        rows_max = seqs[i].n_rows > rows_max ? seqs[i].n_rows : rows_max;
        if (n == SEQ_BATCH) {
            error = launch(batch, n, rows_max);
            n = 0;
            rows_max = 0;
        }
    }
    return error == 0 && n > 0 ? launch(batch, n, rows_max) : error;
}

#endif
