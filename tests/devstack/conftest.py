import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.accounts import choose_temporary_folder


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Unlike `tmp_path`, other accounts can reach it: what root's PostgreSQL keeps in it is removed with it."""
    with tempfile.TemporaryDirectory(dir=choose_temporary_folder()) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)
