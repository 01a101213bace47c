"""`laminar synth`: files that the services run, the same bytes each time, and what is refused."""
import hashlib
import math
import os
import signal
import time

import gguf
import pytest

import cli

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_generates_and_its_logits_are_sane(home, tmp_path, kind):
    path = tmp_path / "m.gguf"
    made = cli.run_json(home, "synth", "-o", path, "--type", kind, "--layers", 3)
    assert made["bytes"] == path.stat().st_size and made["layers"] == 3
    text = cli.run_json(home, "run", path, "--raw", "-p", "Hello, world", "-n", 5, "--ctx", 64)
    assert len(text["token_ids"]) >= 1
    rows = cli.run_json(home, "logits", path, "--ids", "1,2,3,4", "--ctx", 64)["logits"]
    row = rows[-1] if isinstance(rows[0], list) else rows
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row))
    assert len(row) == 1024 and all(map(math.isfinite, row))
    assert 1.5 < deviation < 2.5  # neither flat nor certain


def test_same_flags_same_bytes(home, tmp_path):
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(paths, (7, 7, 8)):
        assert cli.run(home, "synth", "-o", path, "--type", "q4_k", "--seed", seed).returncode == 0
    assert digest(paths[0]) == digest(paths[1]) != digest(paths[2])


def test_a_header_is_enough_to_plan(home, tmp_path):
    path = tmp_path / "m.gguf"
    made = cli.run_json(home, "synth", "-o", path, "--preset", "llama3.1-405b", "--type", "q4_k_m",
                        "--sparse")
    assert 240e9 < made["bytes"] < 250e9 and path.stat().st_blocks * 512 < 64e6
    assert cli.run_json(home, "inspect", path)["spec"]["layers"] == 126
    assert cli.run(home, "plan", path, "--gpu", "80GiB").returncode in (0, 3)


def test_a_file_is_replaced_only_by_force(home, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_text("precious")
    done = cli.run(home, "synth", "-o", path)
    assert done.returncode == 1 and b"--force" in done.stderr
    assert path.read_text() == "precious"
    assert cli.run(home, "synth", "-o", path, "--force").returncode == 0
    assert path.stat().st_size > 1e6
    assert set(os.listdir(tmp_path)) == {"m.gguf", "run"}


def test_no_space_is_told_before_anything_is_written(home, tmp_path):
    path = tmp_path / "m.gguf"
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    if free > 1.5e12:
        pytest.skip("more than 1.5 TB are free here")
    done = cli.run(home, "synth", "-o", path, "--preset", "llama3.1-405b", "--type", "f32")
    assert done.returncode == 1 and b"are free there" in done.stderr
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "-o FILE"),
    (["-o", "/proc/nonexistent/m.gguf"], 1, "/proc/nonexistent/m.gguf"),
    (["-o", "/dev/null", "--force"], 1, "no regular file"),
    (["-o", "m.gguf", "--preset", "smollm2-135m", "--type", "q4_k"], 2, "multiple of the 256"),
    (["-o", "m.gguf", "--preset", "llama9"], 2, "--preset"),
    (["-o", "m.gguf", "--split-max-size", "much"], 2, "--split-max-size"),
    (["-o", "m.gguf", "--split-max-size", "0"], 2, "such as 2GiB"),
    (["-o", "m.gguf", "--layers", "100", "--split-max-size", "1KiB"], 2, "larger size"),
])
def test_what_cannot_be_is_named(home, tmp_path, arguments, code, words):
    done = cli.run(home, "synth", *arguments, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr.decode()
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("number", cli.SIGNALS)
def test_a_signal_leaves_nothing(home, tmp_path, number):
    path = tmp_path / "m.gguf"
    with cli.start(home, "synth", "-o", path, "--preset", "llama3-8b", "--type", "q4_k",
                   "--layers", 16) as process:
        cli.wait_until((tmp_path / "m.gguf.partial").exists)
        time.sleep(0.05)
        process.send_signal(number)
        process.wait(cli.TIMEOUT_S)
        assert cli.died_by(process, number)
    assert os.listdir(tmp_path) == ["run"]


def test_two_writers_of_one_file(home, tmp_path):
    path = tmp_path / "m.gguf"
    with cli.start(home, "synth", "-o", path, "--preset", "llama3-8b", "--type", "q4_k",
                   "--layers", 8) as process:
        cli.wait_until((tmp_path / "m.gguf.partial").exists)
        process.send_signal(signal.SIGSTOP)  # not that it is done before the other one begins
        done = cli.run(home, "synth", "-o", path)
        process.send_signal(signal.SIGCONT)
        assert done.returncode == 1 and b"another process is writing" in done.stderr
        assert process.wait(cli.TIMEOUT_S) == 0
    assert path.stat().st_size > 1e9


def test_shards_are_the_same_model(home, tmp_path):
    """As the tools of the format read them, and as our own commands do."""
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    cli.run_json(home, "synth", "-o", whole, "--type", "q8_0")
    made = cli.run_json(home, "synth", "-o", parts, "--type", "q8_0", "--split-max-size", "600KiB")
    paths = sorted(tmp_path.glob("parts-*"))
    assert len(paths) == made["files"] > 2 and made["path"] == str(paths[0])
    assert made["bytes"] == sum(path.stat().st_size for path in paths)
    readers = [gguf.GGUFReader(path) for path in paths]
    for number, (path, reader) in enumerate(zip(paths, readers)):
        assert path.name == f"parts-{number + 1:05}-of-{len(paths):05}.gguf"
        assert reader.fields["split.no"].contents() == number
        assert reader.fields["split.count"].contents() == len(paths)
    tensors = gguf.GGUFReader(whole).tensors
    shared = [tensor for reader in readers for tensor in reader.tensors]
    assert readers[0].fields["split.tensors.count"].contents() == len(tensors)
    assert [tensor.name for tensor in tensors] == [tensor.name for tensor in shared]
    assert all((a.data == b.data).all() for a, b in zip(tensors, shared))
    answers = [cli.run_json(home, "run", path, "--raw", "-p", "Hello", "-n", 5, "--ctx", 64)
               for path in (whole, paths[0])]
    assert answers[0]["token_ids"] == answers[1]["token_ids"]


def test_shards_are_all_or_none(home, tmp_path):
    flags = ("-o", tmp_path / "m.gguf", "--split-max-size", "600KiB")
    made = cli.run_json(home, "synth", *flags)
    last = tmp_path / f"m-{made['files']:05}-of-{made['files']:05}.gguf"
    for path in tmp_path.glob("m-*"):
        path.unlink()
    last.write_text("precious")
    done = cli.run(home, "synth", *flags)
    assert done.returncode == 1 and b"--force" in done.stderr and last.name.encode() in done.stderr
    assert list(tmp_path.glob("m-*")) == [last] and last.read_text() == "precious"
    assert cli.run(home, "synth", *flags, "--force").returncode == 0
    assert cli.run_json(home, "inspect", tmp_path / made["path"])["files"] == made["files"]
