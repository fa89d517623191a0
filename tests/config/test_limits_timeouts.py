"""How long each step may take, and which of it a route may set."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, told, wrong
from wsbridge.config.limits import GLOBAL_TIMEOUTS, Timeouts

OFF = {"idle", "ping_interval", "write", "max_lifetime"}
ZERO = {"half_close", "drain", "drain_spread", "retry_after", "lingering"}


@pytest.mark.parametrize("key", Timeouts.model_fields)
def test_what_may_be_off_and_what_may_be_nothing(key: str) -> None:
    """`off` is for waits that may last for ever, 0s for those that may be left out, and neither for the others."""
    for written, fitting in (("off", OFF), ("0s", ZERO)):
        text = LISTENERS + ROUTES + f"timeouts: {{{key}: {written}}}\n"
        if key in fitting:
            timeouts = read(text).config.timeouts
            assert getattr(timeouts, key) == (None if written == "off" else 0)
        else:
            (problem,) = wrong(text)
            assert (problem.code, problem.setting) == ("E012", f"timeouts.{key}")


@pytest.mark.parametrize("key", GLOBAL_TIMEOUTS)
def test_what_a_route_may_not_set(key: str) -> None:
    """It is told with the place where it can be written."""
    routes = ROUTES.replace("auth: none", f"auth: none, timeouts: {{{key}: 1s}}")
    (problem,) = wrong(LISTENERS + routes)

    assert problem.setting == f"routes.vnc.timeouts.{key}"
    assert problem.message.endswith("write it in timeouts at the top")


@pytest.mark.parametrize(
    ("written", "key"), [("drain_spread: 21s", "drain_spread"), ("drain: 4s, drain_spread: 5s", "drain_spread")]
)
def test_spread_is_the_end_of_drain(written: str, key: str) -> None:
    """The key that is written is the one that is told."""
    (problem,) = wrong(LISTENERS + ROUTES + f"timeouts: {{{written}}}\n")

    assert (problem.code, problem.setting) == ("E013", f"timeouts.{key}")


@pytest.mark.parametrize(("drain", "spread"), [("20s", 5), ("2s", 2), ("0s", 0)])
def test_spread_is_no_longer_than_drain(drain: str, spread: float) -> None:
    """Its default follows a shorter drain."""
    assert read(LISTENERS + ROUTES + f"timeouts: {{drain: {drain}}}\n").config.timeouts.drain_spread == spread
    assert told(wrong(LISTENERS + ROUTES + "timeouts: {drain: 20}\n")) == ["E012 timeouts.drain"]


def test_retry_after_is_in_whole_seconds() -> None:
    """As the header is."""
    assert read(LISTENERS + ROUTES + "timeouts: {retry_after: 1m}\n").config.timeouts.retry_after == 60
    (problem,) = wrong(LISTENERS + ROUTES + "timeouts: {retry_after: 1500ms}\n")
    assert problem.setting == "timeouts.retry_after"
