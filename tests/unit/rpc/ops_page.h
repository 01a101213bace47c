/*
 * ops_page: reads an operations port as a test wants to: pages, values of series, and whether
 * docs/metrics.md lists what is exported. Fails the test where something is not there.
 */
#ifndef LAMINAR_TESTS_UNIT_RPC_OPS_PAGE_H
#define LAMINAR_TESTS_UNIT_RPC_OPS_PAGE_H

#include "common/status.h"

/* The body of the answer; where it is none of 200, the error's text. Lives until the next call.
 * address: as for lam_ops_get. */
const char *ops_page(const char *address, const char *path);

/* The value of a series, with its labels as they are written. */
double ops_page_value(const char *page, const char *series);

/* The document lists exactly the metrics of this page that begin with prefix. */
void ops_page_is_listed(const char *page, const char *prefix);

#endif
