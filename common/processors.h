/* processors: how many processors there are for us. */
#ifndef LAMINAR_COMMON_PROCESSORS_H
#define LAMINAR_COMMON_PROCESSORS_H

#include <stdint.h>

/* Those that the calling thread may run on, which a container or taskset may have cut; at least 1.
 * Any thread. */
uint32_t lam_processors(void);

#endif
