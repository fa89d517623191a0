"""The top of the file."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.config.loading import LISTENERS, ROUTES, read, wrong
from wsbridge.config.model import Config


def test_the_shortest_file_has_all_defaults() -> None:
    """A listener and a route are enough; everything else has its default."""
    loaded = read(LISTENERS + ROUTES)
    assert loaded.warnings == []
    assert loaded.config.timeouts.ping == 20.0
    assert loaded.config.timeouts.idle is None
    assert loaded.config.limits.connections == "auto"
    route = loaded.config.routes["vnc"]
    assert (route.match, route.origins, route.subprotocols, route.text) == ("any", "same", ("binary",), "accept")
    assert loaded.config.listeners["web"].mode == 0o660


def test_the_sections_of_a_file() -> None:
    """What a file may have at its top, in the order in which it is shown."""
    assert list(Config.model_fields) == ["log", "audit", "listeners", "routes", "timeouts", "limits", "engine"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("log: {level: %s}", ["debug", "info", "warning", "error"]),
        ("log: {format: %s}", ["auto", "console", "json", "journal"]),
        ("engine: %s", ["auto", "python"]),
    ],
)
def test_words_of_the_top(key: str, values: list[str]) -> None:
    """Each is taken as it stands; another is refused with all of them."""
    for value in values:
        read(LISTENERS + ROUTES + key % value + "\n")
    (problem,) = wrong(LISTENERS + ROUTES + key % "loud" + "\n")

    assert all(value in problem.message for value in values)


def test_a_configuration_does_not_change() -> None:
    """What is in force is never altered in place."""
    config = read(LISTENERS + ROUTES).config
    with pytest.raises(ValidationError, match="frozen"):
        config.engine = "python"  # type: ignore[misc]  # what must not be done
