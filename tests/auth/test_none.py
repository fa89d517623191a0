"""Authentication that asks nobody."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from wsbridge.auth import ANONYMOUS
from wsbridge.auth.none import NoAuth, NoAuthConfig
from wsbridge.kinds import AUTH, CONFIG_KINDS
from wsbridge.net.address import Peer


async def test_everybody_is_let_in() -> None:
    """Any client is let in as nobody in particular."""
    assert await NoAuth(NoAuthConfig()).identify(None, Peer("203.0.113.7", 52044, socket.AF_INET)) == ANONYMOUS


def test_it_is_in_the_tables() -> None:
    """The file and the run time know the same kinds."""
    assert AUTH.keys() == CONFIG_KINDS.auth.keys() == {"none"}
    assert AUTH["none"] is NoAuth


def test_it_takes_no_options() -> None:
    """There is nothing to set but the kind."""
    with pytest.raises(ValidationError):
        NoAuthConfig.model_validate({"kind": "none", "users": []})
