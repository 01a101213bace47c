"""Weights that are not what they were: `laminar run` refuses them, `laminar verify` finds them.

The model lies below tests/tools/faultfs, which flips bits on request. Where FUSE cannot be used
the tests say "not run" and count as skipped.
"""
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

import cli

FAULTFS = cli.BIN_DIR / "tests" / "tools" / "faultfs"
PARIS = ("--raw", "-p", "The capital of France is", "-n", "12")
MOUNTING_FAILED = 4  # as fuse_main tells it


class Drive:
    """A mounted faultfs, and a home directory of its own for the records."""

    def __init__(self, folder, backing):
        self.directory = folder / "mnt"
        self.home = folder / "home"
        self.model = self.directory / "model"
        self.directory.mkdir()
        self.home.mkdir()
        self.process = subprocess.Popen([FAULTFS, backing, self.directory, "-f"],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while not self.model.exists():
            code = self.process.poll()
            if code == MOUNTING_FAILED:
                pytest.skip("not run: /dev/fuse is there, but nothing can be mounted")
            assert code is None and time.monotonic() < give_up, code
            time.sleep(0.01)

    def set(self, command):
        (self.directory / "control").write_text(command)

    def run(self, home, *arguments, **options):
        return cli.run(home, *arguments, env=cli.environment(home, HOME=str(self.home)), **options)

    def records(self):
        return list(self.home.glob(".cache/laminar/integrity/*"))

    def close(self):
        self.process.terminate()  # it unmounts
        self.process.wait(cli.TIMEOUT_S)


@pytest.fixture
def drive(tmp_path):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("not run: no /dev/fuse")
    drive = Drive(tmp_path, cli.MODEL)
    yield drive
    drive.close()


def weights_of(home):
    """Offsets of the tensors in the demo model, by name."""
    data = cli.run_json(home, "inspect", cli.MODEL, "--tensors")
    return {tensor["name"]: tensor for tensor in data["tensors"]}


def verify_json(drive, home, *flags):
    done = drive.run(home, "verify", drive.model, "--json", *flags)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("name", ["blk.17.ffn_up.weight", "token_embd.weight"])
def test_run_refuses_a_flipped_bit(home, drive, name):
    tensor = weights_of(home)[name]
    # Row 785 (" The") of the embedding is certain to be read; in a layer every byte is.
    offset = tensor["offset"] + (785 * tensor["bytes"] // 49152 if "embd" in name else 12345)
    honest = drive.run(home, "run", drive.model, *PARIS)
    assert honest.returncode == 0 and honest.stdout.startswith(b" Paris"), honest.stderr.decode()
    assert len(drive.records()) == 1
    drive.set(f"flip {offset} 6")
    for _ in range(2):
        done = drive.run(home, "run", drive.model, *PARIS)
        text = done.stderr.decode()
        assert done.returncode == 1, text
        assert done.stdout == b""  # not one token from wrong weights
        last = text.splitlines()[-1]
        assert last.startswith("laminar: ") and str(drive.model) in last, text
        assert "not what they were at first sight" in last, text
    drive.set("clear")
    again = drive.run(home, "run", drive.model, *PARIS)
    assert again.returncode == 0 and again.stdout == honest.stdout


def test_run_refuses_a_flipped_header(home, drive):
    """The last bit of a number that every parser takes."""
    assert drive.run(home, "run", drive.model, *PARIS).returncode == 0
    header = pathlib.Path(cli.MODEL).read_bytes()[:4 << 20]
    key = b"llama.attention.layer_norm_rms_epsilon"
    offset = header.index(key) + len(key) + 4  # behind the value's type
    drive.set(f"flip {offset} 0")
    done = drive.run(home, "run", drive.model, *PARIS)
    assert done.returncode == 1 and done.stdout == b""
    assert "header" in done.stderr.decode().splitlines()[-1], done.stderr.decode()


def test_a_flip_on_the_way_is_read_again(home, drive):
    assert drive.run(home, "run", drive.model, *PARIS).returncode == 0
    offset = weights_of(home)["blk.3.attn_q.weight"]["offset"]
    drive.set(f"glitch {offset} 1")
    done = drive.run(home, "run", drive.model, *PARIS)
    assert done.returncode == 0 and done.stdout.startswith(b" Paris")


def test_verify_records_then_compares_then_finds(home, drive):
    code, first = verify_json(drive, home)
    assert code == 0 and first["ok"] and first["compared"] == 0
    assert first["recorded"] == first["chunks"] > 50
    assert first["bytes"] > 80e6 and os.path.exists(first["record"])
    code, second = verify_json(drive, home)
    assert code == 0 and second["ok"] and second["recorded"] == 0
    assert second["compared"] == second["chunks"]

    tensors = weights_of(home)
    offset = tensors["blk.29.ffn_down.weight"]["offset"] + 100
    drive.set(f"flip {offset} 0")
    code, third = verify_json(drive, home)
    assert code == 1 and not third["ok"] and third["different"] == 1
    place = third["places"][0]
    assert place["part"] == "layer 29"
    assert place["offset"] <= offset < place["offset"] + place["bytes"]
    done = drive.run(home, "verify", drive.model)
    assert done.returncode == 1 and b"layer 29" in done.stdout
    assert done.stderr.decode().splitlines()[-1].startswith("laminar: 1 of ")

    # What the flip made of it becomes the truth, and the truth then differs.
    code, renewed = verify_json(drive, home, "--renew")
    assert code == 0 and renewed["recorded"] == renewed["chunks"]
    drive.set("clear")
    assert verify_json(drive, home)[0] == 1


@pytest.fixture
def loader(home, drive):
    """Serves drive.model; .target is its address."""
    target = f"unix:{home}/loader.sock"
    process = subprocess.Popen(
        [cli.BIN_DIR / "loader" / "laminar-loader", "--model", drive.model, "--ram", "40MiB",
         "--listen", target, "--pool-socket", home / "pool.sock"],
        env=cli.environment(home, HOME=str(drive.home)), stderr=subprocess.DEVNULL)
    process.target = target
    give_up = time.monotonic() + 60
    while not (home / "loader.sock").exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)
    yield process
    process.terminate()
    assert process.wait(cli.TIMEOUT_S) == 0


def test_a_loader_verifies_what_it_serves(home, drive, loader):
    code, first = verify_json(drive, home, "--target", loader.target)
    # Some it has read already, to keep them.
    assert code == 0 and first["ok"] and first["chunks"] > 50
    assert first["compared"] + first["recorded"] == first["chunks"]
    offset = weights_of(home)["blk.29.ffn_down.weight"]["offset"] + 100
    drive.set(f"flip {offset} 0")
    code, second = verify_json(drive, home, "--target", loader.target)
    assert code == 1 and second["different"] == 1
    assert second["places"][0]["part"] == "layer 29"
    drive.set("clear")
    other = drive.run(home, "verify", "other.gguf", "--target", loader.target)
    assert other.returncode == 1 and b"other.gguf" in other.stderr
    assert drive.run(home, "verify", drive.model, "--renew", "--target", "x").returncode == 2
    # The record is the loader's own, which a command without --target uses as well. It is whole
    # when the loader has ended: before, it may be one saved in the middle of the first reading.
    loader.terminate()
    assert loader.wait(cli.TIMEOUT_S) == 0
    code, here = verify_json(drive, home)
    assert code == 0 and here["compared"] == here["chunks"] and here["record"] == first["record"]


def test_verify_meets_a_dying_drive(home, drive):
    assert verify_json(drive, home)[0] == 0
    drive.set("short")
    assert verify_json(drive, home)[0] == 0
    drive.set("eio 1000000")
    done = drive.run(home, "verify", drive.model)
    assert done.returncode == 1 and done.stdout == b""
    assert "Input/output error" in done.stderr.decode()


def test_run_meets_a_dying_drive(home, drive):
    drive.set("eio 2")
    assert drive.run(home, "run", drive.model, *PARIS).returncode in (0, 1)
    drive.set("short")
    done = drive.run(home, "run", drive.model, *PARIS)
    assert done.returncode == 0 and done.stdout.startswith(b" Paris")


def test_verify_without_a_home_says_so(home, tmp_path):
    done = cli.run(home, "verify", cli.MODEL, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0 and b"in memory only" in done.stderr
    missing = cli.run(home, "verify", tmp_path / "nothing.gguf")
    assert missing.returncode == 1 and b"nothing.gguf" in missing.stderr


def test_run_with_a_full_cache_disk(home, tmp_path):
    """64 KiB are too few for a home: said once, and the text comes."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small],
                             capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("not run: no tmpfs can be mounted")
    try:
        (small / "filler").write_bytes(bytes(60 << 10))
        environment = cli.environment(home, HOME=str(small))
        done = cli.run(home, "run", cli.MODEL, *PARIS, "--verbose", env=environment)
        assert done.returncode == 0 and done.stdout.startswith(b" Paris")
        assert done.stderr.count(b"cannot keep checksums") == 1, done.stderr.decode()
        assert not list(small.glob(".cache/laminar/integrity/*"))
    finally:
        subprocess.run(["umount", small], check=True)
        shutil.rmtree(small)
