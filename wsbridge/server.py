"""Server: listeners, accept loop, load shedding, drain, live-connection registry."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from wsbridge import connection
from wsbridge.auth.base import BackgroundTasks
from wsbridge.auth.passwords import PasswordChecker
from wsbridge.auth.replay import UsedTickets
from wsbridge.backends.base import DialServices
from wsbridge.config.model import Config
from wsbridge.frontend import LingeringCloser
from wsbridge.generation import Generation, Listener, auth_services, build_generation
from wsbridge.limits.clients import ClientTable, ConnectionCounts
from wsbridge.limits.rate import SharedBucketTable
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.net.address import ListeningAddresses
from wsbridge.net.disconnect import DisconnectMonitor
from wsbridge.net.listeners import ListeningSockets
from wsbridge.net.resolver import Resolver
from wsbridge.net.transport import reset_socket, set_socket_options
from wsbridge.reasons import Reason, Termination
from wsbridge.registry import LISTENERS
from wsbridge.relay.engine import Engine, PythonEngine
from wsbridge.services import RouteStats

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
        listener_name: Its listener's name; the listener itself is taken from the current generation.
        server: What outlives a connection.
        nursery: Where connections run.
    """
    addresses = server.client_table
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
            listener = server.generation.listeners[listener_name]
            host = sockaddr[0] if isinstance(sockaddr, tuple) else ""
            if addresses.bans and addresses.ban_remaining(host) and listener.is_direct_client(host):
                addresses.reset_banned(sock, listener_name, host)
                continue
            sock.setblocking(False)
            if server.connections < server.max_connections:
                server.connections += 1
                nursery.start_soon(_run_connection, sock, sockaddr, listener, server)
            elif server.acquire_overload_reply():
                nursery.start_soon(_run_overload_reply, sock, sockaddr, listener, server)
            else:
                reset_socket(sock)
                log.warning(
                    "connection.shed",
                    listener=listener_name,
                    connections=server.connections,
                    limit=server.max_connections,
                )


