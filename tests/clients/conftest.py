"""For the tests with real programs."""

import pytest

from tests.clients import browser


@pytest.fixture(autouse=True, scope="session")
def _browsers():
    """Close the browsers in the end."""
    yield
    browser.RUNNING.close()
