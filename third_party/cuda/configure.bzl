"""The CUDA toolkit as an external repository, found at $CUDA_HOME or /usr/local/cuda.

Without a toolkit the repository is there and empty: HAVE_CUDA is False, and what is built with
cuda_shared_library (cuda.bzl) becomes an empty target.
"""

_BUILD = """
cc_library(
    name = "headers",
    hdrs = glob(["include/**"]),
    includes = ["include"],
    visibility = ["//visibility:public"],
)

cc_import(
    name = "cudart",
    static_library = "lib64/libcudart_static.a",
    visibility = ["//visibility:public"],
)
"""

def _impl(ctx):
    home = ctx.os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = ctx.path(home + "/bin/nvcc")
    needed = ["lib64/libcudart_static.a", "include/cublasLt.h"]
    found = nvcc.exists and all([ctx.path(home + "/" + file).exists for file in needed])
    ctx.file("defs.bzl", "HAVE_CUDA = {}\nNVCC = \"{}/bin/nvcc\"\n".format(found, home))
    if found:
        ctx.symlink(home + "/include", "include")
        ctx.symlink(home + "/lib64", "lib64")
    ctx.file("BUILD", _BUILD if found else "")

cuda_configure = repository_rule(
    implementation = _impl,
    environ = ["CUDA_HOME"],
    local = True,
)
