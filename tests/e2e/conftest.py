"""conftest: what every test of processes stands on."""
import os

# Python's gRPC would otherwise run handlers in each process that is forked beside its threads, and
# now and then abort it before it has become the program under test. Before it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import pytest

import cli


@pytest.fixture
def home(tmp_path):
    """A private runtime directory, which must be empty again after each test."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    yield folder
    cli.assert_nothing_left(folder)
