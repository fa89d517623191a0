"""Auth: what every way of authentication takes and gives.

Lives here: the interface and what is lent to it. Must not live here: any one way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from wsbridge.auth.background import Background
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity
from wsbridge.auth.passwords import Passwords
from wsbridge.auth.spent import Spent
from wsbridge.config.section import AuthSection
from wsbridge.net.resolve import Resolver


class Auth(Protocol):
    """One way of authentication, built once from its section; it serves all connections of a generation."""

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Find out who a client is; never raises for what he sent.

        Args:
            caller: Who asks for what.

        Returns:
            Who he is, or why he is not let in.
        """


@dataclass(frozen=True, slots=True)
class Lent:
    """What a way of authentication is lent when it is built.

    Attributes:
        build: Builds a way that another one holds.
        wall: Seconds since 1970, as credentials count them.
        spent: The tickets that were used, over all generations.
        passwords: Verifies passwords, for all generations.
        resolver: Looks names up.
        background: Runs what no client waits for, until the server ends.
    """

    build: Callable[[AuthSection], Auth]
    wall: Callable[[], float] = time.time
    spent: Spent = field(default_factory=Spent)
    passwords: Passwords = field(default_factory=Passwords)
    resolver: Resolver = field(default_factory=Resolver)
    background: Background = field(default_factory=Background)
