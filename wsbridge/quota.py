"""Quota: what one connection takes of that which its route, its identity and its token may have at a time.

Lives here: which limits of a route concern a connection, and giving back what it took. Must not live here: the
numbers (`limits.counts`, `limits.shares`), limits of addresses (`limits.visit`).
"""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType
from typing import Self

from wsbridge.auth.identity import Identity
from wsbridge.config.route_limits import RouteLimits
from wsbridge.generation import Route
from wsbridge.limits.counts import Counts
from wsbridge.limits.shares import Share, Shares
from wsbridge.protocol.head import Request
from wsbridge.reasons import End, Reason


class Quota:
    """What a connection holds until the end of the `with` block that it stands for.

    Attributes:
        share: Bytes a second that it has in common with others of its identity.
    """

    __slots__ = ("_counts", "_keys", "_shared", "_shares", "share")

    def __init__(self, counts: Counts, shares: Shares) -> None:
        self._counts = counts
        self._shares = shares
        self._keys: list[Hashable] = []
        self._shared: Hashable = None
        self.share: Share | None = None

    def count(self, key: Hashable, most: int) -> bool:
        """Hold one of so many; False: all are held."""
        if not self._counts.enter(key, most):
            return False
        self._keys.append(key)
        return True

    def draw(self, key: Hashable, rate: int) -> None:
        """Have a share of so many bytes a second."""
        self._shared = key
        self.share = self._shares.enter(key, rate)

    def give_back(self) -> None:
        """Hold nothing any more."""
        while self._keys:
            self._counts.leave(self._keys.pop())
        if self.share is not None:
            self.share = None
            self._shares.leave(self._shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


FREE = Quota(Counts(), Shares())
"""That of connections to routes without limits: it holds nothing, so one is enough for all."""


def token_of(route: Route, request: Request | None, identity: Identity) -> str | None:
    """Give the name of the token that let a client in, or else the token that chooses his target, if there is one."""
    if "bearer" in identity.method.split("+"):
        return identity.name
    return None if route.choice is None else route.choice.token(request, identity)


def occupy(route: Route, identity: Identity, token: str | None, counts: Counts, shares: Shares) -> Quota | End:
    """Take what a connection needs of the limits of its route.

    Args:
        route: Where it goes.
        identity: Who the client is.
        token: Name of the token that let him in or chose his target; None where none did.
        counts: Of the process.
        shares: Of the process.

    Returns:
        What it holds now; or its end, if there is no more.
    """
    limits = route.limits
    if limits is None:
        return FREE
    quota = Quota(counts, shares)
    for setting, key, most, whose in _limits(limits, route.name, identity.name, token):
        if not quota.count(key, most):
            quota.give_back()
            return End(Reason.RATE, "front", f"{most} connections {whose}, and the route's {setting} is {most}")
    if limits.identity_bytes_per_second is not None and identity.name:
        quota.draw((route.name, identity.name), limits.identity_bytes_per_second)
    return quota


def _limits(
    limits: RouteLimits, route: str, identity: str, token: str | None
) -> list[tuple[str, tuple[str, ...], int, str]]:
    """Give the limits that concern a connection: setting, key, number, and in words whose they are."""
    found: list[tuple[str, tuple[str, ...], int, str]] = []
    if limits.connections is not None:
        found.append(("limits.connections", (route,), limits.connections, "to this route"))
    if limits.connections_per_identity is not None and identity:
        most = limits.connections_per_identity
        found.append(("limits.connections_per_identity", (route, "identity", identity), most, "of this identity"))
    if limits.connections_per_token is not None and token:
        most = limits.connections_per_token
        found.append(("limits.connections_per_token", (route, "token", token), most, "with this token"))
    return found
