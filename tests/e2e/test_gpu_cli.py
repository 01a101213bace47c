"""The command line with a GPU: the emulated one of tests/kernels/emulated, which computes with the
CPU's kernels and counts what it is asked for."""
import json
import re

import pytest

import cli

LIBRARY = ("--cuda-library", str(cli.BIN_DIR / "tests" / "kernels" / "emulated"))
SMALL = ("--ctx", "256", "--prefill-chunk", "64")
PROMPT = ("--raw", "-p", "Once upon a time", "-n", "8")
# Is everything resident? With the last, parts of layers go through slots.
CAPS = {"400MiB": True, "150MiB": False, "128MiB": False}
MIB = 1 << 20


def run(home, *arguments, name="run", code=0):
    more = PROMPT if name == "run" else ()
    done = cli.run(home, name, cli.MODEL, *more, *SMALL, *LIBRARY, *arguments)
    assert done.returncode == code, done.stderr.decode()
    return done


@pytest.mark.parametrize("cap", CAPS)
def test_what_is_planned_is_what_is_held(home, cap):
    """The text of the CPU; the plan's bytes; never more than the cap."""
    plain = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, "--device", "cpu")
    done = run(home, "--vram", cap, "--profile")
    assert done.stdout == plain.stdout != b""
    text = done.stderr.decode()
    assert "cuda:0" in text and "measured" in text and "note: the worker's context" not in text
    data = json.loads(run(home, "--vram", cap, "--profile", "--json").stdout)
    memory, profile = data["memory"], data["profile"]
    assert memory["cap_bytes"] == int(cap[:-3]) * MIB
    assert memory["planned_bytes"] == sum(memory[part + "_bytes"] for part in (
        "context", "resident", "slots", "kv", "activations", "workspace"))
    assert memory["measured_bytes"] == memory["planned_bytes"] <= memory["cap_bytes"]
    streams = memory["layers_resident"] < memory["layers"]
    assert streams != CAPS[cap]
    # The worker plans again from what it is told, and comes to the plan that was shown.
    row = next(line for line in text.splitlines() if line.startswith("cuda:0")).split()
    assert row[4] == f"{memory['resident_bytes'] / MIB:.1f}"
    assert row[5] == f"{memory['slots_bytes'] / MIB:.1f}"
    assert int(row[11]) == memory["layers_resident"]
    # The line of what was measured: nothing under the cap, then the same columns.
    found = next(line for line in text.splitlines() if line.startswith("measured")).split()
    assert found[1:9] == row[2:10] and found[9:] == row[11:], text
    plan = data["plan"]
    (planned,), (measured,) = plan["devices"], plan["measured"]["devices"]
    for name in measured:
        assert measured[name] == planned[name], name
    assert plan["measured"]["pass_seconds"] > 0
    # All of the pool had its memory when the last unit was granted.
    assert memory["pool_ready_seconds"] == pytest.approx(data["loader"]["pool_ready_seconds"])
    assert memory["pool_ready_bytes"] >= data["loader"]["pool_used_bytes"]
    assert plan["measured"]["host"] == {"pool_bytes": plan["host"]["pool_bytes"],
                                        "disk_bytes_per_pass": 0}
    shown = float(re.search(r"pass +([\d.]+) s", text).group(1))
    assert memory["planned_pass_seconds"] == pytest.approx(shown, abs=0.0001)
    assert (memory["streamed_bytes_per_pass"] > 0) == (profile["link_bytes"] > 0) == streams


def test_serve_and_ps_show_the_device(home):
    address = f"unix:{home}/public"
    with cli.start(home, "serve", cli.MODEL, "--listen", address, *SMALL, *LIBRARY, "--vram",
                   "170MiB", "--batch", "2") as process:
        process.stdout.readline()
        done = cli.run(home, "generate", "--target", address, *PROMPT)
        assert done.returncode == 0, done.stderr.decode()
        data = cli.run_json(home, "ps", "--target", address)
        text = cli.run(home, "ps", "--target", address).stdout.decode()
        process.terminate()
        table = process.communicate(timeout=cli.TIMEOUT_S)[1].decode()
    (worker,) = data["workers"]
    assert worker["device"] == "cuda:0" and worker["memory"]["cap_bytes"] == 170 * MIB
    assert worker["profile"]["link_bytes"] > 0 and worker["last_pass"]["floor_seconds"] > 0
    for pattern in (r"cap 170\.0 MiB", r"pool     92\.\d MiB of RAM .* in \d+\.\d\d s",
                    r"\d+ of 30 resident, .* a pass through \d+ slots",
                    r"KV       f16, [\d.]+ MiB, on cuda:0", r"over the link", r"floor    [\d.]+ s"):
        assert re.search(pattern, text), text
    assert re.search(r"^cuda:0 +170\.0 +(\d+\.\d) .*\nmeasured +\1 ", table, re.M), table


