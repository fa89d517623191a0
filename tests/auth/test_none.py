"""Authentication that asks nobody."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.auth.ways import lent
from wsbridge.auth.base import NoAuthConfig
from wsbridge.registry import AUTH, CONFIG_REGISTRY


def test_nobody_is_asked() -> None:
    """There is nothing to ask a client with, so the path without authentication costs nothing."""
    assert AUTH["none"](NoAuthConfig(), lent()[0]) is None


def test_it_is_in_the_tables() -> None:
    """The file and the run time know the same kinds."""
    assert AUTH.keys() == CONFIG_REGISTRY.auth.keys()


def test_it_takes_no_options() -> None:
    """There is nothing to set but the kind."""
    with pytest.raises(ValidationError):
        NoAuthConfig.model_validate({"kind": "none", "users": []})
