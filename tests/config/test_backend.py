"""What every backend has in the file."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsbridge.config.unions import UrlBackendSection
from wsbridge.registry import CONFIG_REGISTRY


@pytest.mark.parametrize("scheme", ["tcp", "tls", "unix", "ws", "wss"])
def test_every_scheme_has_a_section_with_a_url(scheme: str) -> None:
    """The table of kinds holds sections of backends, each with the URL that picked it."""
    section = CONFIG_REGISTRY.backends[scheme]
    assert issubclass(section, UrlBackendSection)
    assert section.model_fields["url"].is_required()


def test_backends_without_a_scheme_say_what_picks_them() -> None:
    """Lists of tokens and the target of an identity are kinds of their own, and always a client's choice."""
    tokens = CONFIG_REGISTRY.backends["tokens"].model_validate({"tokens": "/x"})
    told = CONFIG_REGISTRY.backends["target"].model_validate({"url": "{target}"})

    assert (tokens.kind, tokens.fields, tokens.text) == ("tokens", ("query.token",), "tokens of /x")
    assert (told.kind, told.fields, told.text) == ("target", ("target",), "{target}")


def test_a_url_with_fields_is_for_clients_to_choose() -> None:
    """Its fields are named once each; a plain URL has none."""
    chosen = UrlBackendSection.model_validate({"url": "tcp://{host}:{port}"})
    fixed = UrlBackendSection.model_validate({"url": "tcp://a.example:5900"})

    assert (chosen.kind, chosen.fields) == ("tcp", ("host", "port"))
    assert (fixed.kind, fixed.fields, fixed.text) == ("tcp", (), "tcp://a.example:5900")


def test_the_url_is_read() -> None:
    """Scheme, host and port, or the path."""
    url = UrlBackendSection.model_validate({"url": "tcp://a.example:5900"}).url

    assert (url.scheme, url.host, url.port) == ("tcp", "a.example", 5900)


@pytest.mark.parametrize("written", [{}, {"url": "a.example:5900"}, {"url": "tcp://a:1", "x": "y"}])
def test_what_is_no_backend(written: dict[str, str]) -> None:
    """No URL, no scheme, a key that is not known."""
    with pytest.raises(ValidationError):
        UrlBackendSection.model_validate(written)
