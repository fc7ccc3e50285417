"""What the journeys have in common: the command line, and a folder for suites."""

import pytest

from cli_models import command_line
from suites import make_data, make_encoder


@pytest.fixture
def run(capsys):
    return command_line(capsys)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny encoder and two small datasets."""
    folder = tmp_path_factory.mktemp("suite")
    make_encoder(folder / "encoder")
    make_data(folder / "data")
    return folder
