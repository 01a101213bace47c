"""A model in several files: the same text as from one, wherever its shards lie."""
import os
import shutil
import tempfile

import pytest

import cli
import split_gguf

PARIS = ("--raw", "-p", "The capital of France is", "-n", "12", "--ctx", "256")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three; the second and the third begin in the middle of a layer."""
    return split_gguf.split(cli.MODEL, tmp_path_factory.mktemp("shards"), 97)


def test_same_text_from_shards(home, shards):
    whole = cli.run(home, "run", cli.MODEL, *PARIS)
    assert whole.returncode == 0, whole.stderr.decode()
    for ram in ("600MiB", "90MiB"):  # all stays in memory; most of it streams
        split = cli.run(home, "run", shards[0], *PARIS, "--ram", ram)
        assert split.returncode == 0, split.stderr.decode()
        assert split.stdout == whole.stdout


def test_every_command_takes_them(home, shards, tmp_path):
    """From two directories."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = tmp_path / shards[0].name
    first.symlink_to(shards[0])
    for shard in shards[1:]:
        (elsewhere / shard.name).symlink_to(shard)
    flags = ("--shards", elsewhere)
    told = cli.run_json(home, "inspect", first, *flags)
    whole = cli.run_json(home, "inspect", cli.MODEL)
    assert told["files"] == 3 and whole["files"] == 1
    assert len(told["tensors"]) == len(whole["tensors"])
    tokens = cli.run_json(home, "tokenize", first, "The capital", *flags)
    assert tokens["ids"] == cli.run_json(home, "tokenize", cli.MODEL, "The capital")["ids"]
    cache = ("--integrity-cache", tmp_path / "cache")
    assert cli.run_json(home, "verify", first, *flags, *cache)["recorded"] > 50
    again = cli.run_json(home, "verify", first, *flags, *cache)
    assert again["ok"] and again["compared"] == again["chunks"]
    split = cli.run(home, "run", first, *PARIS, *flags)
    assert split.returncode == 0 and split.stdout.startswith(b" Paris"), split.stderr.decode()
    assert cli.run(home, "plan", first, "--ram", "90MiB", "--ctx", "256", *flags).returncode == 0


@pytest.fixture
def other_drive(tmp_path):
    """A directory on another file system, which counts as a drive of its own."""
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield folder


def test_plan_and_bound_count_drives(home, shards, tmp_path, other_drive):
    """They say what the loader does, which keeps less and reads ahead."""
    first = tmp_path / shards[0].name
    first.symlink_to(shards[0])
    for shard in shards[1:]:
        shutil.copy(shard, other_drive)
    one = ("bench", "loader", shards[0], "--ram", "46MiB", "--laps", "4")
    two = ("bench", "loader", first, "--shards", other_drive, *one[3:])
    one, two = cli.run_json(home, *one), cli.run_json(home, *two)
    assert 0.02 < two["hit_ratio_bound"] < one["hit_ratio_bound"] - 0.04
    assert two["hit_ratio_bound"] - 0.04 <= two["hit_ratio"]
    plan = ("--device", "cpu", "--ram", "100MiB", "--ctx", "128", "--disk", "0.1GB/s")
    one = cli.run_json(home, "plan", shards[0], *plan)
    two = cli.run_json(home, "plan", first, "--shards", other_drive, *plan)
    assert two["host"]["kept_units"] < one["host"]["kept_units"]
    assert two["predicted"]["pass_seconds"] < 0.9 * one["predicted"]["pass_seconds"]
    done = cli.run_json(home, "run", first, "--shards", other_drive, *PARIS, "--ram", "100MiB")
    assert done["text"].startswith(" Paris")


def test_what_is_missing_is_named(home, shards, tmp_path):
    first = tmp_path / shards[0].name
    first.symlink_to(shards[0])
    done = cli.run(home, "run", first, *PARIS)
    text = done.stderr.decode()
    assert done.returncode == 1 and done.stdout == b""
    assert "shard 2 of 3" in text and shards[1].name in text and "--shards" in text
    done = cli.run(home, "run", shards[1], *PARIS)
    assert done.returncode == 1 and "give the path of the first" in done.stderr.decode()
