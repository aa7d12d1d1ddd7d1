from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.memory import open_folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Unlike `tmp_path`, other accounts can reach it: what root's PostgreSQL keeps in it is removed with it."""
    with open_folder() as folder:
        yield folder
