"""See conftest.py."""

from tests.api.lists.conftest import *  # noqa: F403
from tests.api.lists.test_lists import *  # noqa: F403
