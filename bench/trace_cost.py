#!/usr/bin/env python3
"""trace_cost: what recording spans costs: a pass with and without, within one run.

    bench/trace_cost.py [--model FILE] [--ram SIZE] [--rounds 10] [--seconds 2]

One stack generates without end. Rounds of `seconds` each, without and with a recording of all three
services, in turn. The passes of a round come from laminar_worker_pass_seconds; what is compared is
processor time of the three processes per pass, which others on the machine disturb least, and the
wall-clock time of a pass. Writing a recording's answer is not part of a round. Needs what tests/e2e
needs, and curl.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import harness  # noqa: E402  pylint: disable=wrong-import-position

SERVICES = ("gateway", "worker", "loader")


def get(address, path):
    """The body that an operations port on a Unix socket answers with."""
    done = subprocess.run(["curl", "-sf", "--unix-socket", address.removeprefix("unix:"),
                           f"http://localhost{path}"], capture_output=True, check=True)
    return done.stdout.decode()


def passes(address):
    """Seconds and number of the passes so far."""
    values = dict(line.rsplit(" ", 1) for line in get(address, "/metrics").splitlines()
                  if line.startswith("laminar_worker_pass_seconds_"))
    return (float(values["laminar_worker_pass_seconds_sum"]),
            float(values["laminar_worker_pass_seconds_count"]))


def processor_seconds(processes):
    total = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def one_round(stack, address, seconds):
    """Processor and wall-clock seconds of a pass."""
    wall, n_passes = passes(address)
    busy = processor_seconds(stack.processes.values())
    time.sleep(seconds)
    busy = processor_seconds(stack.processes.values()) - busy
    wall_after, n_after = passes(address)
    return busy / (n_after - n_passes), (wall_after - wall) / (n_after - n_passes)


def recorded_round(stack, addresses, seconds):
    path = f"/trace?seconds={seconds + 2}"
    threads = [threading.Thread(target=get, args=(address, path)) for address in addresses]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    result = one_round(stack, addresses[1], seconds)
    for thread in threads:
        thread.join()
    return result


def measure(stack, addresses, options):
    ratios = []
    for i in range(options.rounds):
        off = one_round(stack, addresses[1], options.seconds)
        on = recorded_round(stack, addresses, options.seconds)
        ratios.append((on[0] / off[0], on[1] / off[1]))
        print(f"round {i + 1}: processors {off[0] * 1e3:.2f} ms without, {on[0] * 1e3:.2f} with, "
              f"ratio {ratios[-1][0]:.3f}; pass {off[1] * 1e3:.2f} ms and {on[1] * 1e3:.2f}, "
              f"ratio {ratios[-1][1]:.3f}", flush=True)
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
        ratios = measure(stack, addresses, options)
        stop.set()
        thread.join()
        client.close()
    for k, what in enumerate(("processors", "pass")):
        column = [ratio[k] for ratio in ratios]
        print(f"{what}: median ratio {statistics.median(column):.3f}, "
              f"from {min(column):.3f} to {max(column):.3f}")


if __name__ == "__main__":
    main()
