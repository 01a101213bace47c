"""simulated_kernels: the objects of .cu files, compiled as C++ for the simulated GPU."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

_FLAGS = [
    "-x",
    "c++",
    "-std=c++17",
    "-include",
    "cuda_runtime_api.h",  # as nvcc does
    "-D_GNU_SOURCE",
    "-O1",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    # a * b + c stays two roundings unless a kernel says fmaf, as in the library for GPUs.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-pass-failed",  # of #pragma unroll
    "-I.",
    "-isystem",
]

def _implementation(ctx):
    toolchain = find_cpp_toolchain(ctx)
    lane = ["-fsanitize=thread"]  # see watch.h
    lane += [flag for flag in ctx.fragments.cpp.copts if flag.startswith("-fsanitize=undefined") or
                                                         flag.startswith("-fno-sanitize")]
    if "clang" not in toolchain.compiler:
        # smem needs no constructor, which only its definition shows.
        lane.append("-fno-extern-tls-init")
    objects = []
    for kernel in ctx.files.kernels:
        name = "{}/{}.pic.o".format(ctx.label.name, kernel.basename[:-len(".cu")])
        object = ctx.actions.declare_file(name)
        ctx.actions.run(
            executable = toolchain.compiler_executable,
            arguments = _FLAGS + [ctx.attr.include] + ctx.attr.copts + lane +
                        ["-c", kernel.path, "-o", object.path],
            inputs = depset([kernel] + ctx.files.headers, transitive = [toolchain.all_files]),
            outputs = [object],
            mnemonic = "SimulatedKernel",
            use_default_shell_env = True,
        )
        objects.append(object)
    return [DefaultInfo(files = depset(objects))]

simulated_kernels = rule(
    implementation = _implementation,
    attrs = {
        "kernels": attr.label_list(allow_files = [".cu"]),
        "headers": attr.label_list(allow_files = True),
        "include": attr.string(mandatory = True),
        "copts": attr.string_list(),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)
