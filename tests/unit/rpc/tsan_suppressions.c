/*
 * tsan_suppressions: for ThreadSanitizer runs of anything that links gRPC. Debian's libraries are
 * not instrumented, so the sanitizer cannot see their locks. A race in our own code has none of
 * them on its stack, because our callbacks run on our own thread, and is still reported.
 */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
    /* libstdc++: memory that gRPC allocated and handed to us. We have no C++ of our own. */
    return "race:libgrpc.so\nrace:libgpr.so\nrace:libabsl_\nrace:libupb.so\nrace:libstdc++.so\n";
}
