/*
 * crash_states: what a worker can be doing when it, or its loader, is killed. Each function is a
 * process of its own: it gets to its state, writes a byte to standard output (summing: a sum again
 * and again), and stays as it is.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_CRASH_STATES_H
#define LAMINAR_TESTS_UNIT_LOADER_CRASH_STATES_H

#include "tests/unit/loader/pool_worker.h"

#define CRASH_STATES 7u

struct crash_state {
    const char *name;
    void (*be)(const char *dir); /* of the loader's sockets; does not return */
};

extern const struct crash_state crash_states[CRASH_STATES];

/* Writes the byte, and waits for the end. */
_Noreturn void crash_hold_on(void);

/* The next unit that streams. */
struct pool_event crash_take_one(struct pool_worker *worker);

#endif
