"""Server: listeners, generations of the configuration, and drain."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeVar

import trio

from wsbridge.accept import Acceptor, AcceptTask, OpenListener
from wsbridge.backends.base import DialServices
from wsbridge.config.listener import ListenerConfig
from wsbridge.config.model import Config
from wsbridge.file_watcher import FileWatcher
from wsbridge.generation import Generation, auth_services, build_generation
from wsbridge.limits.loop_lag import LoopLag
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.net.listeners import InheritedSockets, ListeningSockets, listener_key
from wsbridge.net.socket_activation import PassedSockets
from wsbridge.net.transport import set_socket_options
from wsbridge.reasons import Reason
from wsbridge.registry import LISTENERS
from wsbridge.services import Services
from wsbridge.sessions.store import MAX_ENDED_PER_TURN
from wsbridge.worker_thread import NoThreadError, run_in_thread


class NotServingError(Exception):
    """The server is shutting down or has not started, so that neither its configuration nor its state can change."""


STOP_MARGIN = 5.0
"""Seconds of a shutdown beside its timeouts, for tasks to end and the log to be written."""

FILES_TIMEOUT = 120.0
"""Seconds that reading and building a configuration may take in a reload; ten thousand routes take some ten."""
THREAD_RETRY_DELAY = 1.0
"""Seconds after which an audit log is closed for which there was no thread."""
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
        acceptor: Accepts connections, and bounds how many there are.
        connections: Those served now, by number, in whatever step.
        loop_lag: How late the event loop was.
        listeners: The open ones, in the order of the configuration.
        started: Set once these have been opened; only then can the configuration and the state change.
        passed_sockets: As given.
        is_draining: Whether new clients are rejected, or will be after `drain_delay`.
        save_sessions: Gives the sessions to the next process at the end of a graceful shutdown; None: they end.
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
        self._file_thread = trio.CapacityLimiter(1)  # held as long as a thread runs, also an abandoned one
        self._stop_immediately = trio.Event()
        self._starting = trio.CancelScope()
        self._drain_delay = trio.CancelScope()
        self.is_draining = False
        self.has_successor = False
        self.save_sessions: Callable[[], Awaitable[None]] | None = None
        self.loop_lag = LoopLag()
        self.listeners: list[OpenListener] = []
        self.started = trio.Event()
        self.services = Services(config, one_connection=one_connection, open_level=open_level)
        self.acceptor = Acceptor(config, self.services)
        self.connections = self.acceptor.connections
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
            services.resolver,
            config.limits.max_response_head_bytes,
            services.listening_addresses,
            watcher,
            services.tls,
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

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send clients here: it is open, does not drain, and has room."""
        return bool(self.listeners) and not self.is_draining and self.acceptor.has_room

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
                engine.start_soon(self.services.runner.run)
                self._generation_tasks = engine
                await engine.start(self._run_generation, self.generation)
                async with self.acceptor, trio.open_nursery() as connections:
                    self._connections = connections
                    async with trio.open_nursery() as accepting:
                        self._accepting = accepting
                        with self._starting:
                            self._add_listeners(await self._open_listeners(self.generation, on_bound))
                            self.started.set()
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
            self.acceptor.close()
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
                    found.append(OpenListener(listening, generation.listeners[name], generation, self.connections))
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
                self._accepting.start_soon(self.acceptor.run, task, opened, self._connections)
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
        for opened in [one for one in released if one in self.listeners]:  # a stop may have released it
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
            ValueError: It takes longer than FILES_TIMEOUT, or one that did has not returned since; there is no thread.
        """
        if self._file_thread.borrowed_tokens:
            raise ValueError("a file system has not responded since an earlier reload")
        with trio.move_on_after(FILES_TIMEOUT):
            try:
                return await run_in_thread(read, self._file_thread)
            except NoThreadError as error:
                raise ValueError(f"the files cannot be read: {error.strerror}") from None
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
        self.acceptor.configure(config)
        for one in removed:
            await self._finish_listener(one)
        before.lifetime.supersede(_removed_routes(before.config, config))
        self.services.sessions.set_routes(config.routes)

    def _check_serving(self) -> trio.Nursery:
        """Return the nursery of the generations.

        Raises:
            NotServingError: The server is shutting down, or has not started.
        """
        if self.services.stop_requested.is_set():
            raise NotServingError("wsbridge is shutting down")
        if self._generation_tasks is None or not self.started.is_set():
            raise NotServingError("wsbridge is starting")
        return self._generation_tasks

    async def _close_audit_log(self, audit_log: AuditLog, generations: list[Generation]) -> None:
        """Close an audit log once no connection of these generations is left."""
        for generation in generations:
            await generation.lifetime.unused.wait()
        while True:
            try:
                await run_in_thread(partial(self.services.close_audit_log, audit_log), abandon_on_cancel=False)
            except NoThreadError:  # it can wait: the end of the server closes it, too
                await trio.sleep(THREAD_RETRY_DELAY)
            else:
                return

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
            while await self.acceptor.accept_waiting(sock, opened, self._connections):
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
            self.services.sessions.end_of_routes(generation, routes)
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
                last_id = self.acceptor.last_id
                if self.save_sessions is None:
                    self.services.sessions.announce_drain(timeouts.retry_after, timeouts.drain_spread)
                with trio.move_on_after(timeouts.drain - timeouts.drain_spread):
                    await self._wait_for_connections(last_id)
                self.services.released_listeners = frozenset()
                self.services.shutdown_reason = self.services.shutdown_reason or Reason.DRAINING
                self._cancel_waits()
                ending = [number for number in self.services.engine.connection_ids if not self._is_saved(number)]
                await self._terminate(ending, Reason.DRAINING, timeouts.drain_spread)
                with trio.move_on_after(timeouts.close):
                    await self._wait_for_connections(last_id)
                if self.save_sessions is not None:
                    await self.save_sessions()
                nursery.cancel_scope.cancel()
        if not self._stop_immediately.is_set():
            for opened in self.listeners:
                await self._accept_backlog(opened)

    async def _end_connections(self, connections: trio.Nursery) -> None:
        """Cut what is left."""
        self._cancel_waits()
        reason = self.services.shutdown_reason or Reason.SHUTDOWN
        for number, connection_id in enumerate(self.services.engine.connection_ids, 1):
            self.services.engine.terminate(connection_id, reason)
            if not number % MAX_ENDED_PER_TURN:
                await trio.lowlevel.checkpoint()
        await self.services.sessions.end_all(reason)
        with trio.move_on_after(self.generation.config.timeouts.close):
            await self._wait_for_connections(self.acceptor.last_id)
            await self.services.sessions.wait_until_empty()
        connections.cancel_scope.cancel()

    async def _cancel_on_stop(self, drain_scope: trio.CancelScope) -> None:
        await self._stop_immediately.wait()
        drain_scope.cancel()

    async def _wait_for_connections(self, last_id: int) -> None:
        """Wait until no connection is left that is not newer than the one with this number.

        The transports of sessions do not count, as long as these are to go on in the next process.
        """
        while next(self._unsaved_connections(), math.inf) <= last_id or (  # noqa: ASYNC110  an event would cost every connection
            last_id == self.acceptor.last_id and self.services.active_overload_replies
        ):
            await trio.sleep(0.05)

    def _unsaved_connections(self) -> Iterator[int]:
        return (number for number in self.connections if not self._is_saved(number))

    def _is_saved(self, connection_id: int) -> bool:
        """Return whether a connection is the transport of a session that is to go on in the next process."""
        return self.save_sessions is not None and self.services.engine.carries_session(connection_id)

    async def _terminate(self, connection_ids: list[int], reason: Reason, duration: float) -> None:
        """End what is relayed, one pair after the other, spread over the time; not longer than there are some."""
        began = trio.current_time()
        for number, connection_id in enumerate(connection_ids):
            due = began + duration * number / len(connection_ids)
            await trio.lowlevel.checkpoint()
            while connection_id in self.connections and trio.current_time() < due:  # noqa: ASYNC110  as above
                await trio.sleep_until(min(due, trio.current_time() + 0.05))
            if connection_id in self.connections:
                is_lost = self.has_successor and self.services.engine.carries_session(connection_id)
                self.services.engine.terminate(connection_id, Reason.SESSION_LOST if is_lost else reason)

    def _cancel_waits(self) -> None:
        """Cancel all waits: idle connections are closed; incomplete requests and requests during the dial get 503."""
        self.services.disconnect_monitor.cancel_all()
        self.services.runner.cut_waits()
        for scope in list(self.services.request_read_scopes):
            scope.cancel()
