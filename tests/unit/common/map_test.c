/* map: where shared memory lies, that all of it is there, and that nothing else is kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/map.h"

static int make_fd(uint64_t bytes)
{
    int fd = memfd_create("map_test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

/* Is there no mapping at this page? */
static bool is_free(unsigned char *page)
{
    unsigned char resident;

    return mincore(page, 4096, &resident) != 0 && errno == ENOMEM;
}

static void test_base_is_a_huge_page(void **state)
{
    static const uint64_t sizes[] = {
        1, 4096, LAM_HUGE_PAGE_BYTES, LAM_HUGE_PAGE_BYTES + 4097, 5 * LAM_HUGE_PAGE_BYTES - 1};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int fd = make_fd(sizes[i]);
        unsigned char *base = lam_map_shared(fd, sizes[i], PROT_READ | PROT_WRITE);
        unsigned char last = 0;

        assert_true(base != MAP_FAILED);
        assert_int_equal((uintptr_t)base % LAM_HUGE_PAGE_BYTES, 0);
        base[sizes[i] - 1] = 0x5a;
        assert_int_equal(pread(fd, &last, 1, (off_t)sizes[i] - 1), 1);
        assert_int_equal(last, 0x5a);
        assert_true(is_free(base + (sizes[i] + 4095) / 4096 * 4096));
        munmap(base, sizes[i]);
        assert_true(is_free(base));
        close(fd);
    }
}

static void test_failures_keep_nothing(void **state)
{
    int fd = make_fd(4096);

    (void)state;
    assert_true(lam_map_shared(fd, 0, PROT_READ) == MAP_FAILED);
    assert_int_equal(errno, EINVAL);
    assert_true(lam_map_shared(fd, UINT64_MAX - 4096, PROT_READ) == MAP_FAILED);
    assert_int_equal(errno, EINVAL);
    close(fd);
    assert_true(lam_map_shared(fd, 4096, PROT_READ) == MAP_FAILED);
    assert_int_equal(errno, EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_is_a_huge_page),
        cmocka_unit_test(test_failures_keep_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
