"""RELOCATABLE: link flags of every program that the bundle holds."""

# Libraries are looked for in ../lib of the program first. The old tag (DT_RPATH) also holds for
# what the libraries themselves need, of which the linker knows nothing here; where there is no
# ../lib, in a tree that Bazel built, it changes nothing.
RELOCATABLE = [
    "-Wl,-rpath,$$ORIGIN/../lib",
    "-Wl,--disable-new-dtags",
]
