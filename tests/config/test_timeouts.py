"""How long each step may take, and which of it a route may set."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong
from wsbridge.config.timeouts import ALL_ROUTES, RouteTimeouts, Timeouts

OFF = {"idle", "ping", "write", "max_age"}
ZERO = {"half_close", "drain", "spread", "retry_after", "linger"}


@pytest.mark.parametrize("key", Timeouts.model_fields)
def test_what_may_be_off_and_what_may_be_nothing(key: str) -> None:
    """`off` is for waits that may last for ever, 0s for those that may be left out, and neither for the others."""
    for written, fitting in (("off", OFF), ("0s", ZERO)):
        text = LISTENERS + ROUTES + f"timeouts: {{{key}: {written}}}\n"
        if key == "drain" and written == "0s":
            text = text.replace("{drain", "{spread: 0s, drain")
        if key in fitting:
            timeouts = read(text).config.timeouts
            assert getattr(timeouts, key) == (None if written == "off" else 0)
        else:
            (problem,) = wrong(text)
            assert (problem.code, problem.path) == ("E012", f"timeouts.{key}")


def test_what_a_route_may_set() -> None:
    """All but those that count before a route is known; these say where they belong."""
    assert (
        set(Timeouts.model_fields) - set(RouteTimeouts.model_fields) == set(ALL_ROUTES) == set(RouteTimeouts.elsewhere)
    )


@pytest.mark.parametrize("key", ALL_ROUTES)
def test_what_a_route_may_not_set(key: str) -> None:
    """It is told with the place where it can be written."""
    routes = ROUTES.replace("auth: none", f"auth: none, timeouts: {{{key}: 1s}}")
    (problem,) = wrong(LISTENERS + routes)

    assert problem.path == f"routes.vnc.timeouts.{key}"
    assert problem.message.endswith("write it in timeouts at the top")


@pytest.mark.parametrize(("written", "key"), [("spread: 21s", "spread"), ("drain: 4s", "drain")])
def test_spread_is_the_end_of_drain(written: str, key: str) -> None:
    """The key that is written is the one that is told."""
    (problem,) = wrong(LISTENERS + ROUTES + f"timeouts: {{{written}}}\n")

    assert (problem.code, problem.path) == ("E013", f"timeouts.{key}")


def test_retry_after_is_in_whole_seconds() -> None:
    """As the header is."""
    assert read(LISTENERS + ROUTES + "timeouts: {retry_after: 1m}\n").config.timeouts.retry_after == 60
    (problem,) = wrong(LISTENERS + ROUTES + "timeouts: {retry_after: 1500ms}\n")
    assert problem.path == "timeouts.retry_after"
