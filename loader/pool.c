/* pool: see the header. MADV_POPULATE_WRITE answers with an error where a plain touch would be a
 * SIGBUS (hugetlb under a container's limit), so populating is also the test of a kind of pages.
 *
 * Transparent huge pages for shared memory are off on nearly all machines (shmem_enabled: never),
 * but that is about page faults: MADV_COLLAPSE is a request of the program's own and gets them.
 */
#include "loader/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/map.h"
#include "common/processors.h"
#include "common/size.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define SMALL_PAGE_BYTES 4096u

/* Populated by one call to the kernel: long enough to be worth it, and all threads end together. */
#define POPULATE_STEP_BYTES (16 * LAM_MIB)

/* More do not help: the kernel clears pages at the speed of memory. */
#define POPULATE_THREADS_MAX 8u

/* What a step with huge pages takes at most where memory is at hand. What steps take beyond that is
 * summed up over the whole pool, since somebody waits: where memory is in fragments the kernel
 * moves others' pages about, and a virtual machine has to get its largest free blocks back from the
 * host, 5 s for a GiB where small pages take 0.5. Processor time: being preempted says nothing. */
#define COLLAPSE_STEP_NS (25 * LAM_NS_PER_MS)
#define COLLAPSE_LATE_NS_MAX (250 * LAM_NS_PER_MS)

#define COLLAPSE_TRIES 3u /* somebody else holds a page for a moment */

/* What the threads of one call share. */
struct populating {
    const struct lam_pool *pool;
    uint64_t end;
    atomic_bool collapse;      /* huge pages are asked for */
    atomic_uint_fast64_t late; /* ns that steps took beyond COLLAPSE_STEP_NS, of the whole pool */
    atomic_uint_fast64_t next; /* the first byte that nobody has taken */
    atomic_uint_fast64_t small_bytes;
    atomic_int error; /* errno of the first that failed */
};

static int populate_range(unsigned char *base, uint64_t bytes)
{
    int error;

    do {
        error = madvise(base, bytes, MADV_POPULATE_WRITE) == 0 ? 0 : errno;
    } while (error == EINTR || error == EAGAIN);
    return error;
}

/* Huge pages for the whole ones of the range: errno. EAGAIN: not for all of it, this time. */
static int collapse_range(unsigned char *base, uint64_t bytes)
{
    uint32_t tries = 0;
    int error = 0;

    /* Where there is no page at all, there is nothing to collapse. */
    for (uint64_t at = 0; at < bytes && error == 0; at += LAM_HUGE_PAGE_BYTES)
        error = populate_range(base + at, SMALL_PAGE_BYTES);
    if (error != 0)
        return error;
    do {
        error = madvise(base, bytes, MADV_COLLAPSE) == 0 ? 0 : errno;
    } while (error == EAGAIN && ++tries < COLLAPSE_TRIES);
    return lam_fault_hit("collapse") ? ENOMEM : error;
}

/* Huge pages for a step, and whether it is worth it to ask for more. */
static int collapse_step(struct populating *it, unsigned char *base, uint64_t bytes)
{
    uint64_t begin_ns = lam_thread_ns();
    int error = collapse_range(base, lam_align_down(bytes, LAM_HUGE_PAGE_BYTES));
    uint64_t took_ns = lam_thread_ns() - begin_ns;

    if (took_ns > COLLAPSE_STEP_NS)
        atomic_fetch_add(&it->late, took_ns - COLLAPSE_STEP_NS);
    if (lam_fault_hit("late collapse"))
        atomic_fetch_add(&it->late, COLLAPSE_LATE_NS_MAX + 1);
    if ((error != 0 && error != EAGAIN) || atomic_load(&it->late) > COLLAPSE_LATE_NS_MAX)
        atomic_store(&it->collapse, false);
    return error;
}

/* A step, with huge pages if they are to be had. */
static int populate_step(struct populating *it, uint64_t begin, uint64_t bytes)
{
    unsigned char *base = it->pool->base + begin;

    if (!atomic_load(&it->collapse) || collapse_step(it, base, bytes) != 0)
        atomic_fetch_add(&it->small_bytes, bytes);
    return lam_fault_hit("populate") ? ENOMEM : populate_range(base, bytes);
}

/* Steps, until there is none left or one has failed. */
static void *populate_steps(void *arg)
{
    struct populating *it = arg;

    while (atomic_load(&it->error) == 0) {
        uint64_t begin = atomic_fetch_add(&it->next, POPULATE_STEP_BYTES);
        uint64_t bytes = it->end - begin;
        int error, none = 0;

        if (begin >= it->end)
            break;
        error = populate_step(it, begin, bytes < POPULATE_STEP_BYTES ? bytes : POPULATE_STEP_BYTES);
        if (error != 0)
            lam_ignore(atomic_compare_exchange_strong(&it->error, &none, error), "first wins");
    }
    return NULL;
}

static uint32_t threads_for(uint64_t bytes)
{
    uint64_t n_steps = (bytes + POPULATE_STEP_BYTES - 1) / POPULATE_STEP_BYTES;
    uint32_t n = lam_processors();

    if (n > POPULATE_THREADS_MAX)
        n = POPULATE_THREADS_MAX;
    return n < n_steps ? n : (uint32_t)n_steps;
}

