/* pool: nobody else can write to it, resize it, or find it missing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/map.h"
#include "loader/pool.h"

#define POOL_BYTES ((uint64_t)5 << 20)

static void only_its_own_mapping_can_write(void **state)
{
    struct lam_pool pool;
    unsigned char *other;
    char byte = 1;

    (void)state;
    assert_int_equal(lam_pool_init(POOL_BYTES, 4096, &pool, NULL), LAM_OK);
    assert_true(pool.bytes >= POOL_BYTES);
    pool.base[POOL_BYTES - 1] = 0x5a;

    assert_int_equal(ftruncate(pool.fd, 0), -1);
    assert_int_equal(ftruncate(pool.fd, (off_t)POOL_BYTES * 2), -1);
    assert_int_equal(pwrite(pool.fd, &byte, 1, 0), -1);
    assert_true(
        mmap(NULL, pool.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pool.fd, 0) == MAP_FAILED);
    other = mmap(NULL, pool.bytes, PROT_READ, MAP_SHARED, pool.fd, 0);
    assert_true(other != MAP_FAILED);
    assert_int_equal(other[POOL_BYTES - 1], 0x5a);
    assert_int_equal(mprotect(other, pool.bytes, PROT_READ | PROT_WRITE), -1);
    munmap(other, pool.bytes);
    lam_pool_done(&pool);
}

static void populated_means_in_memory(void **state)
{
    static unsigned char resident[POOL_BYTES / 4096 + 512];
    struct lam_pool pool;

    (void)state;
    assert_int_equal(lam_pool_init(POOL_BYTES, 4096, &pool, NULL), LAM_OK);
    assert_int_equal(lam_pool_populate(&pool, 0, POOL_BYTES, NULL), LAM_OK);
    assert_int_equal(mincore(pool.base, POOL_BYTES, resident), 0);
    for (uint64_t i = 0; i < POOL_BYTES / 4096; i++)
        assert_int_equal(resident[i] & 1, 1);
    lam_pool_done(&pool);
}

/* Is any shared memory of this process mapped by huge pages? */
static bool has_huge_pages(void)
{
    static char text[8192];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    const char *line;

    assert_true(n > 0);
    text[n] = '\0';
    close(fd);
    line = strstr(text, "ShmemPmdMapped:");
    assert_non_null(line);
    return strspn(line + strlen("ShmemPmdMapped:"), " 0") !=
           strcspn(line + strlen("ShmemPmdMapped:"), "k");
}

static void pages_are_what_the_pool_says(void **state)
{
    struct lam_pool pool;

    (void)state;
    assert_int_equal(lam_pool_init(POOL_BYTES, POOL_BYTES, &pool, NULL), LAM_OK);
    assert_int_equal(has_huge_pages(), strcmp(pool.pages, "thp") == 0);
    lam_pool_done(&pool);
}

/* They are better pages, not a condition. */
static void no_huge_page_is_no_failure(void **state)
{
    static unsigned char resident[POOL_BYTES / 4096 + 512];
    struct lam_pool pool;
    bool had_thp;

    (void)state;
    assert_int_equal(lam_pool_init(POOL_BYTES, POOL_BYTES, &pool, NULL), LAM_OK);
    had_thp = strcmp(pool.pages, "thp") == 0;
    lam_pool_done(&pool);
    if (!had_thp)
        skip(); /* reserved ones, or a kernel without either */

    lam_fault_arm("collapse", 1);
    assert_int_equal(lam_pool_init(POOL_BYTES, POOL_BYTES, &pool, NULL), LAM_OK);
    assert_true(lam_fault_fired());
    assert_string_equal(pool.pages, "4k");
    assert_non_null(strstr(pool.note, "4 KiB"));
    assert_int_equal(mincore(pool.base, POOL_BYTES, resident), 0);
    for (uint64_t i = 0; i < POOL_BYTES / 4096; i++)
        assert_int_equal(resident[i] & 1, 1);
    lam_pool_done(&pool);

    /* Later, when "thp" has been said: it is told how many bytes go without. */
    lam_fault_arm("collapse", 2);
    assert_int_equal(lam_pool_init(POOL_BYTES, LAM_HUGE_PAGE_BYTES, &pool, NULL), LAM_OK);
    assert_string_equal(pool.pages, "thp");
    assert_int_equal(pool.small_bytes, 0);
    assert_int_equal(
        lam_pool_populate(&pool, LAM_HUGE_PAGE_BYTES, POOL_BYTES - LAM_HUGE_PAGE_BYTES, NULL),
        LAM_OK);
    assert_true(lam_fault_fired());
    assert_int_equal(pool.small_bytes, POOL_BYTES - LAM_HUGE_PAGE_BYTES);
    lam_fault_arm("collapse", 0);
    lam_pool_done(&pool);
}

/* Whoever reads waits for memory: when it comes late, no later region asks for huge pages. */
static void huge_pages_that_are_late_are_not_asked_for_again(void **state)
{
    const uint64_t page = LAM_HUGE_PAGE_BYTES;
    struct lam_pool pool;
    bool asked;

    (void)state;
    assert_int_equal(lam_pool_init(POOL_BYTES, page, &pool, NULL), LAM_OK);
    asked = pool.asks_huge;
    if (asked) {
        lam_fault_arm("late collapse", 1);
        assert_int_equal(lam_pool_populate(&pool, page, page, NULL), LAM_OK);
        assert_true(lam_fault_fired());
        lam_fault_arm("late collapse", 0);
        assert_false(pool.asks_huge);
        assert_int_equal(pool.small_bytes, 0); /* this region has them still */
        assert_int_equal(lam_pool_populate(&pool, 2 * page, POOL_BYTES - 2 * page, NULL), LAM_OK);
        assert_int_equal(pool.small_bytes, POOL_BYTES - 2 * page);
    }
    lam_pool_done(&pool);
    if (!asked)
        skip(); /* reserved ones, or none to be had */
}

static void a_machine_without_memory_is_a_status(void **state)
{
    struct lam_pool pool;
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("populate", 1);
    if (lam_pool_init(POOL_BYTES, POOL_BYTES, &pool, &err) == LAM_OK) {
        /* There were reserved huge pages, and the second kind of pages took over. */
        assert_string_not_equal(pool.pages, "hugetlb");
        lam_pool_done(&pool);
        skip();
    }
    assert_true(lam_fault_fired());
    lam_fault_arm("populate", 0);
    assert_int_equal(err.status, LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "--ram"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_its_own_mapping_can_write),
        cmocka_unit_test(populated_means_in_memory),
        cmocka_unit_test(pages_are_what_the_pool_says),
        cmocka_unit_test(no_huge_page_is_no_failure),
        cmocka_unit_test(huge_pages_that_are_late_are_not_asked_for_again),
        cmocka_unit_test(a_machine_without_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
