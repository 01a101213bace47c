#!/usr/bin/env python3
"""trace_cost: what recording spans costs: the time of a pass with and without, within one run.

    bench/trace_cost.py [--model FILE] [--rounds 10] [--seconds 2]

One stack generates without end. Rounds of `seconds` each, without and with a recording of all three
services, in turn; the time of a pass is the growth of laminar_worker_pass_seconds in each. Prints
the ratio with / without of each round and their median. Needs what tests/e2e needs.
"""
import argparse
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import harness  # noqa: E402  pylint: disable=wrong-import-position

LAMINAR = pathlib.Path(harness.BIN) / "cli" / "laminar"
SERVICES = ("gateway", "worker", "loader")


def get(address, path):
    """The body that an operations port on a Unix socket answers with."""
    done = subprocess.run(["curl", "-sf", "--unix-socket", address.removeprefix("unix:"),
                           f"http://localhost{path}"], capture_output=True, check=True)
    return done.stdout.decode()


def passes(address):
    """Sum of seconds and number of the passes so far."""
    values = dict(line.rsplit(" ", 1) for line in get(address, "/metrics").splitlines()
                  if line.startswith("laminar_worker_pass_seconds_"))
    return (float(values["laminar_worker_pass_seconds_sum"]),
            float(values["laminar_worker_pass_seconds_count"]))


def seconds_of_a_pass(address, during):
    sum_before, n_before = passes(address)
    during()
    sum_after, n_after = passes(address)
    return (sum_after - sum_before) / (n_after - n_before)


def measure(addresses, rounds, seconds):
    record = [LAMINAR, "trace", "-o", "/dev/shm/trace_cost.json", "--seconds", str(seconds),
              *addresses]
    ratios = []
    for i in range(rounds):
        off = seconds_of_a_pass(addresses[1], lambda: time.sleep(seconds))
        on = seconds_of_a_pass(
            addresses[1], lambda: subprocess.run(record, check=True, capture_output=True))
        ratios.append(on / off)
        print(f"round {i + 1}: {off * 1e3:.2f} ms without, {on * 1e3:.2f} ms with, "
              f"ratio {on / off:.3f}", flush=True)
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=harness.MODEL)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--ram", help="of the loader; smaller than the model: it streams")
    options = parser.parse_args()
    loader_flags = ["--ram", options.ram] if options.ram else []
    with harness.Stack(model=options.model, worker_flags=["--ctx", "4096", "--batch", "1"],
                       loader_flags=loader_flags) as stack:
        addresses = [f"unix:{stack.directory}/{service}-ops.sock" for service in SERVICES]
        for service, address in zip(SERVICES, addresses):
            stack.flags[service] += ["--ops", address]
        client = stack.start()
        stop = threading.Event()

        def generate():
            while not stop.is_set():
                client.generate(text="Once", max_tokens=64, temperature=0, ignore_eos=True)

        thread = threading.Thread(target=generate)
        thread.start()
        time.sleep(1)
        ratios = measure(addresses, options.rounds, options.seconds)
        stop.set()
        thread.join()
        client.close()
    print(f"median ratio {statistics.median(ratios):.3f}, "
          f"from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
