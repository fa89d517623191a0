"""The process around a server: file descriptor limit, signals, sd_notify."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

import trio

from wsbridge import __version__, native
from wsbridge.accept import reserved_descriptors
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import AdminEndpoint, build_endpoints
from wsbridge.admin.metrics import Metrics
from wsbridge.admin.stored_sessions import StoredSessions
from wsbridge.admin.takeover import Handover, Takeover
from wsbridge.config.base import KeyPath
from wsbridge.config.load import LoadedConfig
from wsbridge.config.model import Config
from wsbridge.engine_choice import choose_engine
from wsbridge.limits.memory import keep_freed_memory
from wsbridge.log.logger import log
from wsbridge.log.writer import LogWriter
from wsbridge.net.listeners import InheritedSockets, ListeningSockets
from wsbridge.net.socket_activation import UNUSED_SOCKET_PROBLEM, receive_sockets
from wsbridge.net.tls import silence_sni_decode_errors
from wsbridge.pressure import watch_loop, watch_memory
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.session_stream import MAX_KEPT_READ_BYTES
from wsbridge.reload import NO_FILE, Reloader, ReloadResult
from wsbridge.revocation import watch_access_lists
from wsbridge.server import Server
from wsbridge.sessions.handover import SessionAdopter
from wsbridge.watchdog import feed_watchdog

KEPT_STATES: Final = frozenset({"READY", "RELOADING", "STOPPING"})
"""Assignments that a service manager must not miss: it would end a service that never becomes ready."""

MAX_UNSENT: Final = 16
"""Datagrams that wait for a manager that does not read; more replace the oldest."""


BUSY_ERRNOS: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors after which the same datagram may be sent later."""


class SystemdNotifier:
    """Reports the state of the daemon to the service manager (sd_notify(3)). Its methods never block and never raise.

    It keeps its socket from the first datagram on: without a free descriptor the watchdog is to be fed all the same.

    Args:
        environ: Where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up, once.

    Attributes:
        watchdog_timeout: Seconds after which the manager kills a daemon that does not call `watchdog`; None without
            `WatchdogSec=`.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else ""
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._socket: socket.socket | None = None
        self.watchdog_timeout: float | None = None
        microseconds = environ.get("WATCHDOG_USEC", "")
        if (
            microseconds.isdecimal()
            and int(microseconds) > 0
            and environ.get("WATCHDOG_PID") in (None, f"{os.getpid()}")
        ):
            self.watchdog_timeout = int(microseconds) / 1e6

    def close(self) -> None:
        """Close the socket; nothing is sent any more."""
        self._address = ""
        self._unsent.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __bool__(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """Report that all listeners are open: `systemctl start` returns, and units that wait for this one start."""
        return self.notify(READY="1", STATUS=status)

    def status(self, text: str) -> bool:
        """Set the status line of `systemctl status`."""
        return self.notify(STATUS=text)

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it, whether it failed or not."""
        return self.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self, status: str = "") -> bool:
        """Report that the shutdown has begun."""
        return self.notify(STOPPING="1", STATUS=status)

    def extend_timeout(self, seconds: float, status: str = "") -> bool:
        """Ask for this much time until the next message, if a timeout of the unit ends before."""
        return self.notify(EXTEND_TIMEOUT_USEC=str(round(seconds * 1e6)), STATUS=status)

    def watchdog(self) -> bool:
        """Report that the daemon works; to be called at least every `watchdog_timeout`."""
        return self.notify(WATCHDOG="1")

    def notify(self, **state: str) -> bool:
        """Send assignments such as `READY="1"` in one datagram; empty ones are omitted.

        Returns:
            Whether the datagram was sent.
        """
        lines = [f"{key}={' '.join(value.split())}" for key, value in state.items() if value]
        if not self._address or not lines:
            return False
        self._unsent.append("\n".join(lines).encode("utf-8", "replace"))
        if self.resend():
            return True
        if self._unsent and not KEPT_STATES & state.keys():
            self._unsent.pop()
        return False

    def resend(self) -> bool:
        """Send what a busy manager has not accepted yet, in its order; to be called again and again.

        Returns:
            Whether nothing is left.
        """
        try:
            while self._unsent:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._socket.sendto(self._unsent[0], self._address)
                self._unsent.popleft()
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno not in BUSY_ERRNOS:  # nobody is there; a NUL in the path
                self._unsent.clear()
            return False
        return True


