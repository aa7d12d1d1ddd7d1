"""See conftest.py. Without those tests that count sessions of the server or ask for more than it opens in time."""

from tests.api.test_streams import TestCap, TestDocuments, TestLongestTime, TestOneAtATime, TestRefused

__all__ = ["TestCap", "TestDocuments", "TestLongestTime", "TestOneAtATime", "TestRefused"]
