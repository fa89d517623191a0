"""What every way of authentication is lent."""

from __future__ import annotations

import time

from tests.auth.ways import lent
from wsbridge.auth.identity import ANONYMOUS


def test_the_clock_is_the_wall_clock() -> None:
    """Credentials count in seconds since 1970, unless a test says what time it is."""
    assert lent(ANONYMOUS)[0].wall_clock is time.time