static enum lam_status populate(
    struct lam_pool *pool, uint64_t offset, uint64_t bytes, struct lam_err *err)
{
    uint64_t begin = lam_align_down(offset, LAM_HUGE_PAGE_BYTES);
    uint64_t end = lam_align_up(offset + bytes, LAM_HUGE_PAGE_BYTES);
    struct populating it = {.pool = pool, .end = end < pool->bytes ? end : pool->bytes};
    pthread_t threads[POPULATE_THREADS_MAX];
    uint32_t n_threads = 0;
    uint32_t n_wanted = begin < it.end ? threads_for(it.end - begin) : 0;
    char have[24], want[24];

    atomic_init(&it.collapse, pool->asks_huge);
    atomic_init(&it.late, pool->late_ns);
    atomic_init(&it.next, begin);
    atomic_init(&it.small_bytes, 0);
    atomic_init(&it.error, 0);
    /* This thread is one of them; without the others it only takes longer. */
    while (n_threads + 1 < n_wanted &&
           pthread_create(&threads[n_threads], NULL, populate_steps, &it) == 0)
        n_threads++;
    lam_ignore(populate_steps(&it) == NULL, "as for the other threads");
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    if (strcmp(pool->pages, "thp") == 0)
        pool->small_bytes += atomic_load(&it.small_bytes);
    pool->asks_huge = atomic_load(&it.collapse);
    pool->late_ns = atomic_load(&it.late);
    if (atomic_load(&it.error) == 0)
        return LAM_OK;
    return lam_fail_no_fit(err,
        "the machine gave no more than %s of the pool's %s (%s): give a smaller --ram",
        lam_size_format(atomic_load(&pool->ready_bytes) +
                            (atomic_load(&it.next) < it.end ? atomic_load(&it.next) : it.end) -
                            begin,
            have, sizeof(have)),
        lam_size_format(pool->bytes, want, sizeof(want)), strerror(atomic_load(&it.error)));
}

enum lam_status lam_pool_populate(
    struct lam_pool *pool, uint64_t offset, uint64_t bytes, struct lam_err *err)
{
    uint64_t begin_ns = lam_now_ns();
    enum lam_status status = populate(pool, offset, bytes, err);

    if (status == LAM_OK) {
        atomic_fetch_add(&pool->ready_bytes, bytes);
        atomic_fetch_add(&pool->ready_ns, lam_now_ns() - begin_ns);
    }
    return status;
}

/* huge: from the machine's reserved huge pages. */
static enum lam_status try_pages(
    uint64_t bytes, uint64_t first_bytes, bool huge, struct lam_pool *ret_pool, struct lam_err *err)
{
    struct lam_pool pool = {.fd = -1, .pages = huge ? "hugetlb" : "thp", .asks_huge = !huge};
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
    void *base = MAP_FAILED;
    char want[24];
    enum lam_status status;

    pool.bytes = lam_align_up(bytes, huge ? LAM_HUGE_PAGE_BYTES : SMALL_PAGE_BYTES);
    pool.fd = memfd_create("laminar-pool", flags);
    if (pool.fd >= 0 && ftruncate(pool.fd, (off_t)pool.bytes) == 0)
        base = lam_map_shared(pool.fd, pool.bytes, PROT_READ | PROT_WRITE);
    if (base == MAP_FAILED) {
        int error = errno;

        lam_size_format(pool.bytes, want, sizeof(want));
        if (error == ENOMEM || error == ENOSPC)
            status =
                lam_fail_no_fit(err, "cannot make a memory pool of %s: %s", want, strerror(error));
        else
            status = lam_fail_errno(err, error, "cannot make a memory pool of %s", want);
        goto fail;
    }
    pool.base = base;
    /* The weights are on disk already: they have no place in a core file. */
    lam_ignore(madvise(base, pool.bytes, MADV_DONTDUMP), "only larger core files without it");
    if (fcntl(pool.fd, F_ADD_SEALS,
            F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
        status = lam_fail(err, LAM_UNIMPLEMENTED,
            "the kernel cannot seal the memory pool (%s): Linux 5.14 or newer is needed",
            strerror(errno));
        goto fail;
    }
    status = lam_pool_populate(&pool, 0, first_bytes, err);
    if (status != LAM_OK)
        goto fail;
    if (!pool.asks_huge && !huge) { /* this machine has none to give */
        pool.pages = "4k";
        pool.small_bytes = 0;
    }
    *ret_pool = pool;
    return LAM_OK;

fail:
    lam_pool_done(&pool);
    return status;
}

enum lam_status lam_pool_init(
    uint64_t bytes, uint64_t first_bytes, struct lam_pool *ret_pool, struct lam_err *err)
{
    struct lam_pool pool;
    struct lam_err why = {0};
    enum lam_status status;

    if (try_pages(bytes, first_bytes, true, &pool, &why) == LAM_OK) {
        *ret_pool = pool;
        return LAM_OK;
    }
    status = try_pages(bytes, first_bytes, false, &pool, err);
    if (status != LAM_OK)
        return status;
    snprintf(pool.note, sizeof(pool.note), "no huge pages are set aside (%.120s)%s", why.text,
        strcmp(pool.pages, "thp") == 0
            ? ", transparent ones take their place"
            : ", and the kernel gave no transparent ones in time: pages of 4 KiB, which cost "
              "more processor time; Linux 6.1 or newer has them where enough memory is free");
    *ret_pool = pool;
    return LAM_OK;
}

void lam_pool_done(struct lam_pool *pool)
{
    if (pool->base != NULL)
        munmap(pool->base, pool->bytes);
    if (pool->fd > 0)
        close(pool->fd);
    *pool = (struct lam_pool){0};
}
