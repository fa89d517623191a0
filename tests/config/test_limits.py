"""How much of everything there may be, and within what bounds."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong
from wsbridge.config.limits import Limits


@pytest.mark.parametrize(
    ("key", "fit", "unfit"),
    [
        ("connections", ["auto", "1", "1000000"], ["0", "many", "1.5"]),
        ("max_head_bytes", ["8KiB", "1MiB"], ["1023", "1025KiB", "0"]),
        ("max_head_line_bytes", ["256", "16KiB"], ["255", "17KiB", "2MiB"]),
        ("max_headers", ["1", "10000"], ["0", "10001"]),
        ("max_response_head_bytes", ["1KiB", "1MiB"], ["1023", "1025KiB"]),
        ("max_proxy_header_bytes", ["536", "16KiB"], ["535", "17KiB"]),
        ("overload_replies", ["0", "1000"], ["-1"]),
        ("lingering_sockets", ["0", "1000"], ["-1"]),
        ("lingering_bytes", ["0", "1MiB"], ["64KB"]),
        ("control_frame_rate", ["1", "100000"], ["0"]),
        ("max_frame_bytes", ["125", "64KiB"], ["124", "65537"]),
        ("used_tickets", ["1", "1000000"], ["0", "many"]),
        ("used_tickets_per_identity", ["1", "1000000"], ["0", "off"]),
        ("dns_threads", ["1", "256"], ["0", "257"]),
        ("dns_threads_per_route", ["1", "256"], ["0", "257"]),
        ("dns_ttl", ["0s", "1h"], ["30", "off"]),
        ("dns_negative_ttl", ["0s", "1h"], ["30", "off"]),
        ("password_threads", ["auto", "1", "256"], ["0", "257", "many"]),
        ("password_queue", ["0", "1000"], ["-1", "auto"]),
        ("password_queue_per_address", ["1", "1000"], ["0", "off"]),
    ],
)
def test_bounds(key: str, fit: list[str], unfit: list[str]) -> None:
    """The values at the edges are taken, those beyond are one mistake at their key."""
    for value in fit:
        read(LISTENERS + ROUTES + f"limits: {{{key}: {value}}}\n")
    for value in unfit:
        (problem,) = wrong(LISTENERS + ROUTES + f"limits: {{{key}: {value}}}\n")
        assert problem.setting == f"limits.{key}"


def test_every_limit_has_its_bounds_here() -> None:
    """No key is forgotten above."""
    (mark,) = (mark for mark in test_bounds.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]  # pytest's

    assert [*(key for key, _, _ in mark.args[1]), "per_address"] == list(Limits.model_fields)


@pytest.mark.parametrize(
    ("written", "key"),
    [("max_head_line_bytes: 32KiB", "max_head_line_bytes"), ("max_head_bytes: 4KiB", "max_head_bytes")],
)
def test_a_line_is_a_part_of_the_head(written: str, key: str) -> None:
    """The key that is written is the one that is told."""
    (problem,) = wrong(LISTENERS + ROUTES + f"limits: {{{written}}}\n")

    assert (problem.code, problem.setting) == ("E013", f"limits.{key}")
    read(LISTENERS + ROUTES + "limits: {max_head_bytes: 4KiB, max_head_line_bytes: 4KiB}\n")
