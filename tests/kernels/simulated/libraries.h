/*
 * libraries: what the GPU backend opens at run time, cuBLAS and NVML, is here part of the library:
 * cublas.c and memory_use.c are compiled with these functions as dlopen, dlsym and dlclose.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_LIBRARIES_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_LIBRARIES_H

void *sim_dlopen(const char *name, int flags);
void *sim_dlsym(void *library, const char *name);
int sim_dlclose(void *library);

#endif