def test_memory_that_nobody_planned_is_refused_at_start(home):
    """A driver that holds 64 MiB more than it said when it was asked."""
    library = (*LIBRARY[:1], LIBRARY[1] + "/grows")
    for name in ("run", "serve"):
        more = PROMPT if name == "run" else ()
        done = cli.run(home, name, cli.MODEL, *more, *SMALL, *library, "--vram", "170MiB")
        text = done.stderr.decode()
        assert done.returncode == 3 and done.stdout == b"", text
        assert re.search(r"holds 2\d\d\.\d MiB on cuda:0, more than its cap of 170\.0", text), text
    done = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, *library, "--vram", "400MiB")
    assert done.returncode == 0, done.stderr.decode()


def test_memory_that_the_first_pass_takes_is_told(home):
    """The device is asked again behind the first pass, by whoever shows what is held."""
    library = (*LIBRARY[:1], LIBRARY[1] + "/grows_later")
    address = f"unix:{home}/public"
    with cli.start(home, "serve", cli.MODEL, "--listen", address, *SMALL, *library, "--vram",
                   "170MiB", "--ops", "--verbose") as process:
        process.stdout.readline()
        (worker,) = cli.run_json(home, "ps", "--target", address)["workers"]
        before = worker["memory"]["measured_bytes"]
        assert before <= 170 * MIB
        assert cli.run(home, "generate", "--target", address, *PROMPT).returncode == 0
        (worker,) = cli.run_json(home, "ps", "--target", address)["workers"]
        assert worker["memory"]["measured_bytes"] == before + 64 * MIB > 170 * MIB
        text = cli.run(home, "ps", "--target", address).stdout.decode()
        assert "over the cap" in text
        process.terminate()
        log = process.communicate(timeout=cli.TIMEOUT_S)[1].decode()
    assert log.count("more than its cap of 170.0 MiB") == 1, log
    done = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, *library, "--vram", "170MiB")
    assert done.returncode == 0 and b"over the cap of 170.0 MiB" in done.stderr, done.stderr


def test_a_broken_device_is_why_a_run_ends(home):
    done = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, LIBRARY[0], LIBRARY[1] + "/breaks",
                   "--vram", "170MiB")
    assert done.returncode == 1 and done.stdout, done.stderr.decode()  # some text came before
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("laminar: the worker ended: ") and "device is broken" in last


def test_what_does_not_fit_names_levers_that_do(home):
    text = run(home, "--vram", "48MiB", code=3).stderr.decode()
    assert "laminar: cuda:0: cap 48.0 MiB, minimum" in text
    enough = re.search(r"--vram (\d+)MiB", text).group(1)
    run(home, "--vram", f"{enough}MiB")


def test_a_cap_without_a_gpu_is_refused_with_a_way_out(home, tmp_path):
    """The way out is to leave --vram out, which the text of a missing library alone did not say."""
    start = ("run", cli.MODEL, *PROMPT, *SMALL, "--cuda-library", tmp_path)
    for device in ((), ("--device", "cpu")):
        done = cli.run(home, *start, "--vram", "3GiB", *device)
        assert done.returncode == 2 and b"leave it out" in done.stderr, done.stderr
        assert cli.run(home, *start, *device).returncode == 0


