"""Authenticator, AuthServices, background tasks of a generation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

import trio

from wsbridge.auth.access_list import AccessList, AccessListKey
from wsbridge.auth.identity import Identity
from wsbridge.auth.jwt_keys import FetchedKeys, KeySource
from wsbridge.auth.passwords import PasswordChecker
from wsbridge.auth.replay import UsedTickets
from wsbridge.config.base import AuthSection
from wsbridge.context import ConnectionContext
from wsbridge.file_watcher import FileWatcher
from wsbridge.net.resolver import Resolver

BackgroundTask = Callable[[], Awaitable[None]]


class BackgroundTasks:
    """Tasks that belong to no client; used as `async with`, and cancelled where that ends.

    An authentication method is built before the server runs, so what it starts waits for that. A task that has
    something to close does so in a `finally`; it must not raise.
    """

    def __init__(self) -> None:
        self._pending: list[BackgroundTask] = []
        self._nursery: trio.Nursery | None = None
        self._stack = contextlib.AsyncExitStack()

    def start(self, task: BackgroundTask) -> None:
        """Run a task until the generation ends."""
        if self._nursery is None:
            self._pending.append(task)
        else:
            self._nursery.start_soon(task)

    async def __aenter__(self) -> BackgroundTasks:
        self._nursery = await self._stack.enter_async_context(trio.open_nursery())
        waiting, self._pending = self._pending, []
        for task in waiting:
            self._nursery.start_soon(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
        await self._stack.__aexit__(kind, error, trace)


class Authenticator(Protocol):
    """One authentication method, built once from its section; it serves all connections of a generation."""

    async def identify(self, context: ConnectionContext) -> Identity:
        """Return who a client is.

        Args:
            context: The client and its request.

        Raises:
            Rejected: It is not allowed in.
        """


@dataclass(frozen=True, slots=True)
class AuthServices:
    """What an authentication method gets when it is built.

    Attributes:
        build: Builds a method that another one combines.
        wall_clock: Seconds since 1970, as credentials count them.
        used_tickets: The tickets that were used, over all generations.
        password_checker: Verifies passwords, for all generations.
        resolver: Looks names up.
        fetched_keys: The keys of issuers, over all generations.
        access_lists: Lists that open connections depend on, over all generations.
        watcher: Watches files with keys and authorities, until the generation is superseded.
        background_tasks: Runs what no client waits for, until the generation ends.
    """

    build: Callable[[AuthSection], Authenticator]
    wall_clock: Callable[[], float] = time.time
    used_tickets: UsedTickets = field(default_factory=UsedTickets)
    password_checker: PasswordChecker = field(default_factory=PasswordChecker)
    resolver: Resolver = field(default_factory=Resolver)
    fetched_keys: MutableMapping[KeySource, FetchedKeys] = field(default_factory=dict)
    access_lists: MutableMapping[AccessListKey, AccessList[Any]] = field(default_factory=dict)
    watcher: FileWatcher = field(default_factory=FileWatcher)
    background_tasks: BackgroundTasks = field(default_factory=BackgroundTasks)


class NoAuthConfig(AuthSection):
    """No authentication."""

    kind: Literal["none"] = "none"
    """none: no authentication, anonymous access."""

    def identifies_clients(self) -> bool:
        """See `AuthSection.identifies_clients`: access is anonymous."""
        return False

    def allows_everyone(self) -> bool:
        """See `AuthSection.allows_everyone`."""
        return True

    def requires_credentials(self) -> bool:
        """See `AuthSection.requires_credentials`."""
        return False
