"""What tests of several networks share."""

from pathlib import Path

import pytest

from tests.support.tiny_networks import save_networks


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A network of each kind, with random weights."""
    folder = tmp_path_factory.mktemp("networks")
    save_networks(folder)
    return folder
