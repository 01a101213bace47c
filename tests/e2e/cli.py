"""cli: how the tests run `laminar`, and how they look for what it left behind.

The binaries are those of bazel-bin, or of $LAMINAR_BIN_DIR (a folder in Bazel's layout). The model
is the demo model, or $LAMINAR_MODEL.
"""
import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("LAMINAR_BIN_DIR", ROOT / "bazel-bin"))
LAMINAR = BIN_DIR / "cli" / "laminar"
MODEL = os.environ.get("LAMINAR_MODEL") or os.path.expanduser(
    "~/.cache/laminar/models/SmolLM2-135M-Instruct.Q4_1.gguf")
SERVICES = ("loader", "gateway", "worker")
TIMEOUT_S = 600  # for what hangs, not for what is slow: the machine may be busy
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(*arguments, binary=LAMINAR):
    return [str(binary), *[a if isinstance(a, bytes) else str(a) for a in arguments]]


@functools.lru_cache(maxsize=None)
def home_folder():
    """A home for all tests of a session: what they measure is no fact of the user who runs them."""
    folder = tempfile.mkdtemp(prefix="laminar-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environment(runtime_dir, **more):
    return {"PATH": os.environ["PATH"], "HOME": home_folder(),
            "XDG_RUNTIME_DIR": str(runtime_dir), **more}


def run(runtime_dir, *arguments, **options):
    """Runs to the end. Standard input is empty unless `input` says otherwise."""
    options.setdefault("timeout", TIMEOUT_S)
    options.setdefault("env", environment(runtime_dir))
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command(*arguments), capture_output=True, **options)


def run_json(runtime_dir, *arguments):
    done = run(runtime_dir, *arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b'{"version":1,') and done.stdout.count(b"\n") == 1
    return json.loads(done.stdout)


def default_signals():
    """The tests may run in a background job, whose children inherit that SIGINT is ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


default_signals()


@contextlib.contextmanager
def start(runtime_dir, *arguments, **options):
    """A process that goes on; killed at the end whatever happens."""
    options.setdefault("env", environment(runtime_dir))
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stderr", subprocess.PIPE)
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=TIMEOUT_S)


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def processes_of(runtime_dir):
    """Pids by service name of every process whose command line names the directory."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        line = command_line(pid)
        if is_alive(pid) and any(str(runtime_dir).encode() in part for part in line):
            found[os.path.basename(line[0].decode(errors="replace"))] = int(pid)
    return found


def wait_until(condition, seconds=60, what="the condition"):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come within {seconds} s"
        time.sleep(0.01)


def wait_for_services(runtime_dir):
    names = {f"laminar-{service}" for service in SERVICES}
    wait_until(lambda: set(processes_of(runtime_dir)) >= names, what="three services")
    return processes_of(runtime_dir)


def assert_nothing_left(runtime_dir, seconds=0):
    """No process, no socket, no directory; `seconds`: how long ends may take. The pool's memory has
    no name and goes with its processes: what lies in /dev/shm is another program's, or a unit
    test's."""
    def nothing():
        return not processes_of(runtime_dir) and not os.listdir(runtime_dir)
    if seconds:
        wait_until(nothing, seconds, "the end of all that was started")
    assert processes_of(runtime_dir) == {}
    assert os.listdir(runtime_dir) == []


def died_by(process, signal_number):
    return process.returncode == -signal_number or process.returncode == 128 + signal_number
