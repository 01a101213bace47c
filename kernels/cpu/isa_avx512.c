/* isa_avx512: the CPU kernels, compiled for AVX-512 with VNNI. cpu.c asks the CPU first. */
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul.h"

static const struct lam_cpu_isa table = {
    .name = "avx512-vnni",
    .matmul_unit = TILE_PANELS * LANES,
    .quantise = quantise,
    .matmul = matmul,
    .rms_norm = rms_norm,
    .rope = rope,
    .kv_write = kv_write,
    .swiglu = swiglu,
    .attend_block = attend_block,
    .attend_merge = attend_merge,
    .attend_finish = attend_finish,
};

const struct lam_cpu_isa *lam_cpu_isa_avx512(void)
{
    return &table;
}
