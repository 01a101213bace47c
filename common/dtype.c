/* dtype: see dtype.h. Source of the layouts: ggml's published block formats. */
#include "common/dtype.h"

#include <assert.h>
#include <stddef.h>

#include "common/size.h"

static const struct lam_dtype_info infos[LAM_DTYPE_END] = {
    [LAM_F32] = {"F32", 1, 4},
    [LAM_F16] = {"F16", 1, 2},
    [LAM_Q4_0] = {"Q4_0", 32, 18},
    [LAM_Q4_1] = {"Q4_1", 32, 20},
    [LAM_Q5_0] = {"Q5_0", 32, 22},
    [LAM_Q5_1] = {"Q5_1", 32, 24},
    [LAM_Q8_0] = {"Q8_0", 32, 34},
    [LAM_Q4_K] = {"Q4_K", 256, 144},
    [LAM_Q5_K] = {"Q5_K", 256, 176},
    [LAM_Q6_K] = {"Q6_K", 256, 210},
    [LAM_BF16] = {"BF16", 1, 2},
};

/* Types of GGUF that this build has no arithmetic for; named in errors only. */
static const struct {
    uint32_t id;
    const char *name;
} foreign[] = {
    {9, "Q8_1"},
    {10, "Q2_K"},
    {11, "Q3_K"},
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    {20, "IQ4_NL"},
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {23, "IQ4_XS"},
    {24, "I8"},
    {25, "I16"},
    {26, "I32"},
    {27, "I64"},
    {28, "F64"},
    {29, "IQ1_M"},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {39, "MXFP4"},
    {40, "NVFP4"},
};

bool lam_dtype_known(uint32_t id)
{
    return id < (uint32_t)LAM_DTYPE_END && infos[id].name != NULL;
}

const char *lam_dtype_name(uint32_t id)
{
    if (lam_dtype_known(id))
        return infos[id].name;
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (foreign[i].id == id)
            return foreign[i].name;
    return NULL;
}

const struct lam_dtype_info *lam_dtype_info(enum lam_dtype dtype)
{
    assert(lam_dtype_known((uint32_t)dtype));
    return &infos[dtype];
}

bool lam_dtype_row_bytes(enum lam_dtype dtype, uint64_t n_elems, uint64_t *ret_bytes)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);

    if (n_elems % info->block_elems != 0)
        return false;
    return lam_size_mul(n_elems / info->block_elems, info->block_bytes, ret_bytes);
}
