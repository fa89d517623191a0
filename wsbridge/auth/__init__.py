"""Who a client is, and whether he may use a route: one file a way of authentication.

Lives here: what every way takes and gives. Must not live here: any one way (a file of its own, with its section and
its class, and a line in the table of `kinds`), who may use a route by address or origin (`admit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wsbridge.net.address import Peer
from wsbridge.protocol.http1 import Request
from wsbridge.reasons import End

__all__ = ["Auth", "Identity", "ANONYMOUS"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client turned out to be.

    Attributes:
        name: For the log; empty where nobody was asked.
    """

    name: str = ""


ANONYMOUS = Identity()
"""The identity of those who were not asked."""


class Auth(Protocol):
    """One way of authentication, built once from its section."""

    async def identify(self, request: Request | None, peer: Peer) -> Identity | End:
        """Find out who a client is.

        Args:
            request: The head of his request; None where he speaks plain TCP.
            peer: Where he comes from.

        Returns:
            Who he is, or the end of the connection with the reason `unauthenticated` or `forbidden`.
        """
