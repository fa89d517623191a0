"""Accepting: the sockets of listeners, the connections that came through them, and how many there may be."""

from __future__ import annotations

import errno
import math
import resource
import socket
import time
from types import TracebackType

import trio

from wsbridge.access_log import count_bytes
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.model import Config
from wsbridge.connection import Connection
from wsbridge.context import ConnectionContext
from wsbridge.engine_choice import EngineChoice
from wsbridge.generation import Generation, Listener
from wsbridge.limits.memory import MemoryUsage
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListeningSockets
from wsbridge.net.reserved_fd import ReservedFd
from wsbridge.net.transport import reset_socket
from wsbridge.reasons import Termination
from wsbridge.services import Services
from wsbridge.taskless import TIME_SLICE

MAX_ACCEPTS_PER_WAKEUP = 64
"""Connections accepted before other tasks have their turn."""
MAX_COUNTED_PER_TURN = 500
"""Connections whose bytes are counted before other tasks have their turn; half a millisecond."""
RESERVED_DESCRIPTORS = 64
"""Descriptors that `connections: auto` leaves for everything but connections and the threads of the engine."""
MAX_DETACHED_SHARE = 4
"""At most a quarter of them is left for sessions that wait for their clients, each with the socket of its backend."""
_CONTROL_DESCRIPTORS = 32
"""Descriptors that no accepted connection gets, for dials, the admin API and reloads; at most a quarter of all."""

_EXHAUSTION_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def reserved_descriptors(engine: EngineChoice) -> int:
    """Return how many descriptors are left for everything but connections."""
    return RESERVED_DESCRIPTORS + engine.descriptors


