"""What a machine or a container refuses the loader: it goes on more slowly and says so, or does not
start and says why."""
import ctypes
import os
import resource
import struct
import subprocess
import time

import pytest

import cli
import harness

LOADER = os.path.join(harness.BIN, "loader", "laminar-loader")
ERRORS = {"EPERM": 1, "ENOSYS": 38}  # container engines, old kernels
SYS_IO_URING_SETUP = 425
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


def refuse_io_uring(error):
    """From here on io_uring_setup fails with that error, in this process and its children."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in (
        (0x20, 0, 0, 0),                    # load the call's number
        (0x15, 0, 1, SYS_IO_URING_SETUP),   # is it this one?
        (0x06, 0, 0, 0x00050000 | error),   # then fail
        (0x06, 0, 0, 0x7fff0000)))          # else allow
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.create_string_buffer(program), 0, 0) == 0


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder


def command(folder, *flags):
    return [LOADER, "--model", cli.MODEL, "--ram", "40MiB", "--listen",
            f"unix:{folder}/loader.sock", "--pool-socket", f"{folder}/pool.sock",
            "--integrity-cache", f"{folder}/sums", "--io-cache", f"{folder}/io", *flags]


@pytest.mark.parametrize("error", ERRORS)
def test_io_uring_that_is_required_and_refused(folder, error):
    for flags in (["--require-io-uring"], ["--engine", "io_uring"]):
        done = subprocess.run(command(folder, *flags), capture_output=True, check=False,
                              timeout=cli.TIMEOUT_S,
                              preexec_fn=lambda: refuse_io_uring(ERRORS[error]))
        text = done.stderr.decode()
        assert done.returncode == 1, text
        assert "io_uring cannot be used here" in text and os.strerror(ERRORS[error]) in text
        assert "seccomp" in text and "--engine auto" in text
        assert not (folder / "loader.sock").exists() and not (folder / "pool.sock").exists()


@pytest.mark.parametrize("error", ERRORS)
def test_io_uring_that_is_refused_is_done_without(folder, error):
    """Said in the log, and the whole model comes through the other engine as it is."""
    process = subprocess.Popen(command(folder), stderr=subprocess.PIPE,
                               preexec_fn=lambda: refuse_io_uring(ERRORS[error]))
    try:
        give_up = time.monotonic() + 60
        while not (folder / "loader.sock").exists():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.01)
        done = cli.run(folder, "verify", cli.MODEL, "--target", f"unix:{folder}/loader.sock")
        assert done.returncode == 0, done.stderr.decode()
    finally:
        process.terminate()
        log = process.communicate(timeout=cli.TIMEOUT_S)[1].decode()
    assert "io_uring cannot be used" in log and os.strerror(ERRORS[error]) in log
    assert "reading by pread" in log


def test_engines_that_exclude_each_other(folder):
    done = subprocess.run(command(folder, "--require-io-uring", "--engine", "pread"),
                          capture_output=True, timeout=cli.TIMEOUT_S, check=False)
    assert done.returncode == 2 and b"exclude each other" in done.stderr


@pytest.mark.parametrize("files", [5, 12, 24])
def test_few_open_files(folder, files):
    """However few: a sentence about files, no crash, nothing left."""
    done = subprocess.run(
        command(folder), capture_output=True, timeout=cli.TIMEOUT_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))
    text = done.stderr.decode()
    assert done.returncode in (1, 3), text  # 3: something is exhausted
    assert "file" in text.splitlines()[-1], text
    assert not (folder / "loader.sock").exists() and not (folder / "pool.sock").exists()
