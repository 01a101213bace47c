"""CUDA's kernels in the real processes, without a GPU: on the one of tests/kernels/simulated. A
small model with random weights: logits beside those of the reference, by numbers of tokens that
take different kernels, all layers resident and none."""
import math

import pytest

import cli

LIBRARY = ("--cuda-library", str(cli.BIN_DIR / "tests" / "kernels" / "simulated"))
SMALL = ("--ctx", "128", "--prefill-chunk", "128")


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    yield folder
    cli.assert_nothing_left(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    home = folder / "run"
    home.mkdir(mode=0o700)
    path = folder / "m.gguf"
    cli.run_json(home, "synth", "-o", path, "--type", "q4_k", "--layers", 2)
    return path


def last_logits(home, model, n_tokens, *flags):
    ids = ",".join(str(i * 37 % 1000 + 1) for i in range(n_tokens))
    rows = cli.run_json(home, "logits", model, "--ids", ids, *SMALL, *flags)["logits"]
    return rows[-1] if isinstance(rows[0], list) else rows


@pytest.mark.parametrize("n_tokens, bound", [(3, 1e-3), (40, 2e-2), (80, 2e-2)])
def test_logits_are_those_of_the_reference(home, model, n_tokens, bound):
    exact = last_logits(home, model, n_tokens, "--device", "cpu", "--kernels", "ref")
    fast = last_logits(home, model, n_tokens, "--device", "cuda:0", *LIBRARY)
    assert len(exact) == len(fast) and all(map(math.isfinite, fast))
    worst = max(abs(a - b) for a, b in zip(exact, fast))
    assert 0 < worst < bound


def test_text_does_not_depend_on_what_is_resident(home, model):
    prompt = ("--raw", "-p", "Once upon a time", "-n", "6", *SMALL, "--device", "cuda:0", *LIBRARY)
    texts = [cli.run_json(home, "run", model, *prompt, "--vram", cap)["token_ids"]
             for cap in ("400MiB", "181MiB")]
    assert texts[0] == texts[1] and len(texts[0]) == 6
