"""Limits of routes: off unless written, and within what bounds."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, read, told, wrong
from wsbridge.config.limits import RouteLimits


def section(text: str) -> str:
    """A whole file with a route that has these limits."""
    return LISTENERS + f"routes: {{r: {{match: any, backend: 'tcp://a:1', auth: none, limits: {{{text}}}}}}}\n"


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["1", "off"], ["0", "all"]),
        ("connections_per_identity", ["1", "off"], ["0"]),
        ("connections_per_token", ["1", "off"], ["0"]),
        ("bytes_per_second", ["1024", "64KiB", "1GiB", "off"], ["1023", "0", "64KB", "fast"]),
        ("identity_bytes_per_second", ["1KiB", "off"], ["1000"]),
    ],
)
def test_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are taken, those beyond are one mistake at their key."""
    for value in fit:
        read(section(f"{key}: {value}"))
    for value in unfit:
        (problem,) = wrong(section(f"{key}: {value}"))
        assert problem.setting == f"routes.r.limits.{key}"


def test_nothing_is_limited_unless_told() -> None:
    """A route without limits counts nothing."""
    assert RouteLimits().needs_no_counting
    assert RouteLimits(bytes_per_second=2048).needs_no_counting
    for key in RouteLimits.model_fields.keys() - {"bytes_per_second"}:
        assert not RouteLimits(**{key: 2048}).needs_no_counting


def test_only_a_backend_has_limits() -> None:
    """Files and fixed answers have none."""
    text = LISTENERS + "routes: {r: {match: any, respond: 204, limits: {connections: 1}}}\n"
    assert told(wrong(text)) == ["E013 routes.r.limits"]
