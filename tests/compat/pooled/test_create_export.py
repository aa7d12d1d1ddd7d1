"""See conftest.py."""

from tests.api.test_create_export import *  # noqa: F403
