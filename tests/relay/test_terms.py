"""The terms of a relay are the configuration's, value by value."""

from __future__ import annotations

import dataclasses

import pytest

from wsbridge.config.limits import Limits
from wsbridge.config.route_limits import RouteLimits
from wsbridge.config.timeouts import Timeouts
from wsbridge.relay.terms import Terms


@pytest.mark.parametrize("name", ["idle", "ping", "pong", "write", "half_close", "close", "max_age", "linger"])
def test_times_are_those_of_the_configuration(name: str) -> None:
    """A relay that is told nothing does what a file that says nothing does."""
    assert getattr(Terms(), name) == getattr(Timeouts(), name)


def test_bounds_are_those_of_the_configuration() -> None:
    """Bytes of lingering, and the rate of frames that carry nothing."""
    assert (Terms().linger_bytes, Terms().chaff_rate) == (Limits().linger_bytes, Limits().control_rate)
    assert Terms().bytes_per_second == RouteLimits().bytes_per_second
    assert (Terms().deliver, Terms().lost_is_fin) == (False, False)


def test_terms_do_not_change() -> None:
    """New terms are given as a whole."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Terms().idle = 1.0  # type: ignore[misc]  # what must not be done
