/* capture: see capture.h. */
#include "tests/unit/common/capture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char caught[1 << 18];
static int captured_fd;
static int real_fd; /* what was there before */

void capture_to(int fd, int target)
{
    fflush(stdout);
    captured_fd = fd;
    real_fd = dup(fd);
    assert_true(real_fd >= 0 && dup2(target, fd) >= 0);
}

void capture_begin(int fd)
{
    char path[] = "/tmp/capture.XXXXXX";
    int file = mkstemp(path);

    assert_true(file >= 0);
    unlink(path);
    /* As a service's stderr: else threads share an offset and one write may lie on another. */
    assert_int_equal(fcntl(file, F_SETFL, O_APPEND), 0);
    capture_to(fd, file);
    close(file);
}

char *capture_end(void)
{
    ssize_t n;

    fflush(stdout);
    n = pread(captured_fd, caught, sizeof caught - 1, 0);
    caught[n > 0 ? n : 0] = '\0'; /* a terminal has no offset: nothing */
    assert_true(dup2(real_fd, captured_fd) >= 0);
    close(real_fd);
    return caught;
}
