"""Server: listeners, accept loop, load shedding, drain, live-connection registry."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from wsbridge.backends.base import DialServices
from wsbridge.config.model import Config
from wsbridge.connection import Connection
from wsbridge.context import ConnectionContext
from wsbridge.generation import Generation, Listener, auth_services, build_generation
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListeningSockets
from wsbridge.net.transport import reset_socket, set_socket_options
from wsbridge.reasons import Reason
from wsbridge.registry import LISTENERS
from wsbridge.services import Services

MAX_ACCEPTS_PER_WAKEUP = 64
"""Connections accepted before other tasks have their turn."""

_EXHAUSTION_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class ReservedFd:
    """One descriptor held back, so that a full table does not leave clients waiting in the backlog."""

    def __init__(self) -> None:
        self._fd: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept_and_reset(self, listening_socket: socket.socket) -> bool:
        """Give the descriptor up for an accept, reset that connection, take the descriptor back.

        Returns:
            False if there is no room even for that.
        """
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        try:
            sock, _ = listening_socket.accept()
        except BlockingIOError:
            turned = True
        except OSError:
            turned = False
        else:
            reset_socket(sock)
            turned = True
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            turned = False
        return turned

    def close(self) -> None:
        """Give it back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


async def accept_connections(
    listening_socket: socket.socket, listener_name: str, server: Server, nursery: trio.Nursery
) -> None:
    """Accept until cancelled.

    Args:
        listening_socket: A listening socket.
        listener_name: Its listener's name; the listener itself is that of the current generation.
        server: Whose connections they are.
        nursery: Where connections run.
    """
    services = server.services
    addresses = services.client_table
    while True:
        await trio.lowlevel.wait_readable(listening_socket)
        for _ in range(MAX_ACCEPTS_PER_WAKEUP):
            try:
                sock, sockaddr = listening_socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTION_ERRNOS:
                    await _handle_exhaustion(listening_socket, listener_name, server, error)
                    break
                log.warning("accept.error", listener=listener_name, error=error.strerror)
                continue
            generation = server.generation  # that of the connection for life
            listener = generation.listeners[listener_name]
            host = sockaddr[0] if isinstance(sockaddr, tuple) else ""
            if addresses.bans and addresses.ban_remaining(host) and listener.is_direct_client(host):
                addresses.reset_banned(sock, listener_name, host)
                continue
            sock.setblocking(False)
            context = server.new_context(listener)
            if len(server.connections) < server.max_connections:
                server.connections[context.id] = context
                nursery.start_soon(
                    _run_connection, Connection(sock, context, listener, generation, services), sockaddr, server
                )
            elif services.acquire_overload_reply():
                overload = f"{len(server.connections)} connections, and the limit is {server.max_connections}"
                over = Connection(sock, context, listener, generation, services, overload)
                nursery.start_soon(_run_overload_reply, over, sockaddr, services)
            else:
                reset_socket(sock)
                log.warning(
                    "connection.shed",
                    listener=listener_name,
                    connections=len(server.connections),
                    limit=server.max_connections,
                )


async def _run_connection(connection: Connection, sockaddr: object, server: Server) -> None:
    try:
        await connection.run(sockaddr)
    finally:
        del server.connections[connection.id]


async def _run_overload_reply(connection: Connection, sockaddr: object, services: Services) -> None:
    try:
        await connection.run(sockaddr)
    finally:
        services.release_overload_reply()


async def _handle_exhaustion(
    listening_socket: socket.socket, listener_name: str, server: Server, error: OSError
) -> None:
    """The process or the system has no descriptor left for a client: turn it away, or pause."""
    log.error("accept.error", listener=listener_name, error=error.strerror, connections=len(server.connections))
    if not server.reserved_fd.accept_and_reset(listening_socket):
        await trio.sleep(server.generation.config.timeouts.accept_pause)


RESERVED_DESCRIPTORS = 64
"""Descriptors that `connections: auto` leaves for everything but connections."""


def connection_limit(config: Config) -> int:
    """Give the cap of connections: as written, or half of the descriptors that may be open, a reserve kept."""
    written = config.limits.connections
    if isinstance(written, int):
        return written
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - RESERVED_DESCRIPTORS) // 2)


