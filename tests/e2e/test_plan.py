"""`laminar plan`: models that nobody has here, as headers in sparse files; machines likewise."""
import json
import os
import re
import resource
import struct

import pytest

import cli

GIB = 1 << 30
BLOCKS = {"F32": (0, 1, 4), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}
SHAPES = {
    "8b": dict(layers=32, width=4096, heads=32, ff=14336, kv_heads=8, head_dim=128, vocab=128256),
    "70b": dict(layers=80, width=8192, heads=64, kv_heads=8, head_dim=128, ff=28672, vocab=128256),
}
DEVICE_FIELDS = ["device", "cap_bytes", "context_bytes", "resident_bytes", "slots_bytes",
                 "kv_bytes", "activations_bytes", "workspace_bytes", "total_bytes", "layers",
                 "layers_resident", "layers_streamed", "streamed_bytes_per_pass", "embedding_bytes"]
PARTS = ["context_bytes", "resident_bytes", "slots_bytes", "kv_bytes", "activations_bytes",
         "workspace_bytes"]


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def tensors_of(shape):
    """(name, columns, rows, type), in file order, with the mix of types of a Q4_K_M file."""
    s = shape
    q, kv, eighth = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"], s["layers"] // 8
    yield "token_embd.weight", s["width"], s["vocab"], "Q4_K"
    for i in range(s["layers"]):
        heavy = i < eighth or i >= 7 * eighth or (i - eighth) % 3 == 2
        better = "Q6_K" if heavy else "Q4_K"
        for name, cols, rows, kind in (
                ("attn_norm", s["width"], 0, "F32"), ("ffn_down", s["ff"], s["width"], better),
                ("ffn_gate", s["width"], s["ff"], "Q4_K"), ("ffn_up", s["width"], s["ff"], "Q4_K"),
                ("ffn_norm", s["width"], 0, "F32"), ("attn_k", s["width"], kv, "Q4_K"),
                ("attn_output", q, s["width"], "Q4_K"), ("attn_q", s["width"], q, "Q4_K"),
                ("attn_v", s["width"], kv, better)):
            yield f"blk.{i}.{name}.weight", cols, rows, kind
    yield "output_norm.weight", s["width"], 0, "F32"
    yield "output.weight", s["width"], s["vocab"], "Q6_K"


def write_model(path, shape):
    keys = [("general.architecture", 8, string("llama")), ("general.name", 8, string("shape"))]
    for key, value in (("block_count", shape["layers"]), ("embedding_length", shape["width"]),
                       ("feed_forward_length", shape["ff"]), ("context_length", 131072),
                       ("attention.head_count", shape["heads"]),
                       ("attention.head_count_kv", shape["kv_heads"]),
                       ("rope.dimension_count", shape["head_dim"])):
        keys.append(("llama." + key, 4, struct.pack("<I", value)))
    for key, value in (("attention.layer_norm_rms_epsilon", 1e-5), ("rope.freq_base", 500000.0)):
        keys.append(("llama." + key, 6, struct.pack("<f", value)))
    table, offset, n = b"", 0, 0
    for name, cols, rows, kind in tensors_of(shape):
        type_id, elems, size = BLOCKS[kind]
        dims = (cols, rows) if rows else (cols,)
        table += string(name) + struct.pack("<I", len(dims))
        table += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", type_id, offset)
        offset += (cols // elems * size * (rows or 1) + 31) // 32 * 32
        n += 1
    header = b"GGUF" + struct.pack("<IQQ", 3, n, len(keys))
    header += b"".join(string(key) + struct.pack("<I", kind) + value for key, kind, value in keys)
    header += table
    with open(path, "wb") as file:
        file.write(header)
        file.truncate((len(header) + 31) // 32 * 32 + offset)
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / f"{name}.gguf", shape) for name, shape in SHAPES.items()}


@pytest.fixture
def home(tmp_path):
    return tmp_path


