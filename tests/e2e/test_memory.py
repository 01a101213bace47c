"""A limit is a limit: what `run` and `serve` hold against what they were given and had planned."""
import json
import re

import pytest

import cli

MIB = 1 << 20
PROMPT = "hello world " * 230


def resident_bytes(pids):
    """Of all these processes together, the shared pool counted once."""
    own, pool = 0, 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            text = file.read()
        kib = {name: int(re.search(name + r":\s+(\d+) kB", text).group(1))
               for name in ("RssAnon", "RssFile", "RssShmem")}
        own += (kib["RssAnon"] + kib["RssFile"]) * 1024
        pool = max(pool, kib["RssShmem"] * 1024)
    return own + pool


@pytest.mark.parametrize("ram", [90 * MIB, 140 * MIB])
def test_loader_and_worker_stay_below_ram(home, ram):
    """The whole context is used, so that all of the KV cache is there."""
    address = f"unix:{home}/public"
    with cli.start(home, "serve", cli.MODEL, "--listen", address, "--ctx", "512", "--batch", "1",
                   "--ram", f"{ram}B") as process:
        assert process.stdout.readline().decode().strip() == address
        done = cli.run(home, "generate", "--target", address, "--raw", "-p", PROMPT)
        assert done.returncode == 0, done.stderr.decode()
        pids = cli.processes_of(home)
        held = resident_bytes([pids["laminar-loader"], pids["laminar-worker"]])
        print(f"--ram {ram / MIB:.0f} MiB: {held / MIB:.1f} MiB are held")
        assert 0.7 * ram < held <= ram
        process.terminate()
        process.wait(cli.TIMEOUT_S)


def test_below_the_least_is_refused_with_the_arithmetic(home):
    flags = ("--ctx", "512", "--batch", "1", "--prefill-chunk", "128", "--kv-type", "f16")
    (device,) = cli.run_json(home, "plan", cli.MODEL, *flags)["devices"]
    least = device["total_bytes"]  # and a slot of the pool
    for name, more in (("run", ("-p", "x")), ("serve", ())):
        done = cli.run(home, name, cli.MODEL, *more, *flags, "--ram", f"{least}B")
        text = done.stderr.decode()
        assert done.returncode == 3 and done.stdout == b"", text
        for word in ("minimum", "context", "KV", "pool", "Options: --", "--ram"):
            assert word in text, text
    lever = int(re.search(r"--ram (\d+)MiB", text).group(1))
    done = cli.run(home, "run", cli.MODEL, *flags, "-p", "x", "-n", "2", "--ram", f"{lever}MiB")
    assert done.returncode == 0, done.stderr.decode()


def test_ps_shows_workers_and_what_they_waited_for(home):
    address = f"unix:{home}/public"
    with cli.start(home, "serve", cli.MODEL, "--listen", address, "--ctx", "512",
                   "--batch", "2") as process:
        process.stdout.readline()
        done = cli.run(home, "generate", "--target", address, "--raw", "-p", "a b c", "-n", "5")
        assert done.returncode == 0, done.stderr.decode()
        data = cli.run_json(home, "ps", "--target", address)
        text = cli.run(home, "ps", "--target", address).stdout.decode()
        process.terminate()
        table = process.communicate(timeout=cli.TIMEOUT_S)[1].decode()
    (worker,) = data["workers"]
    assert data["context_tokens"] == 512 and data["waiting"] == 0
    assert worker["device"] == "cpu" and worker["max_sequences"] == 2
    assert worker["max_kv_tokens"] == 1024 and worker["passes"] == 5
    memory = worker["memory"]
    assert memory["kv_type"] == "f16" and memory["layers"] == memory["layers_resident"] == 30
    assert memory["planned_bytes"] == memory["measured_bytes"] == sum(
        memory[part + "_bytes"] for part in (
            "context", "resident", "slots", "kv", "activations", "workspace"))
    profile, last = worker["profile"], worker["last_pass"]
    assert profile["wall_seconds"] > last["wall_seconds"] > 0
    waited = profile["disk_wait_seconds"] + profile["link_wait_seconds"]
    assert profile["compute_seconds"] + waited == pytest.approx(profile["wall_seconds"], rel=0.01)
    assert worker["tokens_per_second"] == pytest.approx(
        worker["tokens"] / profile["wall_seconds"], rel=1e-6)
    for word in ("512 tokens", "cpu on cpu", "KV       f16, 22.5 MiB, on cpu", "passes   5,",
                 "waiting for disk"):
        assert word in text, text
    assert "measured" in table and "pool" in table  # the plan, at the start