@contextlib.contextmanager
def held_hangups() -> Iterator[None]:
    """Keep SIGHUP from ending a process that is to reload by it, but still starts: it waits until `serve` handles it.

    The file may have changed after it was read. To be entered in the main thread, before others are started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        signal.sigtimedwait([signal.SIGHUP], 0)  # one that came, and that nothing has handled, since the start failed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


YOUNG_OBJECTS = 5000
"""Objects after which the garbage collector looks for cycles among them: those of a connection have none, and most have
gone by then."""

KEPT_MEMORY_BYTES = 16777216
"""Freed memory that stays with a process whose routes have resumable sessions."""

STATUS_INTERVAL = 5.0
"""Seconds between two reports of the number of connections to the service manager."""

STOP_EXTENSION = 15.0
"""Seconds that a report during the shutdown asks for; three times the interval, since a report may be late."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, if the system allows it, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # the latter for EPERM: fs.nr_open was set below the hard limit
            return soft
    return hard


def _warn_descriptor_limit(config: Config, descriptors: int) -> None:
    """Warn of a connection limit that the limit of open files does not allow."""
    wanted, reserved = config.limits.connections, reserved_descriptors(choose_engine(config))
    if isinstance(wanted, int) and 2 * wanted + reserved > descriptors:
        log.warning(
            "config.warning",
            problem="W014",
            setting="limits.connections",
            detail=f"{wanted} connections need up to {2 * wanted + reserved} open files, and the limit is"
            f" {descriptors}: raise it (LimitNOFILE= of a systemd unit), or set at most"
            f" {max(1, (descriptors - reserved) // 2)}",
        )


@dataclass(frozen=True, slots=True)
class ServeResult:
    """How serving ended.

    Attributes:
        signal: The first signal that ended it; None if it ended by itself.
        termination: With `one_connection`, how that connection ended; None if there was none.
    """

    signal: signal.Signals | None
    termination: Termination | None


def _warn_unused_sockets(server: Server) -> None:
    """Warn of passed sockets that no listener has: nobody accepts the clients that connect there."""
    for name in server.passed_sockets.unused(server.generation.config.listeners.values()):
        log.warning(
            "config.warning",
            problem=UNUSED_SOCKET_PROBLEM,
            setting="listeners",
            detail=f'a socket with the name "{name}" was passed (FileDescriptorName= of a .socket unit), and no '
            f"listener has bind: fd:{name}; clients that connect to it wait forever",
        )


def _warn_memory_limit() -> None:
    """Warn of a limit of the address space: at it, any allocation may fail."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        log.warning(
            "config.warning",
            problem="W019",
            detail=f"the address space is limited to {limit // 2**20} MiB (LimitAS=, ulimit -v): a process whose "
            "allocations fail may hang instead of ending; limit memory with MemoryMax= of the systemd unit",
        )


def _warn_at_start(config: Config) -> None:
    """Warn of what the process has found, and may not change while it runs."""
    _warn_descriptor_limit(config, raise_descriptor_limit())
    _warn_memory_limit()
    _warn_unusable_engine(config)


def _engine_threads(server: Server) -> dict[str, int]:
    """Return the threads of an engine that has any, as a field of the log."""
    threads = server.services.engine_choice.threads
    return {"engine_threads": threads} if threads else {}


def _warn_unusable_engine(config: Config) -> None:
    """Warn of a native engine that is installed and cannot be used."""
    extension = native.find_extension()
    if config.engine == "auto" and extension.is_broken:
        log.warning("config.warning", problem="W034", setting="engine", detail=f"Python relays: {extension.problem}")


def _settle_garbage_collector() -> None:
    """Have it leave alone what lives as long as the process, and look at connections less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _keep_memory_of_sessions(config: Config) -> None:
    """Have malloc keep what is freed, where a route has sessions: they allocate it again soon after.

    Otherwise the kernel clears each page again, which costs sessions a tenth of their speed. This is decided once, when
    the process starts; a reload does not change it.
    """
    if any(route.resume is not None for route in config.routes.values()):
        keep_freed_memory(KEPT_MEMORY_BYTES, 2 * MAX_KEPT_READ_BYTES)


