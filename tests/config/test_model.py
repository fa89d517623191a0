"""The top of the file."""

from __future__ import annotations

import pytest

from tests.config.loading import LISTENERS, ROUTES, read, wrong


def test_the_shortest_file_has_all_defaults() -> None:
    """A listener and a route are enough; everything else has its default."""
    loaded = read(LISTENERS + ROUTES)
    assert loaded.warnings == []
    assert loaded.config.timeouts.ping_interval == 20.0
    assert loaded.config.timeouts.idle is None
    assert loaded.config.limits.connections == "auto"
    route = loaded.config.routes["vnc"]
    assert (route.match, route.allowed_origins, route.subprotocols, route.text_messages) == (
        "any",
        "same",
        ("binary",),
        "accept",
    )
    assert loaded.config.listeners["web"].mode == 0o660


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("log: {level: %s}", ["debug", "info", "warning", "error"]),
        ("log: {format: %s}", ["auto", "console", "json", "journal"]),
    ],
)
def test_words_of_the_top(key: str, values: list[str]) -> None:
    """Each is taken as it stands; another is refused with all of them."""
    for value in values:
        read(LISTENERS + ROUTES + key % value + "\n")
    (problem,) = wrong(LISTENERS + ROUTES + key % "loud" + "\n")

    assert all(value in problem.message for value in values)
