"""conftest: what every test of processes stands on."""
import pytest

import cli


@pytest.fixture
def home(tmp_path):
    """A private runtime directory, which must be empty again after each test."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    yield folder
    cli.assert_nothing_left(folder)
