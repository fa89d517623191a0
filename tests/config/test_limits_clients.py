"""Limits of client addresses: defaults, bounds, and keys that go together."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, told, wrong
from wsbridge.config.limits import ClientLimits


def section(text: str) -> str:
    """A whole file with these limits."""
    return LISTENERS + ROUTES + f"limits: {{per_address: {{{text}}}}}\n"


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["1", "100000", "off"], ["0", "-1", "many"]),
        ("handshake_rate", ["1", "100000", "off"], ["0", "0.5"]),
        ("handshake_burst", ["1", "1000000"], ["0", "1000001", "off"]),
        ("max_failures", ["1", "100", "off"], ["0"]),
        ("failure_window", ["1s", "1h"], ["0s", "60", "off"]),
        ("ban_time", ["1s", "1d"], ["0s", "300", "off"]),
        ("table_size", ["16", "4194304"], ["15", "4194305", "off"]),
        ("exempt", ["[]", "[unix]", "[10.0.0.0/8, '::1']"], ["10.0.0.0/8", "[10.0.0.1/8]", "[loopback]"]),
    ],
)
def test_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are taken, those beyond are one mistake at their key."""
    for value in fit:
        read(section(f"{key}: {value}"))
    for value in unfit:
        (problem,) = wrong(section(f"{key}: {value}"))
        assert problem.setting.startswith(f"limits.per_address.{key}")


def test_every_key_has_its_bounds_here() -> None:
    """No key is forgotten above."""
    (mark,) = (mark for mark in test_bounds.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]  # pytest's
    assert [key for key, _, _ in mark.args[1]] == list(ClientLimits.model_fields)


def test_this_host_is_exempt_unless_told() -> None:
    """A proxy on this host would get everybody banned."""
    assert [str(network) for network in ClientLimits().exempt] == ["127.0.0.0/8", "::1/128", "unix"]
    assert read(section("exempt: []")).config.limits.per_address.exempt == ()


@pytest.mark.parametrize(
    "text",
    [
        "handshake_rate: off, handshake_burst: 5",
        "max_failures: off, failure_window: 1m",
        "max_failures: off, ban_time: 1m",
    ],
)
def test_keys_that_another_makes_idle(text: str) -> None:
    """What is off has no details."""
    (problem,) = wrong(section(text))
    assert told([problem])[0].startswith("E013 limits.per_address.")
