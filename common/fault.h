/*
 * fault: numbered points at which a test makes the outside world fail.
 *
 * Each allocation, read, send and so on asks lam_fault_hit("alloc") first. A test arms one site to
 * fail at its n-th visit and repeats with n = 1, 2, 3 ... until a run passes untouched: then every
 * failure path ran. Unarmed, a visit costs one relaxed atomic load. Arming is for tests and is not
 * thread-safe against itself.
 *
 * Other points are there to be slow: lam_fault_pass("register") waits for as long as a test holds
 * the site, so a test sees what goes on meanwhile, on a machine of any speed.
 */
#ifndef LAMINAR_COMMON_FAULT_H
#define LAMINAR_COMMON_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* True when the caller has to fail now. site: a string literal. Safe from any thread. */
bool lam_fault_hit(const char *site);

/* The n-th visit (1-based) of `site` fails, once. n = 0 disarms. */
void lam_fault_arm(const char *site, uint64_t nth);

/* Did the armed visit happen since lam_fault_arm? */
bool lam_fault_fired(void);

/* Waits here while a test holds the site. site: a string literal. */
void lam_fault_pass(const char *site);

/* From now on n_more visits of `site` pass, and those after them wait; who waits already counts
 * among them. NULL: nobody waits. One site at a time. */
void lam_fault_hold(const char *site, uint64_t n_more);

/* Returns when a visit waits at the site that is held. */
void lam_fault_await(void);

#endif
