"""Choice: which target a client gets, and whether he may have it; what the spine calls.

Lives here: the order of the questions, and what becomes of an answer that is none. Must not live here: any one question
(`picker`, `allowed`, `sockets`), dialling (`backends`).

Whatever was wrong, the client is told the same: `forbidden`. The log says what it was.
"""

from __future__ import annotations

import posixpath
from functools import partial
from typing import Final, Protocol

import trio

from wsbridge.auth.identity import Identity
from wsbridge.backends.backend import Chosen
from wsbridge.config import model
from wsbridge.config.address import Target
from wsbridge.config.backend import BackendSection
from wsbridge.net.address import Address
from wsbridge.net.own import OwnListeners
from wsbridge.protocol.head import Request
from wsbridge.protocol.target import PathPattern
from wsbridge.reasons import End, Reason
from wsbridge.targets.allowed import Allowed
from wsbridge.targets.host_port import is_address
from wsbridge.targets.picker import Picker, picker_of, told
from wsbridge.targets.sockets import real_socket

LOOKS: Final = 8
"""Unix sockets that are looked at at a time."""


class Choice(Protocol):
    """How one route comes to a target, built once; it serves all connections of a generation."""

    async def choose(self, request: Request | None, identity: Identity) -> Chosen | End | None:
        """Find the target of one client; never raises for what he sent.

        Args:
            request: His request; None where he speaks plain TCP.
            identity: Who he is; he was asked before.

        Returns:
            What to dial, None for the one target of the route, or how his connection ends.
        """

    def hidden(self, target: str) -> str:
        """Give the target of a request for the log, without a token that it may carry."""

    def token(self, request: Request | None, identity: Identity) -> str | None:
        """Give the token of a list that the client has, if it is one."""


class OneTarget:
    """The choice of a route whose backend is written: there is none, but an identity may be for another target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def choose(self, request: Request | None, identity: Identity) -> End | None:
        """See `Choice.choose`."""
        try:
            _same_as_told(self._target, identity)
        except ValueError as error:
            return _refused(error)
        return None

    def hidden(self, target: str) -> str:
        """See `Choice.hidden`: nothing is chosen by it."""
        return target

    def token(self, request: Request | None, identity: Identity) -> None:
        """See `Choice.token`: there is no list."""


class ManyTargets:
    """The choice of a route whose backend is the client's to choose.

    Args:
        picker: From a client to a target.
        allowed: What may be chosen.
        own: What this process listens at.
    """

    def __init__(self, picker: Picker, allowed: Allowed, own: OwnListeners) -> None:
        self._picker = picker
        self._allowed = allowed
        self._own = own
        self._limiter: trio.CapacityLimiter | None = None

    async def choose(self, request: Request | None, identity: Identity) -> Chosen | End:
        """See `Choice.choose`."""
        try:
            target = await self._picker.pick(request, identity)
            _same_as_told(target, identity)
        except ValueError as error:
            return _refused(error)
        wrong = None if target.scheme == "unix" else self._allowed.why_not(target)
        return OneChosen(target, self) if wrong is None else _refused(wrong)

    def hidden(self, target: str) -> str:
        """See `Choice.hidden`."""
        return self._picker.hidden(target)

    def token(self, request: Request | None, identity: Identity) -> str | None:
        """See `Choice.token`."""
        return self._picker.token(request, identity)

    def why_not(self, target: Target, address: Address) -> str | None:
        """Judge an address that a target has."""
        return self._allowed.why_not_address(address, named=not is_address(target.host))

    async def path_of(self, target: Target) -> str | End:
        """Find the real path of a socket, in a thread, and judge it."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(LOOKS)
        is_own = (lambda path: False) if self._allowed.own_listeners else self._own.holds_path
        look = partial(real_socket, target.path, self._allowed.folders, is_own, must_be=self._picker.names_sockets)
        try:
            return await trio.to_thread.run_sync(look, limiter=self._limiter)
        except ValueError as error:
            return _refused(error)


class OneChosen:
    """See `wsbridge.backends.backend.Chosen`."""

    __slots__ = ("_choice", "target")

    def __init__(self, target: Target, choice: ManyTargets) -> None:
        self.target = target
        self._choice = choice

    def why_not(self, address: Address) -> str | None:
        """See `Chosen.why_not`."""
        return self._choice.why_not(self.target, address)

    async def path(self) -> str | End:
        """See `Chosen.path`."""
        return await self._choice.path_of(self.target)


def choice_of(route: model.Route, path: PathPattern | None, own: OwnListeners) -> Choice | None:
    """Build the choice of a route; reads its list of tokens.

    Args:
        route: Checked.
        path: What its requests match.
        own: What this process listens at.

    Returns:
        None where there is no backend, or one that everybody may reach who was let in.

    Raises:
        ValueError: The list cannot be read.
    """
    if route.backend is None:
        return None
    if route.targets is not None:
        return ManyTargets(picker_of(route.backend, path), Allowed(route.targets, own.holds), own)
    if route.auth is None or not route.auth.names_clients():
        return None
    assert isinstance(route.backend, BackendSection)  # noqa: S101 (all others need targets)
    return OneTarget(route.backend.url)


def _same_as_told(target: Target, identity: Identity) -> None:
    """Hold a target against the one that goes with an identity, where there is one."""
    if identity.target is not None and _plain(target) != _plain(told(identity.target)):
        raise ValueError("the identity is for another target")


def _plain(target: Target) -> tuple[str, str, int, str]:
    """What two targets are compared by, however they are written."""
    path = posixpath.normpath(target.path) if target.scheme == "unix" else target.path
    return target.scheme, target.host.lower().removesuffix("."), target.port, path


def _refused(why: object) -> End:
    return End(Reason.FORBIDDEN, "front", str(why))