class Server:
    """Everything that serves.

    Args:
        config: Checked.
        one_connection: Stop accepting as soon as one connection is about to dial its backend, and return when that
            connection has ended.

    Attributes:
        generation: What new connections begin with.
        services: What connections share.
        connections: Those served now, by number, in whatever step.
        max_connections: How many there may be.
    """

    def __init__(
        self, config: Config, *, one_connection: bool = False, open_level: Literal["debug", "info"] = "debug"
    ) -> None:
        self._config = config
        self._last_id = 0
        self._stop_immediately = trio.Event()
        self.connections: dict[int, ConnectionContext] = {}
        self.max_connections = connection_limit(config)
        self.reserved_fd = ReservedFd()
        self.services = services = Services(config, one_connection=one_connection, open_level=open_level)
        self.generation: Generation = build_generation(
            config,
            DialServices(services.resolver, config.limits.max_response_head_bytes, services.listening_addresses),
            services.route_stats,
            auth_services(
                used_tickets=services.used_tickets,
                password_checker=services.password_checker,
                resolver=services.resolver,
            ),
        )

    def new_context(self, listener: Listener) -> ConnectionContext:
        """Number a connection."""
        self._last_id += 1
        return ConnectionContext(self._last_id, listener.name)

    def stop(self, reason: Reason) -> None:
        """Begin to end: `drain` waits for connections to end by themselves, `stop` ends them all at once."""
        if self.services.shutdown_reason is not Reason.SHUTDOWN:
            self.services.shutdown_reason = reason
        self.services.stop_requested.set()
        if reason is Reason.SHUTDOWN:
            self._stop_immediately.set()

    async def run(
        self,
        on_ready: Callable[[list[ListeningSockets]], None] = lambda _: None,
        extra_task: Callable[[Server], Awaitable[None]] | None = None,
    ) -> None:
        """Open the listeners, serve, and end when stopped.

        Args:
            on_ready: Called once all listeners are open.
            extra_task: A task to run among the connections.

        Raises:
            ListenError: An address cannot be had.
            ValueError: The audit's file cannot be opened.
        """
        listening: list[ListeningSockets] = []
        try:
            if self.services.audit_log is not None:
                self.services.audit_log.open()
            async with self.services.resolver, self.generation.background_tasks, trio.open_nursery() as engine:
                engine.start_soon(self.services.engine.run)
                engine.start_soon(self.services.disconnect_monitor.run)
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(self._cancel_on_stop_request, accepting.cancel_scope)
                        await self._open_listeners(listening, accepting, connections)
                        if extra_task is not None:
                            connections.start_soon(extra_task, self)
                        on_ready(listening)
                    for opened in listening:
                        opened.close()
                        log.info("listener.closed", listener=opened.name)
                    while self.connections and self.services.shutdown_reason is None:  # noqa: ASYNC110  see below
                        await trio.sleep(0.05)  # the only connection
                    if self.services.shutdown_reason is not None:
                        await self._drain(connections)
                engine.cancel_scope.cancel()
        finally:
            for opened in listening:
                opened.close()
            self.reserved_fd.close()
            self.services.close()

    async def _open_listeners(
        self, listening: list[ListeningSockets], accepting: trio.Nursery, connections: trio.Nursery
    ) -> None:
        """Open all listeners, and then accept at them; those that are open are added to `listening`."""
        for name, section in self._config.listeners.items():
            listening.append(await LISTENERS[section.bind.kind](name, section))
        for opened in listening:
            for sock in opened.sockets:
                self.services.listening_addresses.add(sock)
                set_socket_options(sock)  # accepted sockets inherit it
                accepting.start_soon(accept_connections, sock, opened.name, self, connections)
            for address in opened.addresses:
                log.info("listener.opened", listener=opened.name, listen_address=address)

    async def _drain(self, connections: trio.Nursery) -> None:
        """Let connections end by themselves, then end them over `spread`, then cut what is left."""
        timeouts = self._config.timeouts
        with trio.CancelScope() as grace:
            if self._stop_immediately.is_set():
                grace.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_stop, grace)
                with trio.move_on_after(max(0.0, timeouts.drain - timeouts.drain_spread)):
                    await self._wait_for_connections(0)
                self._cancel_waits()
                await self._close_relays(timeouts.drain_spread)
                nursery.cancel_scope.cancel()
        self._cancel_waits()
        for connection_id in self.services.engine.connection_ids:
            self.services.engine.terminate(connection_id, self.services.shutdown_reason or Reason.SHUTDOWN)
        with trio.move_on_after(timeouts.close):
            await self._wait_for_connections(0)
        connections.cancel_scope.cancel()

    async def _cancel_on_stop_request(self, accept_scope: trio.CancelScope) -> None:
        """Stop accepting, also while listeners are still being opened: the look-up of a name may hang."""
        await self.services.stop_requested.wait()
        accept_scope.cancel()

    async def _cancel_on_stop(self, drain_scope: trio.CancelScope) -> None:
        await self._stop_immediately.wait()
        drain_scope.cancel()

    async def _wait_for_connections(self, remaining: int) -> None:
        """Wait until no more connections than that are left."""
        while len(self.connections) + self.services.active_overload_replies > remaining:  # noqa: ASYNC110  an event would cost every connection
            await trio.sleep(0.05)

    async def _close_relays(self, duration: float) -> None:
        """End what is relayed, one pair after the other, spread over the time."""
        connection_ids = self.services.engine.connection_ids
        began = trio.current_time()
        for number, connection_id in enumerate(connection_ids, 1):
            if self.services.engine.terminate(connection_id, Reason.DRAINING):
                await trio.sleep_until(began + duration * number / len(connection_ids))

    def _cancel_waits(self) -> None:
        """Cut short all waits: an idle connection closes; a request half heard, or waiting for a backend, gets 503."""
        self.services.disconnect_monitor.cancel_all()
        for scope in list(self.services.request_read_scopes):
            scope.cancel()
