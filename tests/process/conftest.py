"""For the process tests: no client's socket outlives its test, whatever the test ran into."""

import pytest

from tests.process.plain import Socket


@pytest.fixture(autouse=True)
def closed_sockets():
    """Close every client socket of the test."""
    yield
    while Socket.made:
        Socket.made.pop().close()
