"""The worker on a device: the real processes and, as GPU, the emulated one of
tests/kernels/emulated, which computes with the CPU's kernels, so that texts must be those of the
CPU."""
import json
import os
import re

import pytest

import harness

LIBRARY = os.path.join(harness.BIN, "tests", "kernels", "emulated")
PROMPT = "Once upon a time"
# The demo model: everything resident; most layers; few.
CAPS = ["400MiB", "168MiB", "126MiB"]
FLAGS = ["--ctx", "256", "--batch", "2", "--prefill-chunk", "64"]
ON_DEVICE = [*FLAGS, "--device", "cuda:0", "--cuda-library", LIBRARY, "--vram"]


def text_of(worker_flags, loader_flags=()):
    """Greedy text, and the worker's log."""
    with harness.Stack(worker_flags=worker_flags, loader_flags=loader_flags) as stack:
        client = stack.start()
        text = [client.generate(text=PROMPT, max_tokens=12, temperature=0).text for _ in range(2)]
        with open(stack.log_path("worker"), errors="replace") as file:
            log = file.read()
        assert all(code == 0 for code in stack.stop().values()), log
        assert text[0] == text[1] and text[0]
        return text[0], log


@pytest.fixture(scope="module")
def cpu_text():
    return text_of(FLAGS)[0]


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("ram", ["1GiB", "40MiB"])
def test_same_text_through_every_cap(cpu_text, cap, ram):
    text, log = text_of([*ON_DEVICE, cap], ["--ram", ram])
    assert text == cpu_text
    resident, layers = map(int, re.search(r"layers: (\d+) of (\d+) resident", log).groups())
    assert (resident == layers) == (cap == CAPS[0])
    assert "of the cap of" in log


def test_what_does_not_fit_says_so():
    with harness.Stack(worker_flags=[*ON_DEVICE, "48MiB"]) as stack:
        stack.start_loader()
        stack.start_worker()
        assert stack.processes["worker"].wait(harness.START_SECONDS) == 3
        log = stack.logs()
        assert "cuda:0: cap" in log and "--vram" in log
        stack.processes.pop("worker")


def test_no_library_names_the_way_out(tmp_path):
    with harness.Stack(worker_flags=[*FLAGS, "--device", "cuda:0", "--cuda-library",
                                     str(tmp_path)]) as stack:
        stack.start_loader()
        stack.start_worker()
        assert stack.processes["worker"].wait(harness.START_SECONDS) == 1
        assert "--device cpu" in stack.logs()
        stack.processes.pop("worker")


def test_auto_takes_the_cpu_where_there_is_no_gpu(cpu_text, tmp_path):
    text, log = text_of([*FLAGS, "--device", "auto", "--cuda-library", str(tmp_path)])
    assert text == cpu_text
    assert "computing on cpu (auto)" in log


def test_a_broken_device_ends_its_worker_and_a_replacement_serves_on(cpu_text):
    """It breaks in the middle of a text, which another worker goes on with."""
    broken = [os.path.join(LIBRARY, "breaks") if flag == LIBRARY else flag for flag in ON_DEVICE]
    with harness.Stack(worker_flags=[*broken, CAPS[1]]) as stack:
        client = stack.start()
        call = client.open(text=PROMPT, max_tokens=12, temperature=0)
        text = next(call).text
        assert stack.processes.pop("worker").wait(harness.START_SECONDS) == 1
        with open(stack.log_path("worker"), errors="replace") as file:
            last = json.loads(file.read().splitlines()[-1])
        assert last["level"] == "error" and "device is broken" in last["message"]
        stack.flags["worker"] = [*ON_DEVICE, CAPS[1]]
        stack.start_worker("replacement")
        text += "".join(message.text for message in call)
        assert text == cpu_text
        assert all(code == 0 for code in stack.stop().values())
