"""Traces of real processes: everybody is there, on one clock, and things happen in their order."""
import collections
import json
import os
import signal
import threading
import time

import cli
import harness

SERVICES = ("gateway", "worker", "loader")
TRACKS = {
    "gateway": {"requests", "steps"},
    "worker": {"passes", "waits", "kernels", "sampling"},
    "loader": {"disk", "checks", "leases"},
}
STORY = "Once upon a time, in a village by the sea,"
SMALL = ["--ram", "40MiB"]  # less than half of the demo model's weights


class Trace:
    """A file as a viewer reads it: spans by process and track, in microseconds."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        assert list(data)[0] == "version" and data["version"] == 1
        assert all(process["lost"] == 0 for process in data["otherData"]["processes"])
        self.names, self.threads, self.spans = {}, {}, collections.defaultdict(list)
        for event in data["traceEvents"]:
            if event["name"] == "process_name":
                self.names[event["pid"]] = event["args"]["name"].split()[0]
            elif event["name"] == "thread_name":
                self.threads[event["pid"], event["tid"]] = event["args"]["name"]
            elif event["ph"] == "X":
                self.spans[event["pid"], event["tid"]].append(event)

    def of(self, service, track):
        """All spans of a track, whatever lane they are drawn in."""
        return [span for (pid, _), spans in self.spans.items() for span in spans
                if self.names[pid] == f"laminar-{service}" and span["cat"] == track]

    def check(self, begin_us, end_us):
        assert set(self.names.values()) == {f"laminar-{service}" for service in SERVICES}
        for service in SERVICES:
            for track in TRACKS[service]:
                assert self.of(service, track), f"no {track} of the {service}"
        for (pid, tid), spans in self.spans.items():
            assert (pid, tid) in self.threads
            at = begin_us
            for span in sorted(spans, key=lambda span: span["ts"]):
                assert span["ts"] > at - 0.001, f"{span} begins before {at}"
                at = span["ts"] + span["dur"]
            assert at < end_us

    def check_order(self, since_start):
        """A unit is read, then leased, then used."""
        reads, uses = collections.defaultdict(list), collections.defaultdict(list)
        for span in self.of("loader", "disk"):
            reads[span["args"]["unit"]].append((span["ts"], span["ts"] + span["dur"]))
        for span in self.of("worker", "kernels"):
            uses[span["args"]["unit"]].append((span["ts"], span["ts"] + span["dur"]))
        n_leases = 0
        for lease in self.of("loader", "leases"):
            unit, begin = lease["args"]["unit"], lease["ts"]
            end = begin + lease["dur"]
            n_leases += 1
            assert not since_start or any(read[1] <= begin for read in reads[unit])
            if lease["name"] == "kept":
                continue
            assert not any(read[0] < end and read[1] > begin for read in reads[unit])
            used = [use for use in uses[unit] if use[0] < end and use[1] > begin]
            assert all(begin <= use[0] and use[1] <= end for use in used)
        assert n_leases > 0


def test_trace_of_running_services(home, tmp_path):
    with harness.Stack(worker_flags=["--ctx", "512"], loader_flags=SMALL) as stack:
        addresses = [f"unix:{stack.directory}/{service}-ops.sock" for service in SERVICES]
        for service, address in zip(SERVICES, addresses):
            stack.flags[service] += ["--ops", address]
        client = stack.start()
        stop = threading.Event()

        def generate():
            while not stop.is_set():
                client.generate(text=STORY, max_tokens=16, temperature=0, ignore_eos=True)

        thread = threading.Thread(target=generate)
        thread.start()
        give_up = time.monotonic() + harness.CALL_SECONDS
        whole = False
        while not whole:  # on a busy machine no request may begin and end in two seconds
            begin = time.monotonic()
            data = cli.run_json(home, "trace", "-o", tmp_path / "t.json", "--seconds", "2",
                                *addresses)
            end = time.monotonic()
            trace = Trace(tmp_path / "t.json")
            whole = all(trace.of(service, track) for service in SERVICES
                        for track in TRACKS[service])
            assert end < give_up
        refused = cli.run(home, "trace", "-o", tmp_path / "no.json", "--since-start", addresses[0])
        stop.set()
        thread.join()
        assert end - begin >= 2
        assert [p["process"] for p in data["processes"]] == [f"laminar-{s}" for s in SERVICES]
        trace.check(begin * 1e6, end * 1e6)
        trace.check_order(False)
        assert refused.returncode == 1 and b"400: say for how long" in refused.stderr
        assert not (tmp_path / "no.json").exists()
        client.close()
        assert set(stack.stop().values()) == {0}


def test_trace_of_a_run_holds_its_start(home, tmp_path):
    path = tmp_path / "t.json"
    begin = time.monotonic()
    done = cli.run(home, "run", cli.MODEL, "--raw", "-p", STORY, "-n", "8", "--trace", path)
    assert done.returncode == 0, done.stderr.decode()
    assert str(path) in done.stderr.decode()
    trace = Trace(path)
    trace.check(begin * 1e6, time.monotonic() * 1e6)
    trace.check_order(True)
    assert len(trace.of("worker", "passes")) == 8
    assert len(trace.of("gateway", "steps")) == 8
    reads = {span["args"]["unit"] for span in trace.of("loader", "disk")}
    assert reads == {span["args"]["unit"] for span in trace.of("worker", "kernels")}


def test_copies_to_a_device_are_in_the_trace(home, tmp_path):
    """The emulated one, whose time is its own: what it did is compared, not when."""
    library = os.path.join(harness.BIN, "tests", "kernels", "emulated")
    done = cli.run(home, "run", cli.MODEL, "--raw", "-p", "Once", "-n", "6", "--ctx", "256",
                   "--device", "cuda:0", "--vram", "150MiB", "--cuda-library", library,
                   "--trace", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr.decode()
    trace = Trace(tmp_path / "t.json")
    copies = trace.of("worker", "copies")
    resident = [copy for copy in copies if "slot" not in copy["args"]]
    streamed = [copy for copy in copies if "slot" in copy["args"]]
    assert resident and streamed
    units = {span["args"]["unit"] for span in trace.of("loader", "leases")}
    assert {copy["args"]["unit"] for copy in copies} == units
    waits = [span for span in trace.of("worker", "kernels") if span["name"] == "wait for copy"]
    assert len(waits) == len(streamed)
    # What kernels waited for had just arrived when they went on: both rows are on one axis.
    ends = sorted(copy["ts"] + copy["dur"] for copy in streamed)
    for wait in waits:
        end = wait["ts"] + wait["dur"]
        nearest = min(ends, key=lambda at, end=end: abs(at - end))
        assert wait["dur"] == 0 or abs(nearest - end) < 0.01, wait


def test_trace_of_serve(home, tmp_path):
    with cli.start(home, "serve", cli.MODEL, "--listen", "127.0.0.1:0", "--ops",
                   "--json") as process:
        data = json.loads(process.stdout.readline())
        assert set(data["ops"]) == set(SERVICES)
        traced = cli.run_json(home, "trace", "-o", tmp_path / "t.json", "--seconds", "1",
                              *data["ops"].values())
        assert [p["process"] for p in traced["processes"]] == [f"laminar-{s}" for s in data["ops"]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(cli.TIMEOUT_S) == 0
        assert "laminar trace -o t.json unix:" in process.stderr.read().decode()


def test_what_cannot_be_traced_is_said_before_the_run(home, tmp_path):
    done = cli.run(home, "run", cli.MODEL, "-p", "x", "--trace", tmp_path / "none" / "t.json")
    assert done.returncode == 2 and b"cannot write" in done.stderr and done.stdout == b""
    done = cli.run(home, "trace", "-o", tmp_path / "t.json", "unix:/nowhere/ops.sock")
    assert done.returncode == 1 and b"nobody answers on unix:/nowhere/ops.sock" in done.stderr
    assert cli.run(home, "trace").returncode == 2
    assert cli.run(home, "trace", "nonsense").returncode == 2
    assert not (tmp_path / "t.json").exists()


def test_ctrl_c_ends_a_recording_and_leaves_no_file(home, tmp_path):
    with harness.Stack(worker_flags=["--ctx", "512"]) as stack:
        address = f"unix:{stack.directory}/gateway-ops.sock"
        stack.flags["gateway"] += ["--ops", address]
        stack.start().close()
        with cli.start(home, "trace", "-o", tmp_path / "t.json", "--seconds", "60",
                       address) as process:
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(cli.TIMEOUT_S) == -signal.SIGINT
        assert list(tmp_path.iterdir()) == [home]
        begin = time.monotonic()
        assert stack.stop()["gateway"] == 0
        assert time.monotonic() - begin < 50  # it does not wait for its recording
