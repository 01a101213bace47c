"""`laminar bench loader`: its figures, fio beside it, and what it says when it cannot measure."""
import os
import shutil
import signal
import time

import pytest

import cli

FIELDS = {"version", "gbps", "fio_gbps", "ratio_to_fio", "fio_spread", "cpu_ms_per_gb", "hit_ratio",
          "hit_ratio_bound", "engine", "fixed_buffers", "direct", "pool_ready_seconds"}


def fake_fio(folder, script):
    """An environment in which `fio` is this shell script."""
    folder.mkdir()
    path = folder / "fio"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("percent", [25, 50, 75, 95])
def test_laps_hit_what_a_cyclic_scan_allows(home, percent):
    model = cli.run_json(home, "inspect", cli.MODEL)["units"]["bytes_total"]
    data = cli.run_json(home, "bench", "loader", cli.MODEL, "--ram",
                        f"{model * percent // 100 >> 10}KiB", "--laps", 8)
    assert set(data) == FIELDS
    assert data["gbps"] > 0 and data["cpu_ms_per_gb"] > 0
    assert data["fio_gbps"] is None and data["ratio_to_fio"] is None
    assert percent / 100 - 0.08 < data["hit_ratio_bound"] <= percent / 100
    # One unit is 0.023 of the hits, and units of this small model are read in 2 ms: where others
    # keep the processors, a late release costs one now and then. lanes_test holds the rule to 0.01.
    assert data["hit_ratio_bound"] - 0.035 <= data["hit_ratio"] < percent / 100 + 0.1


def test_a_pool_for_all_of_it_reads_once(home):
    data = cli.run_json(home, "bench", "loader", cli.MODEL, "--ram", "1GiB", "--engine", "pread")
    assert data["hit_ratio"] == data["hit_ratio_bound"] == 1
    assert data["gbps"] > 0 and data["engine"] == "pread" and not data["fixed_buffers"]


def test_the_ratio_is_that_of_the_two_speeds(home, tmp_path):
    fio = fake_fio(tmp_path / "bin", """echo a note first
echo '{"jobs": [{"read": {"bw_bytes": 500000000}}]}'
""")
    done = cli.run(home, "bench", "loader", cli.MODEL, "--against-fio", "--json",
                   env=cli.environment(home, **fio))
    assert done.returncode == 0, done.stderr.decode()
    data = cli.json.loads(done.stdout)
    assert data["fio_gbps"] == 0.5
    assert data["ratio_to_fio"] == pytest.approx(data["gbps"] / 0.5)


def test_fio_reads_all_shards(home, tmp_path):
    made = cli.run_json(home, "synth", "-o", tmp_path / "m.gguf", "--preset", "small",
                        "--split-max-size", "5MiB")
    shards = sorted(str(path) for path in tmp_path.glob("m-*"))
    assert len(shards) == made["files"] > 1
    log = tmp_path / "log"
    fio = fake_fio(tmp_path / "bin", f"""echo "$@" >>{log}
echo '{{"jobs": [{{"read": {{"bw_bytes": 500000000}}}}]}}'
""")
    done = cli.run(home, "bench", "loader", shards[0], "--against-fio", "--json",
                   env=cli.environment(home, **fio))
    assert done.returncode == 0, done.stderr.decode()
    lines = log.read_text().splitlines()
    assert lines and all(":".join(shards) in line.split() for line in lines)


@pytest.mark.skipif(not shutil.which("fio"), reason="no fio here: tools/setup installs it")
def test_the_real_fio_reads_the_same_file(home):
    done = cli.run(home, "bench", "loader", cli.MODEL, "--against-fio", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert 0.05 < cli.json.loads(done.stdout)["ratio_to_fio"] < 20


@pytest.mark.parametrize("script, words", [
    ("echo no such engine; exit 1", "fio failed; it said: no such engine"),
    ("echo '{\"jobs\": []}'", "fio gave no speed"),
])
def test_a_fio_that_fails_is_quoted(home, tmp_path, script, words):
    fio = fake_fio(tmp_path / "bin", script)
    done = cli.run(home, "bench", "loader", cli.MODEL, "--against-fio",
                   env=cli.environment(home, **fio))
    assert done.returncode == 1 and words in done.stderr.decode()
    assert done.stdout == b""


@pytest.mark.parametrize("line, words", [
    (["/nonexistent.gguf"], (1, "/nonexistent.gguf")),
    ([cli.MODEL, "--laps", "0"], (2, "--laps")),
    ([cli.MODEL, "--ram", "1GiB", "--against-fio"], (1, "give a smaller --ram")),
    ([cli.MODEL, "--ram", "1MiB"], (3, "--ram")),
])
def test_what_cannot_be_measured_is_named(home, line, words):
    done = cli.run(home, "bench", "loader", *line)
    assert done.returncode == words[0] and words[1] in done.stderr.decode()
    assert done.stdout == b""


def test_a_signal_ends_it_and_fio(home, tmp_path):
    fio = fake_fio(tmp_path / "bin", "exec sleep 1000")
    with cli.start(home, "bench", "loader", cli.MODEL, "--against-fio",
                   env=cli.environment(home, **fio)) as process:
        deadline = time.monotonic() + 60
        while not any(b"sleep" in line[0] for line in map(cli.command_line, children(process.pid))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(cli.TIMEOUT_S)
        assert cli.died_by(process, signal.SIGINT)
    cli.assert_nothing_left(home, seconds=60)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return file.read().split()
