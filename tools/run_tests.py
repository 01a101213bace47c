"""run_tests: the steps of tools/test, their counts and their table.

Counts are real: test cases as cmocka and pytest report them, and one for each step that has none
(a build, a fuzz target). A test that cannot run on this machine (no /dev/fuse, say) is shown and
counted as skipped, never as passed.
"""
import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FUZZ_SECONDS = 30
FIO_RATIO_MIN = 0.92
FIO_SPREAD_MAX = 0.15  # of fio's own rounds: a drive that differs more by itself cannot be judged
FUZZ_JOBS = 2
E2E_JOBS = min(8, 2 * (os.cpu_count() or 1))  # its tests mostly wait: for a start, a drive, an end
E2E_FIRST = ["test_logits.py", "test_cli.py"]  # a file is for one process: the longest begin
E2E_NEEDS = ["//cli:laminar", "//loader:laminar-loader", "//worker:laminar-worker",
             "//gateway:laminar-gateway", "//deploy:bundle_cpu", "//tests/tools:faultfs",
             "//tests/kernels/emulated:all", "//tests/kernels/simulated:liblaminar-cuda.so"]
BAZEL_QUIET = ["--noshow_progress", "--ui_event_filters=-info", "--show_result=0"]

Step = namedtuple("Step", "name what run quick")
Outcome = namedtuple("Outcome", "passed failed skipped", defaults=(0,))


