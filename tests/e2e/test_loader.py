"""The loader among the real processes: its end and its return, its operations port, batches."""
import json
import os
import re
import resource
import signal
import subprocess
import urllib.error
import urllib.request

import pytest

import harness

STORY = "Once upon a time, in a village by the sea,"
SMALL = ["--ram", "40MiB"]  # less than half of the demo model's weights


def text_of(client):
    return client.generate(text=STORY, max_tokens=24, temperature=0, ignore_eos=True).text


def messages(stack, name):
    with open(stack.log_path(name), encoding="utf-8") as log:
        return [json.loads(line)["message"] for line in log]


def test_loader_killed_and_restarted():
    """The worker ends with what happened; new ones go on where the text was."""
    with harness.Stack(worker_flags=["--ctx", "512"], loader_flags=SMALL) as stack:
        client = stack.start()
        whole = client.generate(text=STORY, max_tokens=48, temperature=0, ignore_eos=True).text
        call = client.open(text=STORY, max_tokens=48, temperature=0, ignore_eos=True)
        text = "".join(next(call).text for _ in range(8))
        stack.kill("loader")
        worker = stack.processes.pop("worker")
        assert worker.wait(harness.STOP_SECONDS) == 1
        assert "lost the loader" in messages(stack, "worker")[-1]
        stack.start_loader()
        stack.start_worker("another")
        assert text + "".join(message.text for message in call) == whole
        client.close()


def test_worker_waits_for_a_loader_that_starts_later():
    with harness.Stack(worker_flags=["--ctx", "512"], loader_flags=SMALL) as stack:
        stack.start_gateway()
        stack.start_worker()
        stack.start_loader()
        client = stack.wait_for_workers(1)
        assert text_of(client)
        client.close()


def test_text_does_not_depend_on_the_layer_batch():
    texts = set()
    for batch, said in (("1", "1 of"), ("3", "3 of"), ("1000", "of"), ("auto", "(auto)")):
        with harness.Stack(worker_flags=["--ctx", "512", "--layer-batch", batch],
                           loader_flags=SMALL) as stack:
            client = stack.start()
            texts.add(text_of(client))
            client.close()
            assert any(said in line and "units a request" in line
                       for line in messages(stack, "worker"))
    assert len(texts) == 1


@pytest.mark.parametrize("batch", ["0", "-1", "many", "1025", ""])
def test_bad_layer_batch(batch):
    done = subprocess.run(
        [os.path.join(harness.BIN, "worker", "laminar-worker"), "--gateway", "unix:/x", "--loader",
         "unix:/x", "--pool-socket", "/x", f"--layer-batch={batch}"],
        capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"--layer-batch" in done.stderr


@pytest.mark.parametrize("limit", [8, 12, 24])
def test_out_of_descriptors_is_not_a_model_that_does_not_fit(tmp_path, limit):
    """It ended with 3, which tells whoever starts it to give more memory."""
    done = subprocess.run(
        [os.path.join(harness.BIN, "loader", "laminar-loader"), "--model", harness.MODEL, *SMALL,
         "--listen", f"unix:{tmp_path}/l", "--pool-socket", f"{tmp_path}/p"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        capture_output=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr.decode()
    assert b"ulimit -n" in done.stderr


def test_too_little_memory_does_not_fit(tmp_path):
    done = subprocess.run(
        [os.path.join(harness.BIN, "loader", "laminar-loader"), "--model", harness.MODEL,
         "--ram", "1MiB", "--listen", f"unix:{tmp_path}/l", "--pool-socket", f"{tmp_path}/p"],
        capture_output=True, timeout=60, check=False)
    assert done.returncode == 3 and b"--ram" in done.stderr, done.stderr.decode()


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_operations_port():
    with harness.Stack(worker_flags=["--ctx", "512"],
                       loader_flags=[*SMALL, "--ops", "127.0.0.1:0"]) as stack:
        client = stack.start()
        text_of(client)
        client.close()
        line = next(m for m in messages(stack, "loader") if m.startswith("metrics and health"))
        port = int(re.search(r"port (\d+)", line)[1])
        assert get(port, "/healthz")[0] == 200
        status, metrics = get(port, "/metrics")
        assert status == 200
        values = dict(m.rsplit(" ", 1) for m in metrics.splitlines() if not m.startswith("#"))
        assert float(values['laminar_loader_disk_bytes_total{model="1"}']) > 100e6
        assert 0 < float(values['laminar_loader_hit_ratio{model="1"}']) < 1
        assert values['laminar_loader_sessions{model="1"}'] == "1"
        stack.kill("worker", signal.SIGKILL)
        harness.wait_until(
            lambda: 'laminar_loader_worker_deaths_total{model="1"} 1' in get(port, "/metrics")[1],
            60, "the death is counted")


def test_two_models_in_one_loader(tmp_path):
    """A second name of the first file is not a second model; a missing file is named."""
    other = tmp_path / "other.gguf"
    other.symlink_to(harness.MODEL)
    with harness.Stack(worker_flags=["--ctx", "512"],
                       loader_flags=[*SMALL, "--model", str(other)]) as stack:
        client = stack.start()
        assert text_of(client)
        client.close()
        assert len([m for m in messages(stack, "loader") if "units" in m and "pool of" in m]) == 1
    with harness.Stack(loader_flags=["--model", "/nowhere.gguf"]) as stack:
        stack.start_loader()
        assert stack.processes.pop("loader").wait(harness.STOP_SECONDS) == 1
        assert "/nowhere.gguf" in messages(stack, "loader")[-1]


def test_bad_ops_address():
    with harness.Stack(loader_flags=["--ops", "nonsense"]) as stack:
        stack.start_loader()
        assert stack.processes.pop("loader").wait(harness.STOP_SECONDS) == 1
        assert "nonsense" in messages(stack, "loader")[-1]
