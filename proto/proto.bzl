"""Rules around protoc and protoc-c. They need no Bazel rules from outside."""

# Generated code is not ours: its warnings are off, ours stay on.
_GENERATED_COPTS = ["-w"]

def lam_protos(name, srcs, root, virtual, visibility, imports = []):
    """Compiles .proto files to one C library.

    Args:
      name: the library.
      srcs: dict from a label of a .proto file to its path below `root`, without ".proto".
      root: folder on which the paths stand, as seen from the execution root.
      virtual: prefix of the include paths, which are "<virtual>/<path>.pb-c.h".
      visibility: who may depend on it.
      imports: labels of the files that others import, as paths below `root`.
    """
    sources = []
    headers = []
    for label, path in srcs.items():
        below = "%s/%s" % (virtual, path)
        outs = [path + ".pb-c.c", path + ".pb-c.h"]
        native.genrule(
            name = name + "_" + path.replace("/", "_"),
            srcs = [label] + [other for other in imports if other != label],
            outs = outs,
            cmd = "protoc-c -I%s=%s -I%s --c_out=$(GENDIR) %s.proto" % (virtual, root, root, below),
            visibility = ["//visibility:private"],
        )
        sources.append(outs[0])
        headers.append(outs[1])
    native.cc_library(
        name = name,
        srcs = sources,
        hdrs = headers,
        copts = _GENERATED_COPTS,
        includes = ["."],  # an import is named from `root` on, also in C
        visibility = visibility,
        deps = ["@debian//:protobuf_c"],
    )

def lam_embed(name, src, out, header, symbol):
    """A C source of `<symbol>[]`, the bytes of `src`, and of `<symbol>_bytes`, their number."""
    native.genrule(
        name = name,
        srcs = [src],
        outs = [out],
        cmd = " && ".join([
            "{ echo '#include \"%s\"'" % header,
            "echo 'const unsigned char %s[] = {'" % symbol,
            "od -An -v -tx1 $(location %s) | sed 's/ /,0x/g; s/^,//; s/$$/,/'" % src,
            "echo '};'",
            "echo 'const size_t %s_bytes = sizeof %s;'; } > $@" % (symbol, symbol),
        ]),
        visibility = ["//visibility:private"],
    )
