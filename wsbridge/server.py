"""Server: listeners, accept loop, load shedding, drain, live-connection registry."""

from __future__ import annotations

import errno
import math
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import trio

from wsbridge.backends.base import DialServices
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.model import Config
from wsbridge.connection import Connection
from wsbridge.context import ConnectionContext
from wsbridge.file_watcher import FileWatcher
from wsbridge.generation import Generation, Listener, auth_services, build_generation
from wsbridge.limits.loop_lag import LoopLag
from wsbridge.limits.memory import MemoryUsage
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.net.listeners import InheritedSockets, ListeningSockets, listener_key
from wsbridge.net.reserved_fd import ReservedFd
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.net.transport import reset_socket, set_socket_options
from wsbridge.reasons import Reason
from wsbridge.registry import LISTENERS
from wsbridge.services import Services

MAX_ACCEPTS_PER_WAKEUP = 64
"""Connections accepted before other tasks have their turn."""
MAX_COUNTED_PER_TURN = 500
"""Connections whose bytes are counted before other tasks have their turn; half a millisecond."""

_EXHAUSTION_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


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

    Attributes:
        listening: As given.
        listener: That of new connections.
        generation: That of new connections, which they keep for life.
        accepting: The tasks that accept and have not ended, one a socket.
        connections: How many connections that were accepted here are served now.
        max_connections: How many there may be.
    """

    __slots__ = ("accepting", "connections", "generation", "listener", "listening", "max_connections")

    def __init__(self, listening: ListeningSockets, listener: Listener, generation: Generation) -> None:
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

    def cancel_accepting(self) -> None:
        """Leave new connections in the backlog."""
        for task in self.accepting:
            task.scope.cancel()

    async def stop_accepting(self) -> None:
        """End the tasks that accept; what waits in the backlog stays there."""
        self.cancel_accepting()
        while self.accepting:
            await trio.lowlevel.checkpoint()


async def accept_connections(task: AcceptTask, opened: OpenListener, server: Server, nursery: trio.Nursery) -> None:
    """Accept until cancelled.

    Args:
        task: This task.
        opened: Its listener.
        server: Whose connections they are.
        nursery: Where connections run.
    """
    try:
        with task.scope:
            while True:
                await trio.lowlevel.wait_readable(task.sock)
                task.wakeups += 1
                await accept_waiting(task.sock, opened, server, nursery)
    finally:
        opened.accepting.remove(task)


async def accept_waiting(
    listening_socket: socket.socket, opened: OpenListener, server: Server, nursery: trio.Nursery
) -> bool:
    """Accept connections that wait, at most MAX_ACCEPTS_PER_WAKEUP.

    Args:
        listening_socket: A listening socket.
        opened: Its listener.
        server: Whose connections they are.
        nursery: Where connections run.

    Returns:
        Whether there may be more of them.
    """
    services = server.services
    addresses = services.client_table
    for _ in range(MAX_ACCEPTS_PER_WAKEUP):
        listener, generation = opened.listener, opened.generation
        try:
            sock, sockaddr = listening_socket.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            listener.stats.accept_errors[errno.errorcode.get(error.errno or 0, "other")] += 1
            if error.errno in _EXHAUSTION_ERRNOS:
                await _handle_exhaustion(listening_socket, opened, server, error)
                break
            log.warning("accept.error", listener=listener.name, error=error.strerror)
            continue
        listener.stats.accepted += 1
        host = sockaddr[0] if isinstance(sockaddr, tuple) else ""
        if addresses.bans and addresses.ban_remaining(host) and listener.is_direct_client(host):
            addresses.reset_banned(sock, listener.name, host)
            continue
        sock.setblocking(False)
        context = server.new_context(listener, generation)
        has_descriptors = sock.fileno() < server.max_descriptors  # the kernel gives the lowest number that is free
        if (
            len(server.connections) < server.admission_limit
            and opened.connections < opened.max_connections
            and has_descriptors
        ):
            opened.connections += 1
            generation.lifetime.acquire()
            connection = Connection(sock, context, listener, generation, services)
            server.connections[context.id] = connection
            nursery.start_soon(_run_connection, connection, sockaddr, server, opened, generation)
            continue
        overload = server.describe_overload(opened)
        if has_descriptors and services.acquire_overload_reply():
            over = Connection(sock, context, listener, generation, services, overload)
            generation.lifetime.acquire()
            nursery.start_soon(_run_overload_reply, over, sockaddr, services, generation)
        else:
            reset_socket(sock)
            listener.stats.shed += 1
            log.warning("connection.shed", listener=listener.name, connections=len(server.connections), detail=overload)
    return True


async def _run_connection(
    connection: Connection, sockaddr: object, server: Server, opened: OpenListener, generation: Generation
) -> None:
    try:
        await connection.run(sockaddr)
    finally:
        del server.connections[connection.id]
        opened.connections -= 1
        generation.lifetime.release()


async def _run_overload_reply(
    connection: Connection, sockaddr: object, services: Services, generation: Generation
) -> None:
    try:
        await connection.run(sockaddr)
    finally:
        services.release_overload_reply()
        generation.lifetime.release()


async def _handle_exhaustion(
    listening_socket: socket.socket, opened: OpenListener, server: Server, error: OSError
) -> None:
    """The process or the system has no descriptor left for a client: turn it away, or pause."""
    log.error("accept.error", listener=opened.listener.name, error=error.strerror, connections=len(server.connections))
    if not server.reserved_fd.accept_and_reset(listening_socket):
        await trio.sleep(opened.generation.config.timeouts.accept_pause)


RESERVED_DESCRIPTORS = 64
"""Descriptors that `connections: auto` leaves for everything but connections."""
_CONTROL_DESCRIPTORS = 32
"""Descriptors that no accepted connection gets, for dials, the admin API and reloads; at most a quarter of all."""


def connection_limit(config: Config) -> int:
    """Return the connection limit: as configured, or half of the descriptors that may be open, minus a reserve."""
    written = config.limits.connections
    if isinstance(written, int):
        return written
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - RESERVED_DESCRIPTORS) // 2)


def descriptor_limit() -> int:
    """Return the number of open files from which on no connection is accepted."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - min(_CONTROL_DESCRIPTORS, soft // 4)