async def _run_connection(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    try:
        await connection.handle_connection(sock, sockaddr, listener, server)
    finally:
        server.connections -= 1


async def _run_overload_reply(sock: socket.socket, sockaddr: object, listener: Listener, server: Server) -> None:
    try:
        await connection.reject_overload(sock, sockaddr, listener, server)
    finally:
        server.release_overload_reply()


async def _handle_exhaustion(
    listening_socket: socket.socket, listener_name: str, server: Server, error: OSError
) -> None:
    """The process or the system has no descriptor left for a client: turn it away, or pause."""
    log.error("accept.error", listener=listener_name, error=error.strerror, connections=server.connections)
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
        connections: Connections now, in whatever step.
        max_connections: How many there may be.
        active_overload_replies: Clients over the cap that are being told so.
        client_table: What clients did lately, by address.
        connection_counts: Connections now, by what routes limit.
        shared_buckets: Bytes a second that several connections have in common.
        request_read_scopes: Waits for a request, which an ending cuts short.
        disconnect_monitor: Clients whose backends are being dialled; an ending cuts that short, too.
        used_tickets: The tickets that were used.
        password_checker: Verifies passwords.
        audit_log: The audit, if there is one.
        shutdown_reason: Why requests are refused now; None while serving.
        open_level: Level of the event `connection.open`.
        only_termination: With `one_connection`, how that connection ended; None before, or if it never came.
    """

    def __init__(
        self, config: Config, *, one_connection: bool = False, open_level: Literal["debug", "info"] = "debug"
    ) -> None:
        limits = config.limits
        self._config = config
        self._one_connection = one_connection
        self.open_level: Literal["debug", "info"] = open_level
        self._only_connection_taken = False
        self.only_termination: Termination | None = None
        self._stats_by_route: dict[str, RouteStats] = {}
        self._last_id = 0
        self._stop_requested = trio.Event()
        self._stop_immediately = trio.Event()
        self.connections = 0
        self.active_overload_replies = 0
        self.request_read_scopes: set[trio.CancelScope] = set()
        self.disconnect_monitor = DisconnectMonitor()
        self.audit_log = None if config.audit is None else AuditLog(config.audit.file)
        self.max_connections = connection_limit(config)
        self.client_table = ClientTable(limits.per_address, time.monotonic)
        self.connection_counts = ConnectionCounts()
        self.shared_buckets = SharedBucketTable()
        self.shutdown_reason: Reason | None = None
        self.reserved_fd = ReservedFd()
        self.engine: Engine = PythonEngine(limits.lingering_sockets)
        self.lingering_closer = LingeringCloser(
            limits.lingering_sockets, config.timeouts.lingering, limits.lingering_bytes
        )
        self.resolver = Resolver(
            limits.dns_threads,
            limits.dns_ttl,
            limits.dns_negative_ttl,
            client_threads=limits.dns_threads_per_route,
        )
        self.listening_addresses = ListeningAddresses()
        services = DialServices(
            self.resolver,
            limits.max_response_head_bytes,
            self.listening_addresses,
        )
        self.used_tickets = UsedTickets(limits.used_tickets)
        threads = limits.password_threads if isinstance(limits.password_threads, int) else None
        self.password_checker = PasswordChecker(threads, limits.password_queue)
        self.background_tasks = BackgroundTasks()
        lent = auth_services(
            used_tickets=self.used_tickets,
            password_checker=self.password_checker,
            resolver=self.resolver,
            background_tasks=self.background_tasks,
        )
        self.generation: Generation = build_generation(config, services, self.route_stats, lent)

    def route_stats(self, route: str) -> RouteStats:
        """Give the counters of a route, by name, over all generations."""
        return self._stats_by_route.setdefault(route, RouteStats())

    def next_id(self) -> int:
        """Number a connection."""
        self._last_id += 1
        return self._last_id

    def take_only_connection(self) -> bool:
        """Note that a connection is about to dial its backend.

        Returns:
            False with `one_connection` if another one has done so before.
        """
        if not self._one_connection:
            return True
        if self._only_connection_taken:
            return False
        self._only_connection_taken = True
        self._stop_requested.set()
        return True

    def acquire_overload_reply(self) -> bool:
        """Hold one of the `overload_replies`; False: all are held, and the client is reset without a response."""
        if self.active_overload_replies >= self.generation.config.limits.overload_replies:
            return False
        self.active_overload_replies += 1
        return True

    def release_overload_reply(self) -> None:
        """Release it."""
        self.active_overload_replies -= 1

    def only_connection_ended(self, termination: Termination) -> None:
        """Note how a connection that was allowed to dial its backend ended."""
        if self._one_connection:
            self.only_termination = termination

    def stop(self, reason: Reason) -> None:
        """Begin to end: `drain` waits for connections to end by themselves, `stop` ends them all at once."""
        if self.shutdown_reason is not Reason.SHUTDOWN:
            self.shutdown_reason = reason
        self._stop_requested.set()
        if reason is Reason.SHUTDOWN:
            self._stop_immediately.set()

    async def run(
        self,
        on_ready: Callable[[list[ListeningSockets]], None] = lambda _: None,
        extra_task: Callable[[Server], Awaitable[None]] | None = None,
    ) -> None:
        """Open the listeners, serve, and end when told to.

        Args:
            on_ready: Called once all listeners are open.
            extra_task: A task to run among the connections.

        Raises:
            ListenError: An address cannot be had.
            ValueError: The audit's file cannot be opened.
        """
        listening: list[ListeningSockets] = []
        try:
            if self.audit_log is not None:
                self.audit_log.open()
            async with self.resolver, self.background_tasks, trio.open_nursery() as engine:
                engine.start_soon(self.engine.run)
                engine.start_soon(self.disconnect_monitor.run)
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as accepting:
                        for name, section in self._config.listeners.items():
                            listening.append(await LISTENERS[section.bind.kind](name, section))
                        for opened in listening:
                            for sock in opened.sockets:
                                self.listening_addresses.add(sock)
                                set_socket_options(sock)  # accepted sockets inherit it
                                accepting.start_soon(accept_connections, sock, opened.name, self, connections)
                            for address in opened.addresses:
                                log.info("listener.opened", listener=opened.name, listen_address=address)
                        if extra_task is not None:
                            connections.start_soon(extra_task, self)
                        on_ready(listening)
                        await self._stop_requested.wait()
                        accepting.cancel_scope.cancel()
                    for opened in listening:
                        opened.close()
                        log.info("listener.closed", listener=opened.name)
                    while self.connections and self.shutdown_reason is None:  # noqa: ASYNC110  see below
                        await trio.sleep(0.05)  # the only connection
                    if self.shutdown_reason is not None:
                        await self._drain(connections)
                engine.cancel_scope.cancel()
        finally:
            for opened in listening:
                opened.close()
            self.reserved_fd.close()
            self.engine.close()
            self.disconnect_monitor.close()
            if self.audit_log is not None:
                self.audit_log.close()

    async def _drain(self, connections: trio.Nursery) -> None:
        """Let connections end by themselves, then end them over `spread`, then cut what is left."""
        timeouts = self._config.timeouts
        with trio.CancelScope() as patience:
            if self._stop_immediately.is_set():
                patience.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_stop, patience)
                with trio.move_on_after(max(0.0, timeouts.drain - timeouts.drain_spread)):
                    await self._wait_for_connections(0)
                self._cancel_waits()
                await self._close_relays(timeouts.drain_spread)
                nursery.cancel_scope.cancel()
        self._cancel_waits()
        for connection_id in self.engine.connection_ids:
            self.engine.terminate(connection_id, self.shutdown_reason or Reason.SHUTDOWN)
        with trio.move_on_after(timeouts.close):
            await self._wait_for_connections(0)
        connections.cancel_scope.cancel()

    async def _cancel_on_stop(self, drain_scope: trio.CancelScope) -> None:
        await self._stop_immediately.wait()
        drain_scope.cancel()

    async def _wait_for_connections(self, remaining: int) -> None:
        """Wait until no more connections than that are left."""
        while self.connections + self.active_overload_replies > remaining:  # noqa: ASYNC110  an event would cost every connection
            await trio.sleep(0.05)

    async def _close_relays(self, duration: float) -> None:
        """End what is relayed, one pair after the other, spread over the time."""
        connection_ids = self.engine.connection_ids
        began = trio.current_time()
        for number, connection_id in enumerate(connection_ids, 1):
            if self.engine.terminate(connection_id, Reason.DRAINING):
                await trio.sleep_until(began + duration * number / len(connection_ids))

    def _cancel_waits(self) -> None:
        """Cut short all waits: an idle connection closes; a request half heard, or waiting for a backend, gets 503."""
        self.disconnect_monitor.cancel_all()
        for scope in list(self.request_read_scopes):
            scope.cancel()
