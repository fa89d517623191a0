"""The digest of sections: it changes with what the file sets, and not with what a version has besides."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from tests.serving import config_of, written
from wsbridge.config.base import Section
from wsbridge.config.digest import digest_sections
from wsbridge.sessions.handover import digest_route


class Inner(Section):
    """As an earlier version has it."""

    kind: Literal["a"] = "a"
    size: int


class NewerInner(Inner):
    """It has a setting more."""

    speed: int = 5


class Outer(Section):
    """As an earlier version has it."""

    one: Inner
    more: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)


class NewerOuter(Outer):
    """It has settings more, of all kinds of defaults."""

    one: NewerInner
    more: tuple[NewerInner, ...] = ()
    named: dict[str, NewerInner] = Field(default_factory=dict)
    mode: Literal["x", "y"] = "x"
    texts: dict[str, str] = Field(default_factory=dict)
    copied: int = Field(default_factory=lambda data: data["one"].size)


VALUES: dict[str, Any] = {
    "one": {"size": 1},
    "more": ({"size": 2},),
    "named": {"n": {"size": 3}},
}


def test_new_settings_with_defaults_change_nothing():
    """An upgrade that has them finds what it reads unchanged."""
    before = digest_sections({"outer": Outer(**VALUES), "absent": None})
    assert digest_sections({"outer": NewerOuter(**VALUES), "absent": None}) == before
    assert digest_sections({"outer": NewerOuter(**VALUES, mode="x", texts={}), "absent": None}) == before


@pytest.mark.parametrize(
    "change",
    [
        {"one": {"size": 2}},
        {"one": {"size": 1, "speed": 6}},
        {"more": ({"size": 2}, {"size": 2})},
        {"more": ({"size": 2, "speed": 6},)},
        {"named": {"n": {"size": 3, "speed": 6}}},
        {"named": {"m": {"size": 3}}},
        {"mode": "y"},
        {"texts": {"a": "b"}},
    ],
)
def test_each_value_counts(change):
    """Wherever it is."""
    before = digest_sections({"outer": NewerOuter(**VALUES)})
    assert digest_sections({"outer": NewerOuter(**{**VALUES, **change})}) != before


def route_digest(**settings: Any) -> bytes:
    """Give the digest of a route."""
    config = config_of(written(routes={"app": {"match": "any", "backend": "tcp://127.0.0.1:1", **settings}}))
    return digest_route(config.routes["app"])


def test_what_counts_of_a_route():
    """Its backend, who may use it and what clients may choose; how that is written, and anything else, does not."""
    plain = route_digest(auth="none")
    assert route_digest(auth={"kind": "none"}, resume={"node": "b"}, timeouts={"idle": "1s"}) == plain
    assert route_digest(auth="none", backend={"url": "tcp://127.0.0.1:1"}) == plain
    assert route_digest(auth="none", backend="tcp://127.0.0.1:2") != plain
    assert route_digest(auth="none", backend={"url": "tcp://127.0.0.1:1", "proxy_protocol": "v2"}) != plain


def test_kinds_without_settings_differ():
    """They would be the same, since all that they have is a default."""

    class Other(Inner):
        kind: Literal["b"] = "b"

    assert digest_sections({"auth": Inner(size=1)}) != digest_sections({"auth": Other(size=1)})