def plan(home, *arguments, code=0):
    """Runs `laminar plan --json` within a second of the processor, however busy the machine is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cli.run(home, "plan", *arguments, "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == code, done.stderr.decode()
    assert took < 1, took
    assert done.stdout.startswith(b'{"version":1,') and done.stdout.count(b"\n") == 1
    return json.loads(done.stdout)


def test_four_times_three_gib(home, models):
    """exllama's 3,3,3,3: every device under 3 GiB, the four links equally busy."""
    data = plan(home, models["70b"], "--gpu", "24GiB*4", "--vram", "3,3,3,3", "--ctx", "4096",
                "--ram", "64GiB")
    assert list(data) == ["version", "fits", "devices", "host", "predicted", "levers"]
    assert data["fits"] is True and len(data["devices"]) == 4
    for device in data["devices"]:
        assert list(device) == DEVICE_FIELDS
        assert device["cap_bytes"] == 3 * GIB >= device["total_bytes"] > 2.8 * GIB
        assert device["total_bytes"] == sum(device[part] for part in PARTS)
        assert device["layers"] == device["layers_resident"] + device["layers_streamed"]
    assert sum(device["layers"] for device in data["devices"]) == 80
    shares = [device["streamed_bytes_per_pass"] for device in data["devices"]]
    assert max(shares) - min(shares) <= 0.02 * max(shares)
    assert data["predicted"]["bound"] == "link"
    assert data["predicted"]["pass_seconds"] == pytest.approx(max(shares) / 25e9, rel=0.01)
    assert list(data["host"]) == list(OF_HOST)
    assert 0 < data["host"]["embedding_bytes"] < data["host"]["pool_bytes"]
    assert data["host"]["disk_bytes_per_pass"] == 0
    assert data["host"]["kept_units"] == data["host"]["units"]


# The fields that others build on, and what each is.
FIELDS = {
    "version": int, "fits": bool, "devices": list, "host": dict, "predicted": dict, "levers": list}
OF_HOST = {"pool_bytes": int, "kept_units": int, "units": int, "embedding_bytes": int,
           "disk_bytes_per_pass": int}
OF_PREDICTED = {"pass_seconds": float, "tokens_per_second": float, "bound": str}
OF_LEVERS = {"flag": str, "saves_bytes": int}


def check_types(data, types):
    for name, kind in types.items():
        assert type(data[name]) is kind, (name, data[name])


@pytest.mark.parametrize("arguments", [
    ("--gpu", "24GiB*4", "--vram", "3,3,3,3", "--ctx", "4096", "--ram", "64GiB"),
    ("--gpu", "80GiB", "--ram", "64GiB"), ("--ram", "8GiB")])
def test_fields_have_their_types(home, models, arguments):
    data = plan(home, models["70b"], *arguments)
    check_types(data, FIELDS)
    check_types(data["host"], OF_HOST)
    check_types(data["predicted"], OF_PREDICTED)
    assert data["predicted"]["bound"] in ("link", "disk", "memory", "compute")
    for device in data["devices"]:
        check_types(device, {"device": str, **{name: int for name in DEVICE_FIELDS[1:]}})
    assert data["version"] == 1 and data["levers"]
    for lever in data["levers"]:
        check_types(lever, OF_LEVERS)


def test_every_sacrifice_is_told_in_order(home, models):
    """What was not given is lowered until it fits; what was given never is."""
    done = cli.run(home, "plan", models["70b"], "--gpu", "80GiB", "--vram", "1350MiB",
                   "--ram", "64GiB")
    notes = [line.split(" instead")[0] for line in done.stderr.decode().splitlines()]
    assert done.returncode == 0, done.stderr
    order = ["laminar: note: context 1024", "laminar: note: KV cache in q8_0",
             "laminar: note: prompts in chunks of 128"]
    assert [note.rsplit(" ", 1)[0] for note in notes] == [
        note.rsplit(" ", 1)[0] for note in order], notes
    given = ("--ctx", "8192", "--kv-type", "f16", "--prefill-chunk", "512")
    done = cli.run(home, "plan", models["70b"], "--gpu", "80GiB", "--vram", "1350MiB",
                   "--ram", "64GiB", *given)
    assert done.returncode == 3 and b"note" not in done.stderr