def listener_connection_limit(section: ListenerConfig) -> float:
    """Return the connection limit of a listener; infinite where there is none."""
    return math.inf if section.connections is None else section.connections


class NotServingError(Exception):
    """The server is shutting down or has not started, so that neither its configuration nor its state can change."""


STOP_MARGIN = 5.0
"""Seconds of a shutdown beside its timeouts, for tasks to end and the log to be written."""

FILES_TIMEOUT = 120.0
"""Seconds that reading and building a configuration may take in a reload; ten thousand routes take some ten."""
ResultT = TypeVar("ResultT")
REMOVED_ROUTE_INTERVAL = 1.0
"""Seconds between two looks for connections of a removed route that were not relayed yet."""


async def _run_within(scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
    """Run a task until its scope is cancelled."""
    with scope:
        await task()


def _update_files(kept: list[tuple[OpenListener, ListenerConfig]], reverts: list[Callable[[], None]]) -> None:
    """Apply mode and owner to listeners that stay open; runs in a thread.

    Args:
        kept: These listeners.
        reverts: What reverts it is added, also if an error ends it.
    """
    for opened, section in kept:
        reverts.append(opened.listening.update_file(section))


def _removed_routes(before: Config, after: Config) -> dict[str, str]:
    """Return the `on_remove` of the routes that a configuration removes or changes, but for `keep`."""
    return {
        name: section.on_remove
        for name, section in before.routes.items()
        if section.on_remove != "keep" and after.routes.get(name) != section
    }


class Server:
    """Listeners, connections and drain of one process.

    Args:
        config: Checked.
        one_connection: Stop accepting as soon as one connection is about to dial its backend, and return when that
            connection has ended.
        open_level: Level of `connection.open`.
        passed_sockets: Those of the service manager; `run` closes them at the end.

    Attributes:
        generation: What new connections begin with.
        generations: That one, and those before it that still have connections.
        services: What connections share.
        connections: Those served now, by number, in whatever step.
        max_connections: How many there may be.
        admission_limit: How many there may be now: fewer under memory pressure.
        max_descriptors: How many files may be open for a connection to be accepted.
        memory: The memory in use at the last check; None where nothing limits it, or before the first.
        loop_lag: How late the event loop was.
        listeners: The open ones, in the order of the configuration.
        passed_sockets: As given.
        is_draining: Whether new clients are rejected, or will be after `drain_delay`.
        has_successor: Whether another process accepts at the same addresses now, so that clients are served there.
    """

    def __init__(
        self,
        config: Config,
        *,
        one_connection: bool = False,
        open_level: Literal["debug", "info"] = "debug",
        passed_sockets: PassedSockets | None = None,
    ) -> None:
        self._inherited = InheritedSockets()
        self.passed_sockets = passed_sockets or PassedSockets()
        self._listen_by_kind = {**LISTENERS, "fd": self.passed_sockets.listen}
        self._last_id = 0
        self._file_thread = trio.CapacityLimiter(1)  # held as long as a thread runs, also an abandoned one
        self._stop_immediately = trio.Event()
        self._starting = trio.CancelScope()
        self._drain_delay = trio.CancelScope()
        self.is_draining = False
        self.has_successor = False
        self.connections: dict[int, Connection] = {}
        self.max_connections = self.admission_limit = connection_limit(config)
        self.max_descriptors = descriptor_limit()
        self._memory_limit: int | None = None  # under memory pressure, the connections that there were when it began
        self.memory: MemoryUsage | None = None
        self.loop_lag = LoopLag()
        self.listeners: list[OpenListener] = []
        self.reserved_fd = ReservedFd()
        self.services = Services(config, one_connection=one_connection, open_level=open_level)
        self.generation: Generation = self._build_generation(config, 1)
        self.generations: list[Generation] = []
        self._generation_tasks: trio.Nursery | None = None
        self._accepting: trio.Nursery | None = None
        self._connections: trio.Nursery | None = None

    def _build_generation(self, config: Config, number: int) -> Generation:
        """Build a generation; reads files, so not on the event loop once that serves."""
        services = self.services
        watcher = FileWatcher()
        dial_services = DialServices(
            services.resolver, config.limits.max_response_head_bytes, services.listening_addresses, watcher
        )
        return build_generation(
            config,
            dial_services,
            services.route_stats,
            auth_services(
                used_tickets=services.used_tickets,
                password_checker=services.password_checker,
                resolver=services.resolver,
                fetched_keys=services.fetched_keys,
                access_lists=services.access_lists,
                watcher=watcher,
            ),
            number,
            services.listener_stats,
        )

    def new_context(self, listener: Listener, generation: Generation) -> ConnectionContext:
        """Number a connection."""
        self._last_id += 1
        return ConnectionContext(self._last_id, listener.name, generation.number)

    async def count_bytes(self) -> None:
        """Add to the counters of routes what open connections have carried since the last call.

        The rest is added when a connection ends, so that the counters never go back, whenever they are read.
        """
        for number, connection in enumerate(list(self.connections.values()), 1):
            carried = self.services.engine.payload_bytes(connection.id)
            if carried is not None:
                connection.context.count_bytes(*carried)
            if not number % MAX_COUNTED_PER_TURN:
                await trio.lowlevel.checkpoint()

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send clients here: it is open, does not drain, and has room."""
        return bool(self.listeners) and not self.is_draining and len(self.connections) < self.admission_limit

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

    def describe_overload(self, opened: OpenListener) -> str:
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

    @property
    def max_stop_time(self) -> float:
        """Seconds that a shutdown may last: connections may end by themselves, then have `close`, then are cut."""
        timeouts = self.generation.config.timeouts
        return timeouts.drain_delay + timeouts.drain + 2 * timeouts.close + STOP_MARGIN

    def drain(self) -> None:
        """Stop being ready, and reject new clients after `drain_delay`; what is relayed goes on. See `undrain`.

        Raises:
            NotServingError: The server is shutting down, or has not started.
        """
        tasks = self._check_serving()
        if not self.is_draining:
            self.is_draining = True
            self._drain_delay = trio.CancelScope()
            tasks.start_soon(self._reject_after_delay, self._drain_delay)

    def undrain(self) -> None:
        """Serve again after `drain`.

        Raises:
            NotServingError: The server is shutting down.
        """
        self._check_serving()
        self.is_draining = False
        self._drain_delay.cancel()
        self.services.shutdown_reason = None

    async def _reject_after_delay(self, undrained: trio.CancelScope) -> None:
        with undrained:
            await trio.sleep(self.generation.config.timeouts.drain_delay)
            self.services.shutdown_reason = self.services.shutdown_reason or Reason.DRAINING

    def stop(self, reason: Reason) -> None:
        """Begin to end: `draining` waits for connections to end by themselves, `shutdown` ends them all at once.

        Requests get 503 where new ones still arrive; those at listeners that have been released are served.
        """
        self.is_draining = True
        self._starting.cancel()
        passed = self._passed_listeners()
        for opened in passed:
            opened.cancel_accepting()
        self.services.released_listeners |= {opened.listener.name for opened in passed}
        for scope in list(self.services.idle_scopes):
            scope.cancel()
        self.services.stop_requested.set()
        if reason is Reason.SHUTDOWN:
            self.services.shutdown_reason = reason
            self._stop_immediately.set()
        elif len(self.listeners) > len(passed) and not self.generation.config.timeouts.drain_delay:
            self.services.shutdown_reason = self.services.shutdown_reason or reason

    def _passed_listeners(self) -> list[OpenListener]:
        """Return the listeners whose sockets the next process has, too: who connects now can wait for it."""
        return [opened for opened in self.listeners if opened.listening.is_passed]

    async def run(
        self,
        on_ready: Callable[[list[ListeningSockets]], None] = lambda _: None,
        extra_task: Callable[[Server], Awaitable[None]] | None = None,
        inherited: InheritedSockets | None = None,
        on_bound: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Open the listeners, and serve until stopped.

        Args:
            on_ready: Called once all listeners are open.
            extra_task: A task to run in the nursery of the connections.
            inherited: Sockets that another process handed over.
            on_bound: Called once all addresses are bound, before the first connection is accepted.

        Raises:
            ListenError: An address cannot be bound.
            ValueError: The file of the audit log cannot be opened.
        """
        self._inherited = inherited or self._inherited
        try:
            if self.services.audit_log is not None:
                self.services.audit_log.open()
            async with self.services.resolver, trio.open_nursery() as engine:
                engine.start_soon(self.services.engine.run)
                engine.start_soon(self.services.disconnect_monitor.run)
                self._generation_tasks = engine
                await engine.start(self._run_generation, self.generation)
                async with trio.open_nursery() as connections:
                    self._connections = connections
                    async with trio.open_nursery() as accepting:
                        self._accepting = accepting
                        with self._starting:
                            self._add_listeners(await self._open_listeners(self.generation, on_bound))
                            if extra_task is not None:
                                connections.start_soon(extra_task, self)
                            on_ready([opened.listening for opened in self.listeners])
                        await self.services.stop_requested.wait()
                        if self.is_draining:
                            await self.release_listeners(self._passed_listeners())
                            await self._drain()
                        accepting.cancel_scope.cancel()
                    for opened in self.listeners:
                        self._close_listener(opened)
                    while self.connections and not self.is_draining:  # noqa: ASYNC110  see below
                        await trio.sleep(0.05)  # the only connection
                    if self.is_draining:
                        await self._end_connections(connections)
                engine.cancel_scope.cancel()
        finally:
            for opened in self.listeners:
                opened.listening.close()
            self.passed_sockets.close()
            self.reserved_fd.close()
            self.services.close()

    async def _open_listeners(
        self,
        generation: Generation,
        on_bound: Callable[[], Awaitable[None]] | None = None,
        kept: Sequence[OpenListener] = (),
    ) -> list[OpenListener]:
        """Open the listeners of a generation that are not kept, or none of them.

        Raises:
            ListenError: An address cannot be had.
        """
        found: list[OpenListener] = []
        open_now = {opened.listening.key for opened in kept}
        try:
            for name, section in generation.config.listeners.items():
                if listener_key(name, section) not in open_now:
                    open_new = self._listen_by_kind[section.bind.kind]
                    listening = await self._inherited.listen(name, section, open_new)
                    found.append(OpenListener(listening, generation.listeners[name], generation))
            if on_bound is not None:
                await on_bound()
        except BaseException:
            for opened in found:
                opened.listening.close()
            raise
        return found

    def _add_listeners(self, new: list[OpenListener]) -> None:
        """Accept at listeners that have been opened."""
        assert self._accepting is not None and self._connections is not None  # noqa: S101 (`run` is running)
        self.listeners += new
        for opened in new:
            for sock in opened.listening.sockets:
                self.services.listening_addresses.add(sock)
                set_socket_options(sock)  # accepted sockets inherit it
                task = AcceptTask(sock)
                opened.accepting.append(task)
                self._accepting.start_soon(accept_connections, task, opened, self, self._connections)
            for address in opened.listening.addresses:
                log.info("listener.opened", listener=opened.listener.name, listen_address=address)

    def _close_listener(self, opened: OpenListener) -> None:
        for sock in opened.listening.sockets:
            self.services.listening_addresses.remove(sock)
        opened.listening.close()
        log.info("listener.closed", listener=opened.listener.name)

    async def finish_listeners(self) -> None:
        """Accept what waits in the backlogs of the listeners that are open, and close them."""
        finished, self.listeners = self.listeners, []
        for opened in finished:
            await self._finish_listener(opened)

    async def release_listeners(self, released: list[OpenListener]) -> None:
        """Stop accepting at listeners whose sockets another process has, too, and close the copies of this one."""
        self.services.released_listeners |= {opened.listener.name for opened in released}
        for opened in released:
            await opened.stop_accepting()
        for opened in [one for one in released if one in self.listeners]:  # a stop may have released it meanwhile
            self.listeners.remove(opened)
            for sock in opened.listening.sockets:
                self.services.listening_addresses.remove(sock)
            opened.listening.release()
            log.info("listener.closed", listener=opened.listener.name)

    async def _run_generation(
        self, generation: Generation, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run what a generation needs until its last connection has ended."""
        self.generations.append(generation)
        async with generation.background_tasks, trio.open_nursery() as nursery:
            watching = trio.CancelScope()
            nursery.start_soon(_run_within, watching, generation.watcher.run)
            task_status.started()
            await generation.lifetime.superseded.wait()
            watching.cancel()
            for policy in ("drain", "close"):
                routes = frozenset(
                    name for name, found in generation.lifetime.removed_routes.items() if found == policy
                )
                if routes:
                    nursery.start_soon(self._close_removed_routes, generation, routes, policy == "drain")
            await generation.lifetime.unused.wait()
            nursery.cancel_scope.cancel()
        self.generations.remove(generation)
        log.debug("generation.ended", generation=generation.number)

    async def read_files(self, read: Callable[[], ResultT]) -> ResultT:
        """Run what reads files of a configuration in a thread, which is abandoned if a file system does not respond.

        Args:
            read: What it raises is raised here.

        Raises:
            ValueError: It takes longer than FILES_TIMEOUT, or one that did has not returned since.
        """
        if self._file_thread.borrowed_tokens:
            raise ValueError("a file system has not responded since an earlier reload")
        with trio.move_on_after(FILES_TIMEOUT):
            return await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._file_thread)
        raise ValueError(f"the files were not read within {FILES_TIMEOUT:g} s: a file system may not respond")

    async def apply(self, config: Config) -> None:
        """Put another configuration into effect: all of it, or nothing of it if there is an error.

        New connections belong to the new generation; those that exist keep theirs, but on routes that are removed or
        changed `on_remove` decides. A listener whose address both have stays open, whatever else about it changes; one
        that is removed accepts what waits in its backlog before it is closed. A Unix socket whose file is gone is bound
        again. To be called by one task at a time.

        Args:
            config: Checked.

        Raises:
            ListenError: An address cannot be had.
            ValueError: A file cannot be used.
            NotServingError: The server is shutting down.
        """
        before, tasks = self.generation, self._check_serving()
        generation = await self.read_files(lambda: self._build_generation(config, before.number + 1))
        await tasks.start(self._run_generation, generation)
        opened: list[OpenListener] = []
        reverts: list[Callable[[], None]] = []
        audit_log = self.services.audit_log
        try:
            kept = await self.read_files(lambda: self._kept_listeners(config))
            opened = await self._open_listeners(generation, kept=[one for one, _ in kept])
            sections = [(one, config.listeners[name]) for one, name in kept]
            await self.read_files(lambda: _update_files(sections, reverts))
            audit_log = await self.read_files(lambda: self.services.prepare_audit(config))
            self._check_serving()
        except BaseException:
            for one in opened:
                one.listening.close()
            for revert in reverts:
                revert()
            if audit_log is not self.services.audit_log and audit_log is not None:
                audit_log.close()
            generation.lifetime.supersede({})
            raise
        removed = [one for one in self.listeners if all(one is not other for other, _ in kept)]
        for one, name in kept:
            one.move(name, generation)
        self.listeners = [one for one, _ in kept]
        self.generation = generation
        self._add_listeners(opened)
        retired = self.services.configure(config, audit_log)
        if retired is not None:
            tasks.start_soon(self._close_audit_log, retired, [one for one in self.generations if one is not generation])
        self.max_connections = connection_limit(config)
        self._limit_admission()
        for one in removed:
            await self._finish_listener(one)
        before.lifetime.supersede(_removed_routes(before.config, config))

    def _check_serving(self) -> trio.Nursery:
        """Return the nursery of the generations.

        Raises:
            NotServingError: The server is shutting down, or has not started.
        """
        if self.services.stop_requested.is_set():
            raise NotServingError("wsbridge is shutting down")
        if self._generation_tasks is None:
            raise NotServingError("wsbridge is starting")
        return self._generation_tasks

    async def _close_audit_log(self, audit_log: AuditLog, generations: list[Generation]) -> None:
        """Close an audit log once no connection of these generations is left."""
        for generation in generations:
            await generation.lifetime.unused.wait()
        await trio.to_thread.run_sync(self.services.close_audit_log, audit_log)

    def _kept_listeners(self, config: Config) -> list[tuple[OpenListener, str]]:
        """Return the open listeners that a configuration has, too, each with its name there; runs in a thread."""
        names = {listener_key(name, section): name for name, section in config.listeners.items()}
        return [
            (one, names[one.listening.key])
            for one in self.listeners
            if one.listening.key in names and one.listening.is_reachable()
        ]

    async def _finish_listener(self, opened: OpenListener) -> None:
        """Accept what waits in the backlog of a listener that was removed, and close it."""
        await self._accept_backlog(opened)
        self._close_listener(opened)

    async def _accept_backlog(self, opened: OpenListener) -> None:
        """Accept what waits at a listener that is about to be closed."""
        assert self._connections is not None  # noqa: S101 (`run` is running)
        opened.listening.unlink()
        await opened.stop_accepting()
        for sock in opened.listening.sockets:
            while await accept_waiting(sock, opened, self, self._connections):
                await trio.lowlevel.checkpoint()

    async def _close_removed_routes(self, generation: Generation, routes: frozenset[str], drain: bool) -> None:
        """Close the connections of routes that are gone, those first that are relayed now; until cancelled."""
        timeouts = generation.config.timeouts
        if drain:
            await trio.sleep(timeouts.drain - timeouts.drain_spread)
        while True:
            found = [
                number
                for number in self.services.engine.connection_ids
                if (connection := self.connections.get(number)) is not None
                and connection.context.generation == generation.number
                and connection.context.route in routes
            ]
            await self._terminate(found, Reason.ROUTE_REMOVED, timeouts.drain_spread if drain else 0.0)
            await trio.sleep(REMOVED_ROUTE_INTERVAL)

    async def _drain(self) -> None:
        """Reject new clients after `drain_delay`, let connections end by themselves, then end them over `drain_spread`.

        The listeners stay open, so that clients get 503 with Retry-After instead of a refused connection, except those
        that have been released: nothing is accepted there, and who had connected before is served. It is over as soon
        as the last connection from before has ended, and at once when the server is to stop immediately.
        """
        timeouts = self.generation.config.timeouts
        with trio.CancelScope() as grace:
            if self._stop_immediately.is_set():
                grace.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_stop, grace)
                if self.listeners:
                    await trio.sleep(timeouts.drain_delay)
                    self.services.shutdown_reason = self.services.shutdown_reason or Reason.DRAINING
                last_id = self._last_id
                with trio.move_on_after(timeouts.drain - timeouts.drain_spread):
                    await self._wait_for_connections(last_id)
                self.services.released_listeners = frozenset()
                self.services.shutdown_reason = self.services.shutdown_reason or Reason.DRAINING
                self._cancel_waits()
                await self._terminate(self.services.engine.connection_ids, Reason.DRAINING, timeouts.drain_spread)
                with trio.move_on_after(timeouts.close):
                    await self._wait_for_connections(last_id)
                nursery.cancel_scope.cancel()
        if not self._stop_immediately.is_set():
            for opened in self.listeners:
                await self._accept_backlog(opened)

    async def _end_connections(self, connections: trio.Nursery) -> None:
        """Cut what is left."""
        self._cancel_waits()
        for connection_id in self.services.engine.connection_ids:
            self.services.engine.terminate(connection_id, self.services.shutdown_reason or Reason.SHUTDOWN)
        with trio.move_on_after(self.generation.config.timeouts.close):
            await self._wait_for_connections(self._last_id)
        connections.cancel_scope.cancel()

    async def _cancel_on_stop(self, drain_scope: trio.CancelScope) -> None:
        await self._stop_immediately.wait()
        drain_scope.cancel()

    async def _wait_for_connections(self, last_id: int) -> None:
        """Wait until no connection is left that is not newer than the one with this number."""
        while next(iter(self.connections), math.inf) <= last_id or (  # noqa: ASYNC110  an event would cost every connection
            last_id == self._last_id and self.services.active_overload_replies
        ):
            await trio.sleep(0.05)

    async def _terminate(self, connection_ids: list[int], reason: Reason, duration: float) -> None:
        """End what is relayed, one pair after the other, spread over the time; not longer than there are some."""
        began = trio.current_time()
        for number, connection_id in enumerate(connection_ids):
            if connection_id in self.connections:
                await trio.sleep_until(began + duration * number / len(connection_ids))
                self.services.engine.terminate(connection_id, reason)

    def _cancel_waits(self) -> None:
        """Cancel all waits: idle connections are closed; incomplete requests and requests during the dial get 503."""
        self.services.disconnect_monitor.cancel_all()
        for scope in list(self.services.request_read_scopes):
            scope.cancel()
