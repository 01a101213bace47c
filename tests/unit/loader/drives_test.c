/* drives: which units have their turn together. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "loader/drives.h"
#include "loader/slots.h"

#define PARTS_MAX 12
#define PART_BYTES 1000u

static struct lam_part parts[PARTS_MAX];
static struct lam_part copies[PARTS_MAX];
static struct lam_span spans[PARTS_MAX];
static struct lam_unit units[2 * PARTS_MAX];

/* A model of n parts, each with a device's number as in the string, of two units each. */
static struct lam_file make_file(uint32_t n, const char *devices)
{
    struct lam_file file = {.n_parts = n,
        .parts = parts,
        .spans = spans,
        .manifest = {.units = units, .n_units = 2 * n}};

    for (uint32_t p = 0; p < n; p++) {
        parts[p] = (struct lam_part){.identity = {.st_dev = (dev_t)devices[p]}};
        spans[p] = (struct lam_span){.begin = p * PART_BYTES, .bytes = PART_BYTES};
    }
    for (uint32_t u = 0; u < 2 * n; u++)
        units[u] = (struct lam_unit){.file_offset = u * PART_BYTES / 2, .bytes = PART_BYTES / 2};
    return file;
}

static void a_drive_is_known_by_its_device(void **state)
{
    struct lam_drives drives = {0};

    (void)state;
    assert_int_equal(lam_drives_find(&drives, 7), 0);
    assert_int_equal(lam_drives_find(&drives, 3), 1);
    assert_int_equal(lam_drives_find(&drives, 7), 0);
    for (dev_t device = 100; device < 120; device++)
        assert_true(lam_drives_find(&drives, device) < LAM_JOBS_DRIVES_MAX);
    assert_int_equal(lam_drives_find(&drives, 119), LAM_JOBS_DRIVES_MAX - 1);
}

static void units_go_with_the_drive_of_their_part(void **state)
{
    struct lam_file file = make_file(4, "abba");
    uint32_t groups[2 * PARTS_MAX];

    (void)state;
    assert_int_equal(lam_drives_group_units(&file, &file.manifest, NULL, 0, groups), 2);
    for (uint32_t u = 0; u < 8; u++)
        assert_int_equal(groups[u], u >= 2 && u < 6);
    units[1].bytes = PART_BYTES / 2 + 499; /* the smaller half of it in the next part */
    assert_int_equal(lam_drives_group_units(&file, &file.manifest, NULL, 0, groups), 2);
    assert_int_equal(groups[1], 0);
    units[1].bytes += 2;
    assert_int_equal(lam_drives_group_units(&file, &file.manifest, NULL, 0, groups), 2);
    assert_int_equal(groups[1], 1);
}

/* With a copy of everything on both drives each of them has its turn always. */
static void mirrors_make_one_group_of_two_drives(void **state)
{
    struct lam_file file = make_file(4, "abab");
    struct lam_mirror mirror = {.n_parts = 4, .parts = copies};
    uint32_t groups[2 * PARTS_MAX];

    (void)state;
    for (uint32_t p = 0; p < 4; p++)
        copies[p] = (struct lam_part){.identity = {.st_dev = (dev_t) "baba"[p]}};
    assert_int_equal(lam_drives_group_units(&file, &file.manifest, &mirror, 1, groups), 1);
    copies[3].identity.st_dev = 'c';
    assert_int_equal(lam_drives_group_units(&file, &file.manifest, &mirror, 1, groups), 2);
    assert_int_equal(groups[5], 0);
    assert_int_equal(groups[6], 1);
}

static void more_drives_than_groups_are_shared(void **state)
{
    struct lam_file file = make_file(PARTS_MAX, "abcdefghijkl");
    uint32_t groups[2 * PARTS_MAX];

    (void)state;
    assert_int_equal(
        lam_drives_group_units(&file, &file.manifest, NULL, 0, groups), LAM_SLOTS_DRIVES_MAX);
    for (uint32_t u = 0; u < 2 * PARTS_MAX; u++)
        assert_int_equal(
            groups[u], u / 2 < LAM_SLOTS_DRIVES_MAX ? u / 2 : LAM_SLOTS_DRIVES_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drive_is_known_by_its_device),
        cmocka_unit_test(units_go_with_the_drive_of_their_part),
        cmocka_unit_test(mirrors_make_one_group_of_two_drives),
        cmocka_unit_test(more_drives_than_groups_are_shared),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