def test_faster_links_and_disks_are_believed(home, models):
    machine = ("--gpu", "80GiB", "--vram", "2GiB")
    slow = plan(home, models["8b"], *machine, "--ram", "64GiB", "--link", "10GB/s")
    fast = plan(home, models["8b"], *machine, "--ram", "64GiB", "--link", "50GB/s")
    ratio = slow["predicted"]["pass_seconds"] / fast["predicted"]["pass_seconds"]
    assert 4.8 < ratio < 5.05
    disk = plan(home, models["8b"], *machine, "--ram", "2GiB", "--disk", "1GB/s")
    assert disk["predicted"]["bound"] == "disk"
    # The time is that of the most that is read, whichever units the device holds: a little more.
    read_seconds = disk["host"]["disk_bytes_per_pass"] / 1e9
    assert read_seconds <= disk["predicted"]["pass_seconds"] < 1.1 * read_seconds


@pytest.mark.parametrize("arguments", [
    ("--gpu", "80GiB", "--vram", "1500MiB", "--ctx", "4096", "--prefill-chunk", "512",
     "--kv-type", "f16"),
    ("--gpu", "80GiB*2", "--vram", "1400MiB,1GiB", "--ctx", "8192", "--batch", "4"),
    ("--ram", "700MiB", "--ctx", "4096"),
])
def test_what_does_not_fit_says_what_would(home, models, arguments):
    """Exit 3; each lever saves something, and those that are enough are."""
    data = plan(home, models["70b"], *arguments, "--disk", "7GB/s", code=3)
    assert data["fits"] is False and data["predicted"] is None and data["levers"]
    text = cli.run(home, "plan", models["70b"], *arguments)
    assert text.returncode == 3 and b"minimum" in text.stderr and b"Options: --" in text.stderr
    assert "0.00 GiB" not in text.stderr.decode()
    enough = [line.split("  saves")[0].strip() for line in text.stdout.decode().splitlines()
              if line.endswith(": enough")]
    assert enough
    for lever in enough:
        flag, value = lever.split(" ", 1)
        changed = [word for i, word in enumerate(arguments)
                   if flag not in (word, arguments[max(i, 1) - 1])]
        changed += [flag, value.strip()]
        assert plan(home, models["70b"], *changed)["fits"] is True, lever


def test_table(home, models):
    done = cli.run(home, "plan", models["70b"], "--gpu", "24GiB*2", "--vram", "4GiB",
                   "--ram", "24GiB")
    text = done.stdout.decode()
    assert done.returncode == 0 and not done.stderr, done.stderr
    for word in ("context", "resident", "slots", "KV", "free", "GB/pass", "cuda:0",
                 "cuda:1", "pool", "tokens/s", "1 GiB more of VRAM", "1 GiB more of RAM",
                 "assumed"):
        assert word in text, word


def test_a_small_model_streams_megabytes(home):
    """A pass of a small model stood in the table as 0.00 GB."""
    arguments = (cli.MODEL, "--gpu", "24GiB", "--vram", "650MiB", "--ram", "24GiB", "--ctx", "512")
    (device,) = plan(home, *arguments)["devices"]
    text = cli.run(home, "plan", *arguments).stdout.decode()
    row = next(line for line in text.splitlines() if line.startswith("cuda:0")).split()
    assert "MB/pass" in text and "GB/pass" not in text
    assert device["streamed_bytes_per_pass"] > 0
    assert float(row[-1]) == pytest.approx(device["streamed_bytes_per_pass"] / 1e6, abs=0.006)


def test_cpu_counts_everything_under_ram(home, models):
    data = plan(home, models["8b"], "--ram", "3GiB", "--ctx", "4096", "--disk", "100MB/s")
    (device,) = data["devices"]
    assert device["device"] == "cpu" and device["slots_bytes"] == 0
    assert device["total_bytes"] + data["host"]["pool_bytes"] <= 3 * GIB == device["cap_bytes"]
    assert data["predicted"]["bound"] == "disk"


