/* fake_nvml: a library that answers like NVML, for one GPU, with numbers that a test sets. */
#ifndef LAMINAR_TESTS_UNIT_CLI_FAKE_NVML_H
#define LAMINAR_TESTS_UNIT_CLI_FAKE_NVML_H

#include <stdatomic.h>

/* The library's symbol `fake_nvml`. */
struct fake_nvml {
    atomic_ullong used_bytes;    /* of the GPU */
    atomic_uint n_processes;     /* that compute on it; at most 2 */
    atomic_ullong process_bytes; /* of each; all ones: not known */
    atomic_uint n_reads;
    atomic_int n_open; /* inits less shutdowns */
};

#endif