def connection_limit(config: Config, engine: EngineChoice) -> int:
    """Return the connection limit: as configured, or half of the descriptors that may be open, minus a reserve."""
    written = config.limits.connections
    if isinstance(written, int):
        return written
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = soft - reserved_descriptors(engine)
    if any(route.resume is not None for route in config.routes.values()):
        free -= min(config.limits.detached_sessions, free // MAX_DETACHED_SHARE)
    return max(1, free // 2)


def descriptor_limit() -> int:
    """Return the number of open files from which on no connection is accepted."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - min(_CONTROL_DESCRIPTORS, soft // 4)


def listener_connection_limit(section: ListenerConfig) -> float:
    """Return the connection limit of a listener; infinite where there is none."""
    return math.inf if section.connections is None else section.connections


class AcceptTask:
    """The task that accepts at one socket, as the watchdog sees it.

    Attributes:
        sock: The listening socket.
        scope: Cancels it.
        wakeups: How often it went to accept clients.
    """

    __slots__ = ("scope", "sock", "wakeups")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.scope = trio.CancelScope()
        self.wakeups = 0


class OpenListener:
    """The open sockets of a listener, and the tasks that accept at them. A reload keeps both, unless it removes them.

    Args:
        listening: The sockets.
        listener: What is spoken at them.
        generation: The generation of that listener.
        open_connections: Connections of all listeners, by number.

    Attributes:
        listening: As given.
        listener: That of new connections.
        generation: That of new connections, which they keep for life.
        accepting: The tasks that accept and have not ended, one a socket.
        connections: How many connections that were accepted here are served now.
        max_connections: How many there may be.
    """

    __slots__ = (
        "_open_connections",
        "accepting",
        "connections",
        "generation",
        "listener",
        "listening",
        "max_connections",
    )

    def __init__(
        self,
        listening: ListeningSockets,
        listener: Listener,
        generation: Generation,
        open_connections: dict[int, Connection],
    ) -> None:
        self._open_connections = open_connections
        self.listening = listening
        self.listener = listener
        self.generation = generation
        self.accepting: list[AcceptTask] = []
        self.connections = 0
        self.max_connections = listener_connection_limit(generation.config.listeners[listener.name])

    def move(self, name: str, generation: Generation) -> None:
        """Belong to another generation, where the listener has this name, from the next connection on."""
        section = generation.config.listeners[name]
        self.listening.name = name
        self.listening.set_backlog(section.backlog)
        self.listener, self.generation = generation.listeners[name], generation
        self.max_connections = listener_connection_limit(section)

    def add(self, connection: Connection) -> None:
        """Count a connection that was accepted here."""
        self._open_connections[connection.id] = connection
        self.connections += 1
        connection.generation.lifetime.acquire()

    def connection_ended(self, connection: Connection, termination: Termination) -> None:
        """See `ConnectionOwner.connection_ended`."""
        del self._open_connections[connection.id]
        self.connections -= 1
        connection.generation.lifetime.release()

    def cancel_accepting(self) -> None:
        """Leave new connections in the backlog."""
        for task in self.accepting:
            task.scope.cancel()

    async def stop_accepting(self) -> None:
        """End the tasks that accept; what waits in the backlog stays there."""
        self.cancel_accepting()
        while self.accepting:
            await trio.lowlevel.checkpoint()


class OverloadReplies:
    """The connections over the connection limit, which get a response; see `ConnectionOwner`.

    Args:
        services: Bounds how many there are.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def connection_ended(self, connection: Connection, termination: Termination) -> None:
        """See `ConnectionOwner.connection_ended`."""
        self._services.release_overload_reply()
        connection.generation.lifetime.release()


class Acceptor:
    """Accepts connections and knows those that are open; those that are left at the end of `async with` are cut off.

    Args:
        config: Its limit applies until `configure`.
        services: What connections share.

    Attributes:
        connections: Those served now, by number, in whatever step.
        last_id: The number of the latest connection.
        max_connections: How many there may be.
        admission_limit: How many there may be now: fewer under memory pressure.
        max_descriptors: How many files may be open for a connection to be accepted.
        memory: The memory in use at the last check; None where nothing limits it, or before the first.
        reserved_fd: Lets it turn clients away when there is no other descriptor.
    """

    def __init__(self, config: Config, services: Services) -> None:
        self._services = services
        self.connections: dict[int, Connection] = {}
        self.last_id = 0
        self.max_connections = self.admission_limit = connection_limit(config, services.engine_choice)
        self.max_descriptors = descriptor_limit()
        self.memory: MemoryUsage | None = None
        self._memory_limit: int | None = None  # under memory pressure, the connections that there were when it began
        self.reserved_fd = ReservedFd()
        self._overload_replies = OverloadReplies(services)

    async def __aenter__(self) -> None:
        """Does nothing."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._services.runner.cut_off()
        for connection in list(self.connections.values()):
            connection.cut_off()
        self._services.sessions.abort_all()

    def configure(self, config: Config) -> None:
        """Apply the limit of another configuration."""
        self.max_connections = connection_limit(config, self._services.engine_choice)
        self._limit_admission()

    @property
    def memory_pressure(self) -> bool:
        """Whether memory is short."""
        return self._memory_limit is not None

    def set_memory_pressure(self, short: bool) -> None:
        """Begin or end to reject new connections beyond those that are open now.

        One for each that ends is still accepted, since it needs no more memory than that one: a process whose memory
        does not shrink goes on to serve.
        """
        self._memory_limit = max(1, len(self.connections)) if short else None
        self._limit_admission()

    def _limit_admission(self) -> None:
        limit = self.max_connections
        self.admission_limit = limit if self._memory_limit is None else min(limit, self._memory_limit)

    @property
    def has_room(self) -> bool:
        """Whether a new connection would be served, as far as its listener has no limit of its own."""
        return len(self.connections) < self.admission_limit

    def new_context(self, listener: Listener, generation: Generation) -> ConnectionContext:
        """Number a connection."""
        return ConnectionContext(self.next_id(), listener.name, generation.number)

    def next_id(self) -> int:
        """Return the number of one more connection."""
        self.last_id += 1
        return self.last_id

    async def run(self, task: AcceptTask, opened: OpenListener, nursery: trio.Nursery) -> None:
        """Accept at one socket until cancelled.

        Args:
            task: This task.
            opened: Its listener.
            nursery: Where connections run that need a task.
        """
        try:
            with task.scope:
                while True:
                    await trio.lowlevel.wait_readable(task.sock)
                    task.wakeups += 1
                    await self.accept_waiting(task.sock, opened, nursery)
        finally:
            opened.accepting.remove(task)

    async def accept_waiting(
        self, listening_socket: socket.socket, opened: OpenListener, nursery: trio.Nursery
    ) -> bool:
        """Accept connections that wait, at most MAX_ACCEPTS_PER_WAKEUP, until the time slice is over.

        Args:
            listening_socket: A listening socket.
            opened: Its listener.
            nursery: Where connections run that need a task.

        Returns:
            Whether there may be more of them.
        """
        addresses = self._services.client_table
        stop = time.monotonic() + TIME_SLICE
        for _ in range(MAX_ACCEPTS_PER_WAKEUP):
            listener = opened.listener
            try:
                sock, sockaddr = listening_socket.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                listener.stats.accept_errors[errno.errorcode.get(error.errno or 0, "other")] += 1
                if error.errno in _EXHAUSTION_ERRNOS:
                    await self._handle_exhaustion(listening_socket, opened, error)
                    break
                log.warning("accept.error", listener=listener.name, error=error.strerror)
                continue
            listener.stats.accepted += 1
            host = sockaddr[0] if isinstance(sockaddr, tuple) else ""
            if addresses.bans and addresses.ban_remaining(host) and listener.is_direct_client(host):
                addresses.reset_banned(sock, listener.name, host)
                continue
            sock.setblocking(False)
            self._admit(sock, sockaddr, opened, nursery)
            if time.monotonic() >= stop:  # each runs as far as it goes without waiting
                break
        return True

    def _admit(self, sock: socket.socket, sockaddr: object, opened: OpenListener, nursery: trio.Nursery) -> None:
        """Serve a client, or turn it away where there are as many as may be."""
        listener, generation, services = opened.listener, opened.generation, self._services
        has_descriptors = sock.fileno() < self.max_descriptors  # the kernel gives the lowest number that is free
        if self.has_room and opened.connections < opened.max_connections and has_descriptors:
            context = self.new_context(listener, generation)
            connection = Connection(sock, context, listener, generation, services, opened)
            opened.add(connection)
            self._services.runner.start(connection.run(sockaddr), nursery)
            return
        overload = self._describe_overload(opened)
        if has_descriptors and services.acquire_overload_reply():
            context = self.new_context(listener, generation)
            over = Connection(sock, context, listener, generation, services, self._overload_replies, overload)
            generation.lifetime.acquire()
            self._services.runner.start(over.run(sockaddr), nursery)
        else:
            reset_socket(sock)
            listener.stats.shed += 1
            log.warning("connection.shed", listener=listener.name, connections=len(self.connections), detail=overload)

    async def _handle_exhaustion(self, listening_socket: socket.socket, opened: OpenListener, error: OSError) -> None:
        """The process or the system has no descriptor left for a client: turn it away, or pause."""
        log.error(
            "accept.error", listener=opened.listener.name, error=error.strerror, connections=len(self.connections)
        )
        if not self.reserved_fd.accept_and_reset(listening_socket):
            await trio.sleep(opened.generation.config.timeouts.accept_pause)

    def _describe_overload(self, opened: OpenListener) -> str:
        """Return the limit that rejects a new connection, with the numbers and the setting."""
        count, limit = len(self.connections), self.admission_limit
        if count >= limit and limit == self.max_connections:
            return f"{count} connections, and limits.connections is {limit}"
        if count >= limit:
            used = "" if self.memory is None else f" ({self.memory.share:.0%} of {self.memory.source} is in use)"
            return f"limits.max_memory is reached{used}: {count} connections, and no more than {limit} for now"
        if opened.connections >= opened.max_connections:
            name, limit = opened.listener.name, int(opened.max_connections)
            return f"{opened.connections} connections of listener {name}, whose connections is {limit}"
        return f"{self.max_descriptors} open files; more are reserved (LimitNOFILE= of a systemd unit)"

    async def count_bytes(self) -> None:
        """Add to the counters of routes what open connections have carried since the last call.

        The rest is added when a connection ends, so that the counters never go back, whenever they are read.
        """
        for number, connection in enumerate(list(self.connections.values()), 1):
            carried = self._services.engine.payload_bytes(connection.id)
            if carried is not None:
                count_bytes(connection.context, *carried)
            if not number % MAX_COUNTED_PER_TURN:
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the descriptors; no connection may be left."""
        self.reserved_fd.close()