def test_ps_without_a_gateway(home):
    done = cli.run(home, "ps", "--target", f"unix:{home}/none")
    assert done.returncode == 1 and done.stdout == b"" and done.stderr.count(b"\n") == 1


def test_profile_of_a_run(home):
    flags = ("--ctx", "512", "--ram", f"{90 * MIB}B", "--raw", "-p", "one two", "-n", "6")
    done = cli.run(home, "run", cli.MODEL, *flags, "--profile")
    text = done.stderr.decode()
    assert done.returncode == 0, text
    plain = cli.run(home, "run", cli.MODEL, *flags)
    assert plain.stdout == done.stdout != b"" and b"waiting for disk" not in plain.stderr
    assert b"of the forecast" in plain.stderr and b"\nmeasured " in plain.stderr
    unset = cli.run(home, "run", cli.MODEL, "--ctx", "512", *flags[4:])
    line = (r"laminar: cpu held [\d.]+ MiB of [\d.]+ [MG]iB, planned [\d.]+ MiB; "
            r"a pass took [\d.]+ s, planned [\d.]+\n")
    assert re.search(line, unset.stderr.decode()), unset.stderr
    assert b"forecast" not in unset.stderr
    for pattern in (r"measured [\d.]+ s, [\d.]+ of the forecast", r"waiting for disk [\d.]+ \(",
                    r"passes   6, 7 rows", r"[\d.]+ [MG]iB from disk",
                    r"pool     [\d.]+ MiB of memory given by the machine in [\d.]+ s"):
        assert re.search(pattern, text), text
    data = cli.run_json(home, "run", cli.MODEL, *flags, "--profile")
    assert data["profile"]["wall_seconds"] > 0 and data["loader"]["disk_bytes"] > 0


def test_plan_and_measurement_stand_side_by_side(home):
    """In the table and in --json: what is held, what a pass reads, how long it takes."""
    flags = ("--ctx", "512", "--batch", "1", "--ram", f"{110 * MIB}B", "--raw", "-p", "one two",
             "-n", "24")
    plan = cli.run_json(home, "run", cli.MODEL, *flags)["plan"]
    shown = cli.run_json(home, "plan", cli.MODEL, *flags[:6])
    measured = plan.pop("measured")
    assert {"version": 1, **plan} == shown
    (device,) = measured["devices"]
    assert 0.8 * 110 * MIB < device["total_bytes"] <= 110 * MIB
    assert measured["host"]["pool_bytes"] == plan["host"]["pool_bytes"]
    # The loader may find a unit of the pass before in a place that was not yet needed.
    read = measured["host"]["disk_bytes_per_pass"] / plan["host"]["disk_bytes_per_pass"]
    assert 0.8 < read < 1.05, read
    assert measured["tokens_per_second"] == pytest.approx(1 / measured["pass_seconds"])
    text = cli.run(home, "run", cli.MODEL, *flags, "--profile").stderr.decode()
    assert re.search(r"^cpu .*\nmeasured +[\d.]+ .*\n\nRAM .* from disk in a pass\n"
                     r" +measured: [\d.]+ MiB in use, [\d.]+ MiB from disk in a pass\n", text,
                     re.M), text


def test_serve_tells_its_plan(home):
    with cli.start(home, "serve", cli.MODEL, "--listen", f"unix:{home}/public", "--ctx", "512",
                   "--json") as process:
        data = json.loads(process.stdout.readline())
        process.terminate()
        process.wait(cli.TIMEOUT_S)
    plan = data["plan"]
    assert data["version"] == 1 and plan["fits"] is True
    (device,) = plan["measured"]["devices"]
    assert 0 < device["total_bytes"] <= plan["devices"][0]["cap_bytes"]
    assert plan["measured"]["pass_seconds"] is None


EXAMPLES = "; write for example 3GiB, 75% or free-1GiB"


