"""The bundle: everything that a moved folder runs comes out of it, but glibc's own libraries."""
import os
import pathlib
import re
import subprocess
import tarfile

import pytest

import cli

BUNDLE = cli.BIN_DIR / "deploy" / "bundle_cpu.tar.gz"
PROGRAMS = ("laminar", "laminar-loader", "laminar-worker", "laminar-gateway")
GLIBC = re.compile(r"(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv)\.so\.\d+$")

pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="//deploy:bundle_cpu is not built")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The bundle, unpacked and moved to a place that nobody knew when it was made."""
    folder = tmp_path_factory.mktemp("bundle")
    with tarfile.open(BUNDLE) as tar:
        assert {member.name.split("/")[0] for member in tar} == {"laminar"}
        tar.extractall(folder)
    (folder / "laminar").rename(folder / "elsewhere")
    return folder / "elsewhere"


def is_glibc(path):
    return GLIBC.match(os.path.basename(path)) is not None


@pytest.mark.parametrize("program", PROGRAMS)
def test_libraries_are_found_inside(moved, program):
    done = subprocess.run(["ldd", moved / "bin" / program], env={}, capture_output=True, text=True,
                          check=True)
    assert "not found" not in done.stdout
    paths = re.findall(r"=> (/\S+)", done.stdout)
    assert len(paths) > 20  # gRPC alone has as many
    strangers = [p for p in paths if not p.startswith(str(moved)) and not is_glibc(p)]
    assert strangers == []


def test_licences_come_along(moved):
    assert (moved / "LICENSE").exists()
    if os.path.exists("/usr/bin/dpkg"):
        assert len(list((moved / "share" / "doc").glob("*/copyright"))) > 10


def mapped_libraries(pid):
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
    return set(re.findall(r"(/\S+\.so[.\d]*)$", maps, re.M))


def test_it_serves_without_an_environment(moved, tmp_path):
    """Also what libraries open while they run comes out of the folder."""
    home = tmp_path / "run"
    home.mkdir(mode=0o700)
    process = subprocess.Popen(
        [moved / "bin" / "laminar", "serve", cli.MODEL, "--ctx", "256",
         "--listen", f"unix:{home}/s"],
        env={"XDG_RUNTIME_DIR": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert b"unix:" in process.stdout.readline()
        services = cli.processes_of(home)
        assert set(services) >= set(PROGRAMS[1:])
        for pid in services.values():
            mapped = mapped_libraries(pid)
            assert any(str(moved) in path for path in mapped)
            assert [p for p in mapped if str(moved) not in p and not is_glibc(p)] == []
        done = subprocess.run(
            [moved / "bin" / "laminar", "generate", "--target", f"unix:{home}/s", "--raw", "-p",
             "The capital of France is", "-n", "4"], env={}, capture_output=True,
            timeout=cli.TIMEOUT_S)
        assert done.returncode == 0 and done.stdout.startswith(b" Paris"), done.stderr.decode()
    finally:
        process.terminate()
        process.communicate(timeout=cli.TIMEOUT_S)


def test_another_machine_without_any_of_our_libraries(moved, tmp_path):
    """A root that has glibc, the bundle, a model, and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("only root may change the root")
    root = tmp_path / "root"
    for name in ("tmp", "proc", "dev", "lib64", "lib/x86_64-linux-gnu"):
        (root / name).mkdir(parents=True)
    for name in ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"):
        (root / "lib/x86_64-linux-gnu" / name).write_bytes(
            pathlib.Path("/lib/x86_64-linux-gnu", name).read_bytes())
    loader = root / "lib64/ld-linux-x86-64.so.2"
    loader.write_bytes(pathlib.Path("/lib64/ld-linux-x86-64.so.2").read_bytes())
    loader.chmod(0o755)
    script = ("mount --rbind /proc $0/proc && mount --rbind /dev $0/dev && mkdir $0/l && "
              "mount --bind $1 $0/l && touch $0/m && mount --bind $2 $0/m && "
              "exec chroot $0 /l/bin/laminar run /m --ctx 256 --raw -p 'The capital of France is' "
              "-n 4")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, root, moved, cli.MODEL],
                          capture_output=True, timeout=cli.TIMEOUT_S)
    if b"unshare" in done.stderr or b"permission denied" in done.stderr.lower():
        pytest.skip("this machine allows no mount namespace")
    assert done.returncode == 0 and done.stdout.startswith(b" Paris"), done.stderr.decode()
