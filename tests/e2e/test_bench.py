"""`laminar bench`: figures that hang together, and what it says when it cannot measure."""
import json
import signal
import time

import pytest

import cli


def test_figures_of_several_texts_agree_with_each_other(home):
    begin = time.monotonic()
    data = cli.run_json(home, "bench", "generate", cli.MODEL, "--batch", 3, "--prompt", 20,
                        "--gen", 24, "--ctx", 256)
    elapsed = time.monotonic() - begin
    one = data["pass"]
    assert (data["batch"], data["prompt"], data["gen"]) == (3, 20, 24)
    assert 0 < data["ready_seconds"] < data["first_token_seconds"] < elapsed
    assert 0 < one["p10_seconds"] <= one["median_seconds"] <= one["p90_seconds"] < elapsed
    assert 3 <= one["count"] <= 23  # the window leaves out where not all texts are there
    # Each pass gives three tokens: the rate follows from the passes but for their spread, which is
    # that of a busy machine.
    assert 0.1 * 3 / one["p90_seconds"] < data["tokens_per_second"] < 2 * 3 / one["p10_seconds"]
    assert one["disk_bytes"] == 0  # the model fits into the pool
    weights = cli.run_json(home, "inspect", cli.MODEL)["units"]["bytes_total"]
    floor, rates = one["floor"], data["ceilings"]
    assert floor["disk_seconds"] == floor["link_seconds"] == 0
    assert floor["assumed"] is True  # nothing is measured in the tests' home
    assert floor["memory_seconds"] == pytest.approx(weights / rates["memory_rate"])
    assert floor["pass_of_floor"] == pytest.approx(one["median_seconds"] / floor["seconds"])
    assert data["device"] == "cpu" and data["memory"]["outside_peak_bytes"] == 0


def test_a_small_pool_reads_the_disk_in_every_pass(home):
    limit = 130 << 20
    data = cli.run_json(home, "bench", "generate", cli.MODEL, "--ram", f"{limit >> 20}MiB",
                        "--gen", 12, "--ctx", 256)
    model = cli.run_json(home, "inspect", cli.MODEL)["units"]["bytes_total"]
    missing = model - data["pool"]["bytes"]
    assert data["pool"]["bytes"] < limit
    one, plan = data["pass"], data["plan"]
    assert 0.8 * missing < one["disk_bytes"] < 1.2 * model
    assert one["count"] == len(one["disk_bytes_each"]) == 11 and one["not_counted"] >= 1
    assert one["disk_bytes"] == pytest.approx(sum(one["disk_bytes_each"]) / one["count"])
    assert plan["disk_bytes"] <= plan["unkept_bytes"] and 0 < plan["kept_units"] < plan["units"]
    assert data["pass"]["floor"]["disk_seconds"] == pytest.approx(
        data["plan"]["disk_bytes"] / data["ceilings"]["disk_rate"])


def test_what_crosses_the_link_is_what_was_planned(home):
    """On the emulated device, whose clock says nothing but whose bytes are real."""
    cap = 160 << 20
    library = cli.BIN_DIR / "tests" / "kernels" / "emulated"
    data = cli.run_json(home, "bench", "generate", cli.MODEL, "--device", "cuda:0",
                        "--cuda-library", library, "--vram", f"{cap}B", "--ctx", 256, "--gen", 6)
    profile, plan, memory = data["pass"]["profile"], data["plan"], data["memory"]
    assert data["device"] == "cuda:0"
    weights = cli.run_json(home, "inspect", cli.MODEL)["units"]["bytes_total"]
    assert profile["link_bytes"] == memory["streamed_bytes"] > 0
    assert profile["resident_bytes"] == weights - profile["link_bytes"] > 0
    # The worker plans again with what its context really takes: a few tensors may differ.
    assert memory["streamed_bytes"] == pytest.approx(plan["streamed_bytes"], rel=0.05)
    assert data["pass"]["floor"]["link_seconds"] == pytest.approx(
        profile["link_bytes"] / data["ceilings"]["link_rate"])
    assert memory["measured_bytes"] <= memory["planned_bytes"] <= memory["cap_bytes"] == cap


def test_the_link_is_measured_for_as_long_as_is_said(home):
    """On the emulated device, whose clock takes a nanosecond for a byte."""
    library = cli.BIN_DIR / "tests" / "kernels" / "emulated"
    data = cli.run_json(home, "bench", "link", "--cuda-library", library, "--seconds", "0.1")
    assert (data["version"], data["device"], data["round_bytes"]) == (1, "cuda:0", 512 << 20)
    assert data["rounds"] >= 1
    assert data["p10_rate"] <= data["median_rate"] <= data["p90_rate"]
    assert data["median_rate"] == pytest.approx(1e9, rel=0.01)


def test_a_benchmark_leaves_a_trace(home, tmp_path):
    path = tmp_path / "t.json"
    data = cli.run_json(home, "bench", "generate", cli.MODEL, "--batch", 2, "--gen", 6, "--ctx",
                        128, "--trace", path)
    spans = json.loads(path.read_text())["traceEvents"]
    assert sum(span["name"] == "pass" for span in spans) >= data["pass"]["count"] >= 3


@pytest.mark.parametrize("line, words", [
    (["link", "--device", "cpu"], (2, "'cpu' is no GPU")),
    (["link", "--cuda-library", "/nonexistent"], (1, "/nonexistent")),
    (["generate", "m.gguf", "--trace", "/proc/none/t.json"], (2, "/proc/none/t.json")),
    (["generate", "/nonexistent.gguf"], (1, "/nonexistent.gguf")),
    (["generate", "m.gguf", "--gen", "1"], (2, "--gen")),
    (["generate", "m.gguf", "--prompt", "0"], (2, "--prompt")),
    (["nothing"], (2, "'nothing' is no benchmark")),
    ([], (2, "usage: laminar bench NAME")),
])
def test_what_cannot_be_measured_is_named(home, line, words):
    done = cli.run(home, "bench", *line)
    assert done.returncode == words[0] and words[1] in done.stderr.decode()
    assert done.stdout == b""


def test_a_signal_ends_it_and_all_its_texts(home):
    with cli.start(home, "bench", "generate", cli.MODEL, "--batch", 2, "--gen", 4000,
                   "--ctx", 4096) as process:
        cli.wait_for_services(home)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(cli.TIMEOUT_S)
        assert cli.died_by(process, signal.SIGINT)
    cli.assert_nothing_left(home, seconds=60)
