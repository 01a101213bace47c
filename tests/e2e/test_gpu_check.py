"""tools/gpu-check: its steps on a machine without a GPU, at the small scale."""
import json
import os
import re
import subprocess

import cli

GPU_CHECK = cli.ROOT / "tools" / "gpu-check"


def run(tmp_path, *arguments):
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return subprocess.run([GPU_CHECK, *arguments], capture_output=True, text=True, timeout=900,
                          env=environment)


def test_measures_and_judges(tmp_path):
    report = tmp_path / "report.json"
    done = run(tmp_path, "--device", "cpu", "--scale", "small", "--only", "8b,ram", "--json",
               report, "--models", tmp_path / "models", "--logs", tmp_path / "logs")
    assert done.returncode in (0, 1), done.stderr  # targets are for GPUs
    data = json.loads(report.read_text())
    rows = {(row["section"], row["what"].split(":")[0]): row for row in data["rows"]}
    assert ("measure", "disk rate") in rows  # goes first by itself
    assert "stopped" not in done.stdout, done.stdout
    of_floor = re.match(r"[\d.]+", rows["8b", "batch 1"]["value"]).group(0)
    assert float(of_floor) > 0.1
    assert rows["8b", "batch 1"]["verdict"] == ("pass" if float(of_floor) <= 1.05 else "FAIL")
    assert rows["8b", "batch 4"]["verdict"] == "FAIL"  # four texts are not 55 times one
    assert data["runs"]["8b batch 1"]["pass"]["count"] > 0
    assert data["runs"]["ram"]["pass"]["disk_bytes"] > 0
    assert os.listdir(tmp_path / "models") == []
    counts = re.search(r"(\d+) passed, (\d+) failed", done.stdout)
    assert int(counts[2]) == sum(row["verdict"] == "FAIL" for row in data["rows"]) > 0


def test_what_it_cannot_do_is_named(tmp_path):
    done = run(tmp_path, "--only", "nothing")
    assert done.returncode == 2 and "'nothing'" in done.stderr
    assert "8b" in run(tmp_path, "--list").stdout
