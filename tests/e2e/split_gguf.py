"""Splits a GGUF file as the tools of the format do: metadata in the first shard, tensors in turn.

    split_gguf.py MODEL DIR TENSORS      DIR/<stem>-00001-of-00003.gguf and so on
"""
import pathlib
import sys

import gguf


def split(model, directory, max_tensors):
    """Returns the shards' paths, in order."""
    reader = gguf.GGUFReader(model)
    stem = pathlib.Path(model).stem
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(pathlib.Path(directory) / f"{stem}.gguf", architecture,
                             split_max_tensors=max_tensors)
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=item)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(pathlib.Path(directory).glob(f"{stem}-*-of-*.gguf"))


if __name__ == "__main__":
    for path in split(sys.argv[1], sys.argv[2], int(sys.argv[3])):
        print(path)