def test_one_device_of_several_is_the_users_choice(home):
    """Nothing is planned for several and then run on one."""
    several = "and a model is computed on one in this version"
    for spec in ("400MiB,300MiB", "400MiB,...", "0=400MiB,1=300MiB"):
        text = run(home, "--vram", spec, code=2).stderr.decode()
        assert f"--vram gives memory to 2 devices, {several}" in text and "--device cuda:0" in text
    text = run(home, "--device", "cuda:0,cuda:1", code=2).stderr.decode()
    assert f"'cuda:0,cuda:1' names several GPUs, {several}" in text
    for spec in ("400MiB,off", "0=400MiB", "400MiB"):
        run(home, "--vram", spec)
    data = json.loads(run(home, "--vram", "400MiB,300MiB", "--device", "cuda:1", "--profile",
                          "--json").stdout)
    assert data["memory"]["cap_bytes"] == 300 * MIB
    text = run(home, "--vram", "off,300MiB", "--device", "cuda:0", code=2).stderr.decode()
    assert "gives no memory to cuda:0" in text
    text = run(home, "--vram", "1,1,1", code=2).stderr.decode()
    assert "item 3 '1' is one too many: there is cuda:0" in text
    assert b"there is no GPU 7" in run(home, "--device", "cuda:7", code=1).stderr
    assert b"more than the 16.00 GiB of cuda:0" in run(home, "--vram", "17", code=2).stderr


def test_logits_of_the_device_are_those_of_the_cpu(home):
    ids = ("--ids", "1,2,3,4,5,6,7,8", "--rows", "8", "--json")
    device = cli.run(home, "logits", cli.MODEL, *ids, *LIBRARY, "--vram", "128MiB",
                     "--prefill-chunk", "64")
    assert device.returncode == 0, device.stderr.decode()
    cpu = cli.run(home, "logits", cli.MODEL, *ids, "--device", "cpu")
    assert json.loads(device.stdout)["logits"] == json.loads(cpu.stdout)["logits"]


def test_what_a_process_takes_is_kept_and_checked_at_each_start(home, tmp_path):
    """By GPU, driver and library: the first start measures, later ones compare."""
    env = cli.environment(home, HOME=str(tmp_path))
    path = tmp_path / ".cache" / "laminar" / "facts.json"

    def start(library=LIBRARY):
        done = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, *library, "--vram", "150MiB",
                       env=env)
        assert done.returncode == 0, done.stderr.decode()
        return done.stderr.decode()

    text = start()
    assert f"takes 1.0 MiB on emulated before its own first byte; kept in {path}" in text, text
    facts = json.loads(path.read_text())
    (gpu,) = facts["gpus"]
    assert gpu["name"] == "emulated" and gpu["context_bytes"] == MIB and gpu["library"]
    assert "note" not in start()
    gpu["context_bytes"] = 65 * MIB
    gpu["link_bytes_per_second"] = 5e9
    path.write_text(json.dumps(facts))
    text = start()
    assert "takes 1.0 MiB on cuda:0, and took 65.0 MiB" in text and "doctor --measure" in text
    assert json.loads(path.read_text()) == facts  # what was measured is not lost for it
    start((*LIBRARY[:1], LIBRARY[1] + "/grows_later"))  # another library: nothing is known of it
    (other,) = json.loads(path.read_text())["gpus"]
    assert other["library"] != gpu["library"] and "link_bytes_per_second" not in other


def test_doctor_measures_the_device_for_plans(home, tmp_path):
    env = cli.environment(home, HOME=str(tmp_path))
    done = cli.run(home, "doctor", "--measure", "--model", cli.MODEL, *LIBRARY, env=env)
    assert done.returncode == 0 and b"cuda:0 emulated" in done.stdout, done.stderr
    facts = json.loads((tmp_path / ".cache" / "laminar" / "facts.json").read_text())
    (gpu,) = facts["gpus"]
    assert gpu["name"] == "emulated" and gpu["link_bytes_per_second"] > 0
    assert re.fullmatch("[0-9a-f]{16}", gpu["library"])
    text = cli.run(home, "run", cli.MODEL, *PROMPT, *SMALL, *LIBRARY, "--vram", "170MiB",
                   "--profile", env=env).stderr.decode()
    assert re.search(r"link [\d.]+ GB/s measured", text), text
    text = cli.run(home, "plan", cli.MODEL, "--device", "cuda:0", env=env).stdout.decode()
    assert "context 0.00 GiB measured" in text
