"""cuda_shared_library: one shared library from kernels (.cu) and C files."""

load("@cuda//:defs.bzl", "HAVE_CUDA", "NVCC")

# Machine code for Ampere, Ada and Hopper, and PTX for what comes after.
_ARCHITECTURES = ["80", "86", "89", "90"]

_FLAGS = [
    "-std=c++17",
    "-O3",
    "-Werror all-warnings",
    # a * b + c stays two roundings unless a kernel says fmaf, as in the other backends.
    "-fmad=false",
    "-Xcompiler -fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-Wall,-Wextra",
] + [
    "-gencode arch=compute_{0},code=sm_{0}".format(number)
    for number in _ARCHITECTURES
] + ["-gencode arch=compute_90,code=compute_90"]

def cuda_shared_library(name, kernels, kernel_headers, export_map, srcs, deps, visibility):
    """Builds `name`, which exports what the linker script export_map lists.

    Without a toolkit it is empty. kernels: .cu files, each compiled by itself. kernel_headers:
    everything that they include from this repository. srcs, deps: the C part, as of cc_library.
    """
    if not HAVE_CUDA:
        native.filegroup(name = name, visibility = visibility)
        return
    for kernel in kernels:
        native.genrule(
            name = kernel + "_object",
            srcs = [kernel] + kernel_headers,
            outs = [kernel.replace(".cu", ".pic.o")],
            cmd = "{} {} -I. -c $(location {}) -o $@".format(NVCC, " ".join(_FLAGS), kernel),
        )
    native.cc_library(
        name = name + "_host",
        srcs = srcs,
        copts = ["-fvisibility=hidden"],
        deps = deps + ["@cuda//:headers"],
        alwayslink = True,
    )
    native.cc_binary(
        name = name,
        srcs = [kernel.replace(".cu", ".pic.o") for kernel in kernels],
        additional_linker_inputs = [export_map],
        linkopts = [
            "-Wl,--version-script=$(location {})".format(export_map),
            "-Wl,-z,defs",
            "-ldl",
            "-lrt",
        ],
        linkshared = True,
        visibility = visibility,
        deps = [
            ":" + name + "_host",
            "@cuda//:cudart",
        ],
    )
