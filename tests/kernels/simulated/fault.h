/* fault: the first broken rule since the last reset, as a sentence: the device's sticky error. */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_FAULT_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_FAULT_H

/* Keeps the sentence, if it is the first. */
__attribute__((format(printf, 1, 2))) void sim_fault(const char *format, ...);

/* NULL: there is none. */
const char *sim_fault_text(void);
void sim_fault_clear(void);

#endif
