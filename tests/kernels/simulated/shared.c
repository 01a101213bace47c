/* shared: see shared.h. */
#include "tests/kernels/simulated/shared.h"

#include <link.h>
#include <string.h>

#include "tests/kernels/simulated/block.h"
#include "tests/kernels/simulated/memory.h"
#include "tests/kernels/simulated/watch.h"

enum { POISON = 0xFF };

/* What kernels declare as `extern __shared__ uint4 smem[]`. */
extern _Thread_local uint8_t smem[SIM_SMEM_BYTES];
_Thread_local uint8_t smem[SIM_SMEM_BYTES] __attribute__((aligned(1024)));

/* Of the thread that runs kernels. */
static struct {
    uint8_t *begin; /* of all */
    uint8_t *end;
    uint8_t *smem;
    uint32_t smem_bytes; /* of the launch */
} shared;

/* Finds the storage of this library's thread-local variables: the one around `smem`. */
static int find_storage(struct dl_phdr_info *info, size_t bytes, void *unused)
{
    uint8_t *begin = info->dlpi_tls_data;

    (void)bytes;
    (void)unused;
    for (int i = 0; i < info->dlpi_phnum && begin != NULL; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS)
            continue;
        uint8_t *end = begin + info->dlpi_phdr[i].p_memsz;
        if (shared.smem >= begin && shared.smem < end) {
            shared.begin = begin;
            shared.end = end;
            return 1;
        }
    }
    return 0;
}

/* The library around *bounds[0]. */
static int find_image(struct dl_phdr_info *info, size_t bytes, void *bounds)
{
    uint8_t **image = bounds;
    uint8_t *begin = NULL;
    uint8_t *end = NULL;

    (void)bytes;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uint8_t *at = (uint8_t *)(uintptr_t)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        if (info->dlpi_phdr[i].p_type != PT_LOAD)
            continue;
        begin = begin == NULL || at < begin ? at : begin;
        end = at + info->dlpi_phdr[i].p_memsz > end ? at + info->dlpi_phdr[i].p_memsz : end;
    }
    if (image[0] < begin || image[0] >= end)
        return 0;
    image[0] = begin;
    image[1] = end;
    return 1;
}

void sim_find_image(uint8_t **ret_begin, uint8_t **ret_end)
{
    uint8_t *bounds[2] = {(uint8_t *)&shared, NULL};

    (void)dl_iterate_phdr(find_image, bounds);
    *ret_begin = bounds[0];
    *ret_end = bounds[1];
}

void sim_smem_begin(uint32_t bytes)
{
    if (shared.smem != smem) {
        shared.smem = smem;
        shared.begin = smem;
        shared.end = smem + sizeof(smem);
        (void)dl_iterate_phdr(find_storage, NULL);
    }
    shared.smem_bytes = bytes;
    memset(shared.begin, POISON, (size_t)(shared.smem - shared.begin));
    memset(shared.smem, POISON, bytes);
    uint8_t *behind = shared.smem + sizeof(smem);
    memset(behind, POISON, (size_t)(shared.end - behind));
}

const uint8_t *sim_shared_base(void)
{
    return shared.begin;
}

uint64_t sim_shared_bytes(void)
{
    return (uint64_t)(shared.end - shared.begin);
}

bool sim_is_shared(const void *at)
{
    const uint8_t *byte = at;

    return byte >= shared.begin && byte < shared.end &&
           (byte < shared.smem + shared.smem_bytes || byte >= shared.smem + sizeof(smem));
}

/* Addresses count from smem, whose place is a multiple of 1024 as the window's is. */
uint32_t sim_shared_address(const void *at)
{
    return (uint32_t)((uintptr_t)at - (uintptr_t)shared.smem);
}

uint8_t *sim_smem_at(uint32_t smem_address, uint32_t bytes)
{
    uint8_t *at = shared.smem + (int32_t)smem_address;

    return sim_is_shared(at) && sim_is_shared(at + bytes - 1) ? at : NULL;
}

void sim_copy_async(uint32_t smem_address, const void *from, uint32_t bytes)
{
    struct sim_copies *copies = &sim_self()->copies;
    uint8_t *to = sim_smem_at(smem_address, bytes);

    if (to == NULL)
        sim_break("cp.async to %#x: outside of shared memory", smem_address);
    if (smem_address % bytes != 0 || (uintptr_t)from % bytes != 0)
        sim_break("cp.async of %u bytes from %p to %#x: not aligned", bytes, from, smem_address);
    if (copies->end - copies->begin == SIM_COPIES_MAX)
        sim_break("more than %d copies of one thread at once", SIM_COPIES_MAX);
    sim_watch_copy_begin(to, from, bytes);
    if (sim_running()->copies_early)
        memcpy(to, from, bytes);
    copies->copies[copies->end++ % SIM_COPIES_MAX] =
        (struct sim_copy){to, from, bytes, copies->group};
}

void sim_copy_commit(void)
{
    sim_self()->copies.group++;
}

void sim_copy_wait(uint32_t n_left)
{
    struct sim_copies *copies = &sim_self()->copies;

    while (copies->begin != copies->end) {
        const struct sim_copy *copy = &copies->copies[copies->begin % SIM_COPIES_MAX];
        if (copy->group + n_left >= copies->group)
            break;
        memcpy(copy->to, copy->from, copy->bytes);
        sim_watch_copy_end(copy->to, copy->bytes);
        copies->begin++;
    }
}
