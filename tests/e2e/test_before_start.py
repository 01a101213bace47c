"""What cannot be answered is refused before the model is read: it was behind the start, after
minutes where the model is large."""
import pytest

import cli


@pytest.mark.parametrize("command, code, word", [
    (("run", "-p", "x", "-n", "300"), 2, "--max-tokens is 300"),
    (("run", "-p", "word " * 300), 1, "the prompt has 30"),
    (("bench generate", "--prompt", "200", "--gen", "100"), 2, "--prompt 200 and --gen 100"),
    (("logits", "--ids", ",".join(["504"] * 300)), 2, "300 ids"),
])
def test_too_much_is_refused_at_once(home, command, code, word):
    name, *flags = command
    done = cli.run(home, *name.split(), cli.MODEL, *flags, "--ctx", "256")
    text = done.stderr.decode()
    assert done.returncode == code and done.stdout == b""
    assert word in text and "--ctx" in text
    assert text.count("\n") == 1, text  # nothing was loaded


def test_all_that_it_holds_is_taken(home):
    done = cli.run_json(home, "run", cli.MODEL, "--raw", "-p", "Once upon a time", "-n", "64",
                        "--ctx", "64")
    usage = done["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= 64
    data = cli.run_json(home, "bench", "generate", cli.MODEL, "--prompt", "32", "--gen", "32",
                        "--ctx", "64")
    assert data["gen"] == 32


def test_a_chat_without_a_template_is_refused_at_once(home, tmp_path):
    path = tmp_path / "tiny.gguf"
    assert cli.run(home, "synth", "-o", path).returncode == 0
    done = cli.run(home, "run", path, "--chat", "-p", "x")
    assert done.returncode == 2 and done.stdout == b"" and b"--raw" in done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert cli.run(home, "run", path, "-p", "x", "-n", "2").returncode == 0
