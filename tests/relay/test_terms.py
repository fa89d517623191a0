"""The terms of a relay are the configuration's, value by value."""

from __future__ import annotations

import pytest

from wsbridge.config.limits import Limits, RouteLimits, Timeouts
from wsbridge.relay.relay import RelayOptions


@pytest.mark.parametrize(
    "name", ["idle", "ping_interval", "ping_timeout", "write", "half_close", "close", "max_lifetime", "lingering"]
)
def test_times_are_those_of_the_configuration(name: str) -> None:
    """A relay that is told nothing does what a file that says nothing does."""
    assert getattr(RelayOptions(), name) == getattr(Timeouts(), name)


def test_bounds_are_those_of_the_configuration() -> None:
    """Bytes of lingering, and the rate of frames that carry nothing."""
    assert (RelayOptions().lingering_bytes, RelayOptions().control_frame_rate) == (
        Limits().lingering_bytes,
        Limits().control_frame_rate,
    )
    assert RelayOptions().bytes_per_second == RouteLimits().bytes_per_second
    assert (RelayOptions().deliver_after_close, RelayOptions().half_close_on_loss) == (False, False)
