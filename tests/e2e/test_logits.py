"""Right answers: logits and greedy text beside an independent forward pass (reference.py, numpy in
float64 over blocks that the gguf package dequantised), and the same text from a small pool."""
import functools
import os

import numpy as np
import pytest

import cli
import reference

# With activations in f32 (reference kernels, f32 cache) only rounding is between us and float64.
EXACT_TOLERANCE = 1e-3
# The fast kernels round activations to 8 bits in blocks of 32, as the rounded reference here does.
# Two such computations lie equally far from the exact one, in different places: over all prompts
# their root mean squares agree, over one prompt (whose errors go together) only roughly.
EXPLAINED_OVERALL = 1.25
EXPLAINED_ONE = 2.0
ROWS = 16
GREEDY_TOKENS = 64
CLEAR_MARGIN = 2.0
BLOCK = 32

PROMPTS = {
    "english": "The quick brown fox jumps over the lazy dog because",
    "question": "What is the capital of France, and why is it famous?",
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return fib",
    "french": "Il était une fois, dans une forêt lointaine, une petite fille qui s'appelait",
    "chinese": "人工智能的发展正在改变我们的生活方式,",
    "emoji": "I love pizza 🍕 and ice cream 🍦 so much that 😀",
    "numbers": "1 1 2 3 5 8 13 21 34 55",
    "one token": "Hello",
    "long": "Once upon a time there was a small village at the edge of a great forest. " * 18,
}


class Exact(reference.Model):
    """Keeps what it has dequantised: the tests ask for the same weights again and again."""

    def __init__(self, path):
        super().__init__(path)
        self.kept = {}

    def weight(self, name):
        if name not in self.kept:
            self.kept[name] = super().weight(name).astype(np.float32)
        return self.kept[name].astype(np.float64)


class Rounded(Exact):
    """Activations in 8 bits: blocks of 32 share a scale, the largest becomes 127."""

    def activations(self, x):
        blocks = x.reshape(-1, BLOCK)
        scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        return (np.round(blocks / scale) * scale).reshape(x.shape)


@functools.lru_cache(maxsize=None)
def model(kind):
    made = kind(cli.MODEL)
    if kind is Rounded:
        made.kept = model(Exact).kept
    return made


@functools.lru_cache(maxsize=None)
def expected(ids, kind=Exact):
    """Reference logits of every position."""
    return reference.logits(cli.MODEL, list(ids), model(kind))


def rms(x):
    return float(np.sqrt(np.mean(x * x)))


def tokenize(home, text):
    return tuple(cli.run_json(home, "tokenize", cli.MODEL, text)["ids"])


def logits(home, ids, rows, *flags):
    data = cli.run_json(home, "logits", cli.MODEL, "--ids", ",".join(map(str, ids)), "--rows", rows,
                        *flags)
    assert data["ids"] == list(ids) and data["first_position"] == len(ids) - rows
    out = np.array(data["logits"])
    assert out.shape == (rows, data["vocabulary"])
    return out


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_with_exact_activations(home, name):
    ids = tokenize(home, PROMPTS[name])
    rows = min(ROWS, len(ids))
    ours = logits(home, ids, rows, "--kernels", "ref", "--kv-type", "f32")
    assert np.abs(ours - expected(ids)[-rows:]).max() < EXACT_TOLERANCE


def errors(home, ids, rows):
    """Distances from the exact logits: ours, and what activations of 8 bits explain."""
    exact = expected(ids)[-rows:]
    ours, rounded = logits(home, ids, rows) - exact, expected(ids, Rounded)[-rows:] - exact
    print(f"{len(ids)} tokens: rms {rms(ours):.3f}, explained {rms(rounded):.3f}, "
          f"max {np.abs(ours).max():.3f}, explained {np.abs(rounded).max():.3f}")
    return ours, rounded


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_of_the_fast_kernels(home, name):
    ids = tokenize(home, PROMPTS[name])
    ours, rounded = errors(home, ids, min(ROWS, len(ids)))
    assert rms(ours) < EXPLAINED_ONE * rms(rounded)
    assert np.abs(ours).max() < EXPLAINED_ONE * np.abs(rounded).max()


def test_logits_of_the_fast_kernels_over_all_prompts(home):
    squares = []
    for text in PROMPTS.values():
        ids = tokenize(home, text)
        squares.append([rms(e) ** 2 for e in errors(home, ids, min(ROWS, len(ids)))])
    ours, rounded = np.sqrt(np.mean(squares, axis=0))
    assert ours < EXPLAINED_OVERALL * rounded


def test_all_rows_of_a_prompt_over_several_chunks(home):
    """300 positions, every row: positions of the second chunk see those of the first."""
    ids = tokenize(home, PROMPTS["long"])[:300]
    assert len(ids) > 256
    ours, rounded = errors(home, ids, len(ids))
    assert rms(ours) < EXPLAINED_ONE * rms(rounded)


@pytest.mark.parametrize("name", ["english", "code", "french", "numbers"])
def test_greedy_text(home, name):
    """Each of 64 tokens is the reference's choice, wherever that choice is clear."""
    data = cli.run_json(home, "run", cli.MODEL, "--raw", "-p", PROMPTS[name], "-n", GREEDY_TOKENS)
    ids = tokenize(home, PROMPTS[name])
    generated = data["token_ids"]
    assert len(generated) == GREEDY_TOKENS or data["finish_reason"] == "stop"
    theirs = expected(ids + tuple(generated[:-1]))[len(ids) - 1:]
    clear = 0
    for token, row in zip(generated, theirs):
        second, first = np.sort(row)[-2:]
        if first - second > CLEAR_MARGIN:
            clear += 1
            assert token == row.argmax()
        assert row[token] > first - CLEAR_MARGIN
    print(f"{name}: {clear} of {len(generated)} choices are clear")
    assert clear > 0


@pytest.mark.parametrize("kernels", ["cpu", "ref"])
def test_a_third_of_the_memory_gives_the_same_text(home, kernels):
    """Streaming is real: same tokens, and the disk was read again in every pass."""
    flags = ("--raw", "-p", PROMPTS["english"], "-n", "12", "--kernels", kernels, "--ctx", "512")
    whole = cli.run_json(home, "run", cli.MODEL, *flags)
    third = os.path.getsize(cli.MODEL) // 3
    (device,) = cli.run_json(home, "plan", cli.MODEL, "--ctx", "512")["devices"]
    small = cli.run_json(
        home, "run", cli.MODEL, *flags, "--ram", f"{device['total_bytes'] + third}B")
    assert small["token_ids"] == whole["token_ids"] and small["text"] == whole["text"]
    units = cli.run_json(home, "inspect", cli.MODEL)["units"]
    assert whole["loader"]["pool_bytes"] >= units["bytes_total"]
    assert whole["loader"]["units_loaded"] == units["count"]
    assert small["loader"]["pool_bytes"] <= third
    passes = len(small["token_ids"])
    streamed = units["bytes_total"] - small["loader"]["pool_bytes"]
    assert small["loader"]["disk_bytes"] >= passes * streamed
    assert small["loader"]["units_granted"] > small["loader"]["units_hit"]