async def serve(
    config: Config,
    *,
    one_connection: bool = False,
    open_level: Literal["debug", "info"] = "debug",
    on_ready: Callable[[list[ListeningSockets]], None] = lambda _: None,
    extra_task: Callable[[Server], Awaitable[None]] | None = None,
    handle_signals: bool = True,
    stop_on_hangup: bool = False,
    exits: bool = False,
    load: Callable[[], LoadedConfig] | None = None,
    on_reloaded: Callable[[Config], None] = lambda _: None,
    references: Mapping[KeyPath, str] = MappingProxyType({}),
    take_over: str | None = None,
    log_writer: LogWriter | None = None,
) -> ServeResult:
    """Serve until a signal, or until the one connection of `one_connection` has ended.

    SIGTERM: graceful shutdown. SIGINT and any second signal: immediate shutdown, within `close`. SIGHUP: reload; where
    there is no file to read again, it is logged and ignored.

    Args:
        config: Checked.
        one_connection: See `Server`.
        open_level: Level of `connection.open`.
        on_ready: Called once all listeners are open.
        extra_task: A task to run in the nursery of the connections.
        handle_signals: Whether to handle the signals of the process.
        stop_on_hangup: Whether SIGHUP is an immediate shutdown, for commands of a terminal or of ssh, which send it
            when they end. If SIGHUP was ignored when the process started (nohup), it stays ignored.
        exits: Whether the process ends afterwards: later signals are ignored, so that the log is written to its end
            and the exit code stays.
        load: Reads the configuration again, in a thread, for a reload; None: it cannot be reloaded.
        on_reloaded: Called with each configuration that a reload has put into effect.
        references: What the file has where values refer to environment variables.
        take_over: Admin socket of a running process, whose listening sockets this one gets; see `admin.takeover`.
        log_writer: Writes the log, and knows what was lost of it.

    Raises:
        ListenError: An address cannot be bound.
        TakeoverError: The running process does not hand over its sockets.
        ValueError: A file that the configuration names cannot be used.
    """
    _warn_at_start(config)
    silence_sni_decode_errors()
    notifier = SystemdNotifier()
    server = Server(
        config, one_connection=one_connection, open_level=open_level, passed_sockets=receive_sockets(os.environ)
    )

    stored = StoredSessions(server, os.environ)

    def opened(listening: list[ListeningSockets]) -> None:
        _settle_garbage_collector()
        _keep_memory_of_sessions(config)
        log.info(
            "daemon.ready",
            version=__version__,
            pid=os.getpid(),
            engine=server.services.engine.name,
            **_engine_threads(server),
            listeners=[address for one in listening for address in one.addresses],
            routes=len(config.routes),
            connections_limit=server.acceptor.max_connections,
        )
        _warn_unused_sockets(server)
        notifier.ready(_status(server))
        nursery.start_soon(watch_memory, server)
        nursery.start_soon(watch_loop, server)
        nursery.start_soon(watch_access_lists, server)
        nursery.start_soon((stored if takeover is None else takeover).adopt_sessions, _session_adopter(server))
        on_ready(listening)

    received: list[signal.Signals] = []
    takeover = None if take_over is None else await Takeover.begin(take_over)
    inherited = InheritedSockets() if takeover is None else takeover.sockets
    async with trio.open_nursery() as nursery:
        endpoints: list[AdminEndpoint] = []
        reloader = Reloader(server, load, on_reloaded, endpoints, references)
        hand_over = Handover(server, endpoints, reloader, os.environ).handle
        metrics = Metrics(server, reloader, log_writer)
        admin = AdminApi(server, reloader, partial(reload, server, notifier, reloader), hand_over, metrics)
        endpoints += build_endpoints(admin, MonitoringApi(server, metrics), os.environ, nursery, inherited)
        try:
            for endpoint in endpoints:
                await endpoint.prepare(config)
                if takeover is None:
                    endpoint.commit()
            if handle_signals:
                await nursery.start(_handle_signals, server, notifier, reloader, stop_on_hangup, exits, received)
            _start_notifications(nursery, server, notifier)
            await server.run(opened, extra_task, inherited, partial(_begin, takeover, stored, server, endpoints))
        finally:
            for closed in (*endpoints, stored, notifier, *((takeover,) if takeover else ())):
                closed.close()
            nursery.cancel_scope.cancel()
    log.info("daemon.stopped", connections=len(server.connections))
    return ServeResult(received[0] if received else None, server.services.only_termination)


