/*
 * capture: what this process writes to stdout or stderr, as text. One at a time; fails the test
 * when it cannot.
 *
 *     capture_begin(STDERR_FILENO);
 *     ...
 *     text = capture_end();      lives until the next capture_begin
 */
#ifndef LAMINAR_TESTS_UNIT_COMMON_CAPTURE_H
#define LAMINAR_TESTS_UNIT_COMMON_CAPTURE_H

void capture_begin(int fd);
char *capture_end(void);

/* As capture_begin, but what is written goes to `target` and capture_end returns nothing of it. */
void capture_to(int fd, int target);

#endif
