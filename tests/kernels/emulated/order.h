/* order (private to the emulated device): see order.c. */
#ifndef LAMINAR_TESTS_KERNELS_EMULATED_ORDER_H
#define LAMINAR_TESTS_KERNELS_EMULATED_ORDER_H

#include "tests/kernels/emulated/queue.h"

/* What arrange and matmul do when their turn comes. */
void emulated_arrange(const struct lam_arrange_args *args);
void emulated_matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args);

#endif