def shell(command, **options):
    """Runs and shows a command; its exit code."""
    print("$", " ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT, **options).returncode


def one(code):
    return Outcome(int(code == 0), int(code != 0))


def bazel_output(*arguments):
    done = subprocess.run(["bazel", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
    return done.stdout


def run_tidy():
    return one(shell(["tools/tidy", "--self-test"])), one(shell(["tools/tidy"]))


def run_build():
    return [one(shell(["bazel", "build", *BAZEL_QUIET, "//..."]))]


def run_layering():
    """clang, with every header required to come from a direct dependency. Writes no bazel-bin."""
    return [one(shell(["bazel", "build", *BAZEL_QUIET, "--keep_going", "--symlink_prefix=/",
                       "--config=layering", "//..."]))]


def count_cases(path):
    """Test cases in one log of cmocka: what it says it ran, and what it says failed."""
    try:
        with open(path, errors="replace") as file:
            log = file.read()
    except OSError:
        return Outcome(0, 1)
    passed = sum(map(int, re.findall(r"^\[  PASSED  \] (\d+) test", log, re.M)))
    failed = sum(map(int, re.findall(r"^\[  FAILED  \] (\d+) test", log, re.M)))
    skipped = sum(map(int, re.findall(r"^\[  SKIPPED \] (\d+) test", log, re.M)))
    for why in re.findall(r"^not run: .*", log, re.M):
        print(f"{path}: {why}", flush=True)
    return Outcome(passed, failed, skipped)


def bazel_tests(config):
    """All C tests in one lane. A lane other than the default writes no bazel-bin link.

    Only logs of targets that this run reports count: a target that did not build has an old log.
    """
    lane = [f"--config={config}", "--symlink_prefix=/"] if config else []
    command = ["bazel", "test", *BAZEL_QUIET, "--build_tests_only", "--keep_going", *lane,
               "//tests/..."]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    print(done.stdout, flush=True)
    log_root = bazel_output("info", *lane[:1], "bazel-testlogs").strip()
    outcomes = []
    reports = re.findall(r"^(//\S+) +(?:\(cached\) )?([A-Z][A-Z ]*[A-Z])", done.stdout, re.M)
    for label, verdict in reports:
        path = os.path.join(log_root, label[2:].replace(":", "/"), "test.log")
        outcome = count_cases(path) if verdict in ("PASSED", "FAILED", "TIMEOUT") else Outcome(0, 1)
        if verdict != "PASSED" and not outcome.failed:  # died without a summary
            outcome = outcome._replace(failed=1)
        outcomes.append(outcome)
    if done.returncode and not any(outcome.failed for outcome in outcomes):
        outcomes.append(Outcome(0, 1))
    return outcomes


def fuzz_one(job):
    """Runs a target on its first inputs, if it has some; a crash shows its output."""
    binary, seeds = job
    with tempfile.TemporaryDirectory() as folder:
        if seeds:
            subprocess.run([seeds, folder], check=True)
        done = subprocess.run(
            [binary, f"-max_total_time={FUZZ_SECONDS}", "-rss_limit_mb=2048", "-timeout=10",
             "-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={folder}/", folder],
            cwd=folder, capture_output=True, text=True, errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    print(f"  {os.path.basename(binary)}: {runs.group(1) if runs else '?'} inputs, "
          f"{'no finding' if done.returncode == 0 else 'FAILED'}", flush=True)
    if done.returncode:
        print(done.stderr[-4000:], flush=True)
    return done.returncode


def binary_of(label, *config):
    folder = bazel_output("info", *config, "bazel-bin").strip()
    return os.path.join(folder, label[2:].replace(":", "/"))


def run_fuzz():
    """NAME_fuzz is a target; a program NAME_seeds beside it writes its first inputs."""
    labels = bazel_output("query", "--noshow_progress",
                          'kind("cc_binary", //tests/fuzz/...)').split()
    targets = [label for label in labels if label.endswith("_fuzz")]
    seeds = [label for label in labels if label.endswith("_seeds")]
    quiet = [*BAZEL_QUIET, "--symlink_prefix=/"]
    if (not targets or shell(["bazel", "build", *quiet, "--config=fuzz", *targets])
            or (seeds and shell(["bazel", "build", *quiet, *seeds]))):
        return [Outcome(0, max(1, len(targets)))]
    jobs = []
    for target in targets:
        seed = target.replace("_fuzz", "_seeds")
        jobs.append((binary_of(target, "--config=fuzz"),
                     binary_of(seed) if seed in seeds else None))
    with concurrent.futures.ThreadPoolExecutor(FUZZ_JOBS) as pool:
        return [one(code) for code in pool.map(fuzz_one, jobs)]


def run_tokenizer():
    """Token ids beside those of Hugging Face's tokenizers; the script counts by itself."""
    if shell(["bazel", "build", *BAZEL_QUIET, "//tests/tools:tokenize_lines"]):
        return [Outcome(0, 1)]
    python = os.path.join(os.environ["LAMINAR_VENV"], "bin", "python")
    command = [python, "tests/e2e/tokenizer_vs_hf.py", "--tool",
               "bazel-bin/tests/tools/tokenize_lines", "--model", os.environ["LAMINAR_MODEL"]]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout[-3000:], flush=True)
    counts = re.search(r"(\d+) passed, (\d+) failed\s*$", done.stdout)
    if not counts:
        return [Outcome(0, 1)]
    failed = int(counts.group(2))
    return [Outcome(int(counts.group(1)), failed if failed or done.returncode == 0 else 1)]


def e2e_files():
    names = [name for name in os.listdir(os.path.join(ROOT, "tests/e2e"))
             if name.startswith("test_") and name.endswith(".py")]
    return [f"tests/e2e/{name}" for name in [*E2E_FIRST, *sorted(set(names) - set(E2E_FIRST))]]


def run_e2e():
    """The real processes, driven from Python. Built here, so that the step also works alone."""
    if shell(["bazel", "build", *BAZEL_QUIET, *E2E_NEEDS]):
        return [Outcome(0, 1)]
    python = os.path.join(os.environ["LAMINAR_VENV"], "bin", "python")
    # A test that failed may leave a mount in it: that must not cost the table.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = os.path.join(folder, "report.xml")
        # Sockets lie below the base folder, and their paths must be short.
        code = shell([python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n",
                      str(E2E_JOBS), "--dist", "loadfile", "--no-loadscope-reorder",
                      f"--basetemp={folder}/t", "--durations=10", f"--junitxml={report}",
                      *e2e_files()])
        try:
            suites = ElementTree.parse(report).getroot().iter("testsuite")
        except (OSError, ElementTree.ParseError):
            return [Outcome(0, 1)]
        passed = failed = skipped = 0
        for suite in suites:
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            failed += bad
            left_out = int(suite.get("skipped", 0))
            skipped += left_out
            passed += int(suite.get("tests", 0)) - bad - left_out
    return [Outcome(passed, failed if failed or code == 0 else 1, skipped)]


def read_beside_fio(laminar, model):
    """Ours over fio's speed on this file and fio's own spread; or None and why there is none."""
    command = [laminar, "bench", "loader", model, "--against-fio", "--checksum", "off", "--json"]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return 0.0, 0.0, ""
    data = json.loads(done.stdout)
    print(f"ours {data['gbps']:.3f} GB/s, fio {data['fio_gbps']:.3f}, "
          f"ratio {data['ratio_to_fio']:.3f}, fio spreads {data['fio_spread']:.2f}", flush=True)
    if not data["direct"] or data["engine"] != "io_uring":
        return None, 0.0, "no direct reads by io_uring here: there is nothing to compare"
    return data["ratio_to_fio"], data["fio_spread"], ""


def run_speed():
    """A file of about 1 GiB on the disk of the cache folder. A low ratio is measured twice, and it
    counts where fio agrees with itself."""
    if not shutil.which("fio"):
        print("not run: no fio here; tools/setup installs it", flush=True)
        return [Outcome(0, 0, 1)]
    if shell(["bazel", "build", *BAZEL_QUIET, "//cli:laminar", "//loader:laminar-loader"]):
        return [Outcome(0, 1)]
    laminar = "bazel-bin/cli/laminar"
    os.makedirs(os.environ["LAMINAR_CACHE"], exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.environ["LAMINAR_CACHE"]) as folder:
        model = os.path.join(folder, "speed.gguf")
        if shell([laminar, "synth", "--preset", "llama3.2-1b", "--type", "q8_0", "-o", model]):
            return [Outcome(0, 1)]
        os.sync()  # or the drive is still busy with it
        steady = False
        for _ in range(2):
            ratio, spread, why = read_beside_fio(laminar, model)
            if ratio is None:
                print(f"not run: {why}", flush=True)
                return [Outcome(0, 0, 1)]
            if ratio >= FIO_RATIO_MIN:
                return [Outcome(1, 0)]
            steady = steady or spread <= FIO_SPREAD_MAX
    if not steady:
        print(f"not run: fio itself varies by more than {FIO_SPREAD_MAX} here", flush=True)
        return [Outcome(0, 0, 1)]
    print(f"reading is slower than {FIO_RATIO_MIN} of fio, twice", flush=True)
    return [Outcome(0, 1)]


STEPS = [
    Step("tidy", "style that a machine can check", run_tidy, True),
    Step("build", "everything, gcc, warnings are errors", run_build, True),
    Step("unit", "C tests", lambda: bazel_tests(None), True),
    Step("e2e", "the real processes from outside", run_e2e, True),
    Step("tokenizer", "token ids beside Hugging Face's", run_tokenizer, True),
    Step("speed", f"reading a model: {FIO_RATIO_MIN} of fio on the same file", run_speed, False),
    Step("asan-ubsan", "C tests, stray addresses and undefined behaviour",
         lambda: bazel_tests("asan-ubsan"), False),
    Step("tsan", "C tests, thread sanitizer", lambda: bazel_tests("tsan"), False),
    Step("layering", "clang: who may include whom", run_layering, False),
    Step("fuzz", f"every fuzz target, {FUZZ_SECONDS} s each", run_fuzz, False),
]


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tools/test", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no sanitizers, no fuzzing")
    parser.add_argument("--only", metavar="NAME", choices=[step.name for step in STEPS])
    parser.add_argument("--list", action="store_true", help="the steps")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.list:
        for step in STEPS:
            print(f"{step.name:10} {step.what}")
        return 0
    rows = []
    for step in STEPS:
        if (arguments.quick and not step.quick) or arguments.only not in (None, step.name):
            continue
        print(f"\n== {step.name}: {step.what}", flush=True)
        began = time.monotonic()
        outcomes = list(step.run())
        total = Outcome(*map(sum, zip(*outcomes)))
        rows.append((step, total, time.monotonic() - began))
    print("\nstep        passed  failed skipped   seconds")
    for step, total, seconds in rows:
        counts = f"{total.passed:7} {total.failed:7} {total.skipped:7}"
        print(f"{step.name:10} {counts} {seconds:9.1f}   {step.what}")
    passed = sum(total.passed for _, total, _ in rows)
    failed = sum(total.failed for _, total, _ in rows)
    skipped = sum(total.skipped for _, total, _ in rows)
    print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
