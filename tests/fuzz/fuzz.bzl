"""Fuzz targets: libFuzzer programs, built by `--config=fuzz` only."""

load("@rules_cc//cc:defs.bzl", "cc_binary")

def lam_fuzz(name, deps, srcs = [], main = None, defines = []):
    """A libFuzzer target `<name>_fuzz` from `<name>_fuzz.c`.

    main: another source, where one serves several targets; `defines` tell them apart.
    Run: bazel build --config=fuzz //tests/fuzz:<name>_fuzz
         bazel-bin/tests/fuzz/<name>_fuzz CORPUS_DIR
    Tagged manual: without the fuzzer's runtime it has no main.
    """
    cc_binary(
        name = name + "_fuzz",
        testonly = True,
        srcs = [main or name + "_fuzz.c"] + srcs,
        local_defines = defines,
        tags = ["manual"],
        deps = deps,
    )
