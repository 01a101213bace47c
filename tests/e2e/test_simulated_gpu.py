"""CUDA's kernels in the real processes, without a GPU: on the one of tests/kernels/simulated. A
small model with random weights: logits beside those of the reference, by numbers of tokens that
take different kernels, and text with all layers resident and with few."""
import math
import re

import pytest

import cli

LIBRARY = ("--cuda-library", str(cli.BIN_DIR / "tests" / "kernels" / "simulated"))
SMALL = ("--ctx", "128", "--prefill-chunk", "128")


def make(home, path, *flags):
    cli.run_json(home, "synth", "-o", path, *flags)
    return path


def last_logits(home, model, n_tokens, *flags):
    ids = ",".join(str(i * 37 % 1000 + 1) for i in range(n_tokens))
    rows = cli.run_json(home, "logits", model, "--ids", ids, *SMALL, *flags)["logits"]
    return rows[-1] if isinstance(rows[0], list) else rows


@pytest.mark.parametrize("n_tokens, bound", [(3, 4e-3), (40, 1e-2), (80, 1.5e-2)])
def test_logits_are_those_of_the_reference(home, tmp_path, n_tokens, bound):
    model = make(home, tmp_path / "m.gguf", "--type", "q4_k", "--layers", 2)
    exact = last_logits(home, model, n_tokens, "--device", "cpu", "--kernels", "ref")
    fast = last_logits(home, model, n_tokens, "--device", "cuda:0", *LIBRARY)
    assert len(exact) == len(fast) and all(map(math.isfinite, fast))
    worst = max(abs(a - b) for a, b in zip(exact, fast))
    assert 0 < worst < bound


def test_text_does_not_depend_on_what_is_resident(home, tmp_path):
    model = make(home, tmp_path / "m.gguf", "--type", "bf16", "--layers", 4)
    flags = ("run", model, "--raw", "-p", "Once", "-n", "3", *SMALL, "--device", "cuda:0", *LIBRARY)
    refusal = cli.run(home, *flags, "--vram", "1MiB").stderr.decode()
    least = re.search(r"--vram (\d+MiB)", refusal)[1]
    runs = [cli.run_json(home, *flags, "--profile", "--vram", cap) for cap in ("400MiB", least)]
    assert runs[0]["token_ids"] == runs[1]["token_ids"] and len(runs[0]["token_ids"]) == 3
    assert runs[0]["memory"]["layers_resident"] == 4 > runs[1]["memory"]["layers_resident"]
