"""What every backend has in the file."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsbridge.config.backend import BackendSection
from wsbridge.kinds import CONFIG_KINDS


def test_every_kind_of_backend_has_a_url() -> None:
    """The table of kinds holds sections of backends, each with the URL that picked it."""
    assert CONFIG_KINDS.backends
    for section in CONFIG_KINDS.backends.values():
        assert issubclass(section, BackendSection)
        assert section.model_fields["url"].is_required()


def test_the_url_is_read() -> None:
    """Scheme, host and port, or the path."""
    url = BackendSection.model_validate({"url": "tcp://a.example:5900"}).url

    assert (url.scheme, url.host, url.port) == ("tcp", "a.example", 5900)


@pytest.mark.parametrize("written", [{}, {"url": "a.example:5900"}, {"url": "tcp://a:1", "x": "y"}])
def test_what_is_no_backend(written: dict[str, str]) -> None:
    """No URL, no scheme, a key that is not known."""
    with pytest.raises(ValidationError):
        BackendSection.model_validate(written)