def test_a_context_that_nobody_asked_for_is_weighed(home):
    """It is kept while it fits, and told what it costs."""
    done = cli.run(home, "plan", cli.MODEL, "--ram", "300MiB")
    text = done.stdout.decode()
    assert done.returncode == 0 and "context 8192" in text
    n_ctx, seconds = re.search(r"--ctx (\d+), which was not given: ([\d.]+) s", text).groups()
    shorter = plan(home, cli.MODEL, "--ram", "300MiB", "--ctx", n_ctx)
    assert shorter["predicted"]["pass_seconds"] == pytest.approx(float(seconds), abs=0.0001)
    text = cli.run(home, "plan", cli.MODEL, "--ram", "300MiB", "--ctx", "8192").stdout.decode()
    assert "not given" not in text


def test_a_cache_of_a_cpu_may_be_packed(home):
    plain = plan(home, cli.MODEL, "--ram", "400MiB", "--ctx", "8192")["devices"][0]
    packed = plan(home, cli.MODEL, "--ram", "400MiB", "--ctx", "8192", "--kv-type",
                  "q8_0")["devices"][0]
    assert packed["kv_bytes"] * 64 == plain["kv_bytes"] * 34


def test_unused_devices_get_one_note(home, models):
    done = cli.run(home, "plan", models["8b"], "--gpu", "24GiB*4", "--vram", "3,3",
                   "--ram", "16GiB")
    assert done.returncode == 0
    assert done.stderr.decode() == (
        "laminar: note: cuda:2, cuda:3: not used, because --vram lists 2 of 4 devices\n")


@pytest.mark.parametrize("arguments, text", [
    (("--gpu", "80GiB", "--vram", "3 GB"), "--vram: item 1 '3 GB' has a space in it"),
    (("--gpu", "80GiB*2", "--vram", "3,3,3"), "item 3 '3' is one too many: there is cuda:0"),
    (("--gpu", "80GiB*2", "--vram", "8192,4096"), "did you mean 8192MiB?"),
    (("--gpu", "80GiB*0"), "--gpu: '80GiB*0'"),
    (("--gpu", "80GiB*17"), "--gpu: '80GiB*17'"),
    (("--gpu", "80GiB,,"), "--gpu: ''"),
    (("--gpu", ""), "--gpu: ''"),
    (("--gpu", "80GiB", "--link", "25GB"), "--link: '25GB' is not a speed"),
    (("--gpu", "80GiB", "--link", "0GB/s"), "--link: '0GB/s' is not a speed"),
    (("--disk", "fast"), "--disk: 'fast' is not a speed"),
    (("--ram", "lots"), "--ram: 'lots' is not a size"),
    (("--vram", "3GiB"), "--gpu"),
    (("--layer-batch", "0"), "--layer-batch: '0'"),
    (("--layer-batch", "99"), "--layer-batch 99 is more than the 32 layers"),
    (("--ctx", "200000"), "--ctx 200000 is more than the 131072 tokens"),
    (("--device", "gpu"), "--device: 'gpu' is none of auto, cpu and cuda:0 to cuda:15"),
    (("--device", "cuda:0,cuda:16"), "--device: 'cuda:16' is none of auto"),
    (("--device", "cuda:0", "--gpu", "80GiB"), "--gpu goes not with --device cuda:0; drop one"),
    (("--device", "cuda:0,cuda:1"), "no GPU was measured on this machine; run `laminar doctor"),
])
def test_bad_usage(home, models, arguments, text):
    done = cli.run(home, "plan", models["8b"], *arguments,
                   env=cli.environment(home, HOME=str(home)))
    assert done.returncode == 2 and done.stdout == b""
    assert text in done.stderr.decode() and done.stderr.count(b"\n") == 1, done.stderr


def test_no_model(home):
    done = cli.run(home, "plan", os.path.join(home, "absent.gguf"))
    assert done.returncode == 1 and b"absent.gguf" in done.stderr
