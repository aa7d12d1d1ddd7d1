"""No search for garbage in what lives until the end: a third of the time that the collection of the tests takes.

A plugin of pytest, registered by conftest.py.
"""

import gc

import pytest


def pytest_configure() -> None:
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """The modules and tests are left out of each later search, too."""
    gc.freeze()
    gc.enable()
