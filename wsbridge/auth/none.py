"""No authentication: everybody may use the route.

Lives here: the section behind `auth: none`, and the class that asks nobody. Must not live here: other ways.
"""

from __future__ import annotations

from typing import Literal

from wsbridge.auth import ANONYMOUS, Identity
from wsbridge.config.section import AuthSection
from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Request


class NoAuthConfig(AuthSection):
    """Nobody is asked who he is."""

    kind: Literal["none"] = "none"
    """none: everybody may use the route."""


class NoAuth:
    """Lets everybody in. See `wsbridge.auth.Auth`."""

    def __init__(self, config: NoAuthConfig) -> None:
        self.config = config

    async def identify(self, request: Request | None, peer: Peer) -> Identity:
        """Let the client in as nobody in particular."""
        return ANONYMOUS