async def _begin(
    takeover: Takeover | None, stored: StoredSessions, server: Server, endpoints: Sequence[AdminEndpoint]
) -> None:
    """Get what another process has, now that all is bound and before the first client: its sockets, its sessions."""
    await stored.read_list()
    if takeover is not None:
        await takeover.complete(server.services.sessions)
        server.services.used_tickets.reject_earlier(time.time())
        for endpoint in endpoints:
            endpoint.commit()


def _session_adopter(server: Server) -> SessionAdopter:
    """Return what adopts the sessions of another process."""
    return SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)


async def _handle_signals(
    server: Server,
    notifier: SystemdNotifier,
    reloader: Reloader,
    stop_on_hangup: bool,
    exits: bool,
    received: list[signal.Signals],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Stop or reload by the signals of the process; append those that stop it to `received`."""
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    numbers = (signal.SIGTERM, signal.SIGINT, *hangup)
    unhandled: list[int] = []  # before the receiver is open, and after it is closed
    before = {number: signal.signal(number, lambda number, _: unhandled.append(number)) for number in numbers}
    try:
        with trio.open_signal_receiver(*numbers) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, hangup)
            async with trio.open_nursery() as nursery:

                def handle(number: int) -> None:
                    if number != signal.SIGHUP or stop_on_hangup:
                        _stop(server, notifier, signal.Signals(number), received)
                    elif not reloader.can_reload:
                        log.warning("daemon.signal_ignored", signal="SIGHUP", detail=NO_FILE)
                    elif not reloader.is_queued:
                        nursery.start_soon(reload, server, notifier, reloader)

                task_status.started()
                for number in unhandled:
                    handle(number)
                async for number in signals:
                    handle(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if exits else handler)


def _stop(server: Server, notifier: SystemdNotifier, number: signal.Signals, received: list[signal.Signals]) -> None:
    """Begin a shutdown: graceful for the first SIGTERM, immediate for everything else."""
    received.append(number)
    first = not server.services.stop_requested.is_set()
    reason = Reason.DRAINING if number == signal.SIGTERM and first else Reason.SHUTDOWN
    notifier.stopping(f"{number.name}: {reason.value}, {len(server.connections)} connections left")
    log.info("daemon.draining", signal=number.name, reason=reason.value, connections=len(server.connections))
    server.stop(reason)


async def reload(server: Server, notifier: SystemdNotifier, reloader: Reloader) -> ReloadResult:
    """Reload, and report the beginning and the end to the service manager, which waits for it."""
    try:
        result = await reloader.reload(notifier.reloading)
    finally:
        if server.started.is_set() and not server.services.stop_requested.is_set():
            notifier.ready(_status(server))
    if result.error is None:
        _warn_descriptor_limit(server.generation.config, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _warn_unused_sockets(server)
    return result


def _status(server: Server) -> str:
    """One line for the service manager."""
    addresses = [address for opened in server.listeners for address in opened.listening.addresses]
    return f"serving {len(server.generation.routes)} routes at {len(addresses)} addresses"


def _start_notifications(nursery: trio.Nursery, server: Server, notifier: SystemdNotifier) -> None:
    if notifier:
        nursery.start_soon(_report_status, server, notifier)
        nursery.start_soon(_report_stop, server, notifier)
    if notifier and notifier.watchdog_timeout is not None:
        nursery.start_soon(feed_watchdog, server, notifier.watchdog, notifier.watchdog_timeout)


async def _report_status(server: Server, notifier: SystemdNotifier) -> None:
    reported = -1
    while True:
        notifier.resend()
        if len(server.connections) != reported and not server.is_draining:
            reported = len(server.connections)
            notifier.status(f"{reported} connections of at most {server.acceptor.max_connections}")
        await trio.sleep(STATUS_INTERVAL)


async def _report_stop(server: Server, notifier: SystemdNotifier) -> None:
    """Once the shutdown has begun, report the connections left, and ask for as much time as it may last."""
    await server.services.stop_requested.wait()
    deadline = trio.current_time() + server.max_stop_time
    while (left := deadline - trio.current_time()) > 0:
        notifier.extend_timeout(min(left, STOP_EXTENSION), f"stopping: {len(server.connections)} connections left")
        await trio.sleep(min(left, STATUS_INTERVAL))