@pytest.mark.parametrize("spec, message", [
    ("", "item 1 is empty" + EXAMPLES),
    ("x", "item 1 'x' is not a size" + EXAMPLES),
    ("3,x,3", "item 2 'x' is not a size" + EXAMPLES),
    ("3,,3", "item 2 is empty" + EXAMPLES),
    ("3,3,", "item 3 is empty" + EXAMPLES),
    ("3 GB", "item 1 '3 GB' has a space in it" + EXAMPLES),
    ("3, 3", "item 2 ' 3' has a space in it" + EXAMPLES),
    ("-1GiB", "item 1 '-1GiB' is negative" + EXAMPLES),
    ("8192", "item 1 '8192' would be 8192 GiB; did you mean 8192MiB?"),
    ("4,8192", "item 2 '8192' would be 8192 GiB; did you mean 8192MiB?"),
    ("101%", "item 1 '101%' is not a size" + EXAMPLES),
    ("-5%", "item 1 '-5%' is negative" + EXAMPLES),
    ("nan", "item 1 'nan' is not a size" + EXAMPLES),
    ("1e3", "item 1 '1e3' is not a size" + EXAMPLES),
    ("0x10", "item 1 '0x10' is not a size" + EXAMPLES),
    ("3GiBB", "item 1 '3GiBB' is not a size" + EXAMPLES),
    ("free", "item 1 'free' is free without a size to leave" + EXAMPLES),
    ("free-", "item 1 'free-' is free without a size to leave" + EXAMPLES),
    ("free+1GiB", "item 1 'free+1GiB' is free without a size to leave" + EXAMPLES),
    ("0=3,cuda:0=3", "item 2 'cuda:0=3' names cuda:0 a second time; keep one"),
    ("0=", "item 1 '0=' is not a size" + EXAMPLES),
    ("off,0", "'off,0' leaves no device to compute on" + EXAMPLES),
])
@pytest.mark.parametrize("name", ["run", "serve", "plan"])
def test_malformed_vram(home, name, spec, message):
    """Before any device is touched: there is none here."""
    more = {"run": ("-p", "x"), "serve": (), "plan": ("--gpu", "80GiB*2")}[name]
    done = cli.run(home, name, cli.MODEL, *more, "--vram", spec)
    assert done.stderr.decode() == f"laminar: --vram: {message}\n"
    assert done.returncode == 2 and done.stdout == b""


def test_measured_facts_are_planned_with(home, tmp_path):
    """`doctor --measure` keeps what it found; plans say what is measured and what is assumed."""
    env = cli.environment(home, HOME=str(tmp_path))
    file = tmp_path / ".cache" / "laminar" / "facts.json"

    def plan(*flags):
        done = cli.run(home, "plan", cli.MODEL, "--ctx", "512", *flags, env=env)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    assert re.search(r"disk [\d.]+ GB/s assumed", plan())
    done = cli.run(home, "doctor", "--measure", "--model", cli.MODEL, "--json", env=env)
    assert done.returncode == 0, done.stderr.decode()
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["findings"]}
    assert found["memory rate"]["verdict"] == found["facts"]["verdict"] == "ok"
    facts = json.loads(file.read_text())
    assert facts["version"] == 1 and facts["memory_bytes_per_second"] > 1e8
    assert re.search(r"memory [\d.]+ GB/s measured", plan())
    assert ("disk_bytes_per_second" in facts) == (found["disk rate"]["verdict"] == "ok")
    assert "disk" not in plan("--disk", "7GB/s").splitlines()[-1]  # a flag wins
    file.write_text('{"version":1,"gpus":[{"name":"X","driver":"1","library":"a",'
                    '"total_bytes":25769803776,"context_bytes":314572800,'
                    '"link_bytes_per_second":1e10}]}')
    text = plan("--gpu", "measured", "--vram", "3GiB")
    assert "context 0.29 GiB measured, link 10 GB/s measured" in text
    assert "cuda:0" in plan("--device", "cuda:0")


def test_a_facts_file_that_is_none_is_named(home, tmp_path):
    env = cli.environment(home, HOME=str(tmp_path))
    folder = tmp_path / ".cache" / "laminar"
    folder.mkdir(parents=True)
    (folder / "facts.json").write_text("{")
    for command in ("plan", "run"):
        done = cli.run(home, command, cli.MODEL, *(("-p", "x") if command == "run" else ()),
                       env=env)
        text = done.stderr.decode()
        assert done.returncode == 1 and str(folder / "facts.json") in text, text
        assert "doctor --measure" in text
    done = cli.run(home, "doctor", env=env)
    assert done.returncode == 0 and b"facts.json" in done.stdout
