"""The process around the server: file descriptors, signals, the service manager; `process` tests it as a whole."""

import contextlib
import os
import resource
import signal
import socket
import time

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.serving import config_of, recording, written
from wsbridge import daemon
from wsbridge.accept import reserved_descriptors
from wsbridge.context import ConnectionContext
from wsbridge.engine_choice import choose_engine, describe_engine
from wsbridge.net.listeners import ListenError
from wsbridge.registry import LISTENERS
from wsbridge.relay.session_stream import MAX_KEPT_READ_BYTES

LIMITS = resource.getrlimit
CONFIG = written(route={"respond": "204"}, timeouts={"drain": "0s", "drain_spread": "0s", "close": "300ms"})


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A socket in place of that of the service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def notified(sock):
    """Return all that the service manager was sent."""
    lines = []
    while True:
        try:
            lines += sock.recv(4096).decode().splitlines()
        except BlockingIOError:
            return lines


@pytest.fixture
def small_limit():
    """A soft limit of open files below the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 100, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_lifted(small_limit):
    """The process may open as many descriptors as the hard limit allows."""
    assert daemon.raise_descriptor_limit() == small_limit
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == small_limit
    assert daemon.raise_descriptor_limit() == small_limit


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
def test_a_soft_limit_that_cannot_be_lifted_stays(error, small_limit, monkeypatch):
    """As where fs.nr_open was set below the hard limit: that is no error of the configuration."""

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", fail)
        assert daemon.raise_descriptor_limit() == small_limit - 100


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "draining"), (signal.SIGINT, "shutdown"), (signal.SIGHUP, "shutdown")]
)
async def test_a_signal_ends_it(number, reason, manager):
    """The manager hears READY, then STOPPING with the reason; the log has the same, from ready to stop."""
    with recording() as records:
        with trio.fail_after(9):
            result = await daemon.serve(
                config_of(CONFIG), on_ready=lambda _: os.kill(os.getpid(), number), stop_on_hangup=True
            )
    assert (result.signal, result.termination) == (number, None)
    lines = notified(manager)
    assert lines.index("READY=1") < lines.index("STOPPING=1")
    assert any(line.startswith("STATUS=serving 1 routes at 1 addresses") for line in lines)
    assert f"STATUS={number.name}: {reason}, 0 connections left" in lines
    (ready,) = records.of("daemon.ready")
    assert ready["pid"] == os.getpid()
    assert ready["engine"] == describe_engine()[0].partition(" ")[0]
    assert ready["listeners"][0].startswith("127.0.0.1:")
    (drain,) = records.of("daemon.draining")
    assert (drain["signal"], drain["reason"]) == (number.name, reason)
    assert records.all[-1]["event"] == "daemon.stopped"


@pytest.mark.parametrize("sessions", [True, False])
async def test_memory_is_kept_for_sessions_only(sessions, monkeypatch):
    """How malloc gives memory back is changed only where a route has resumable sessions."""
    changed = []
    monkeypatch.setattr(daemon, "keep_freed_memory", lambda kept, largest: changed.append((kept, largest)))
    route = {"backend": "tcp://127.0.0.1:9", **({"resume": {}} if sessions else {})}
    timeouts = {"drain": "0s", "drain_spread": "0s", "close": "300ms"}
    with recording(), trio.fail_after(9):
        await daemon.serve(
            config_of(written(route=route, timeouts=timeouts)), on_ready=lambda _: os.kill(os.getpid(), signal.SIGINT)
        )
    assert changed == ([(16777216, 2 * MAX_KEPT_READ_BYTES)] if sessions else [])


async def test_a_hangup_is_logged_and_ignored():
    """SIGHUP, which a hook of certbot sends, ends neither the daemon nor its connections."""

    async def beside(server):
        os.kill(os.getpid(), signal.SIGHUP)
        while not records.of("daemon.signal_ignored"):
            await trio.sleep(0.01)
        assert server.services.shutdown_reason is None
        os.kill(os.getpid(), signal.SIGINT)

    with recording() as records, trio.fail_after(9):
        result = await daemon.serve(config_of(CONFIG), extra_task=beside)
    assert [record["signal"] for record in records.of("daemon.signal_ignored")] == ["SIGHUP"]
    assert result.signal == signal.SIGINT


async def test_a_reload_that_waits_for_a_start_that_fails_reports_nothing(manager, monkeypatch):
    """READY=1 would have the service manager start what needs this service."""

    async def listen(name, config):
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_all_tasks_blocked()
        raise ListenError(name, config.bind, "address already in use")

    monkeypatch.setitem(LISTENERS, "tcp", listen)
    with recording(), trio.fail_after(5), pytest.raises(ExceptionGroup):
        await daemon.serve(config_of(written(route={"respond": "204"})), load=pytest.fail)
    assert all(line.startswith("STATUS=") for line in notified(manager))


async def test_a_hangup_that_is_ignored_stays_so():
    """Under nohup the end of the terminal ends nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def beside(server):
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.sleep(0.05)
        assert server.services.shutdown_reason is None
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with recording() as records, trio.fail_after(9):
            await daemon.serve(config_of(CONFIG), extra_task=beside, stop_on_hangup=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [record["signal"] for record in records.of("daemon.draining")] == ["SIGINT"]


async def test_a_busy_manager_gets_ready_later(manager, monkeypatch):
    """READY=1 is not lost while the queue of the service manager is full, as during a boot; STATUS= and others are."""
    monkeypatch.setattr(daemon, "STATUS_INTERVAL", 0.02)
    is_full = False
    while not is_full:  # one socket may send less than the queue holds
        with contextlib.closing(daemon.SystemdNotifier()) as other:
            is_full = not other.notify(X="1")

    async def beside(server):
        lines = notified(manager)
        assert set(lines) == {"X=1"}
        while "READY=1" not in lines:
            await trio.sleep(0.01)
            lines += notified(manager)
        os.kill(os.getpid(), signal.SIGINT)

    with recording(), trio.fail_after(5):
        await daemon.serve(config_of(CONFIG), extra_task=beside)
    assert [line for line in notified(manager) if line in ("READY=1", "STOPPING=1")] == ["STOPPING=1"]


async def test_the_status_follows_the_count(manager, monkeypatch):
    """STATUS= has the number of connections, and is sent only when that has changed."""
    monkeypatch.setattr(daemon, "STATUS_INTERVAL", 0.02)

    counts = []

    async def reported(count):
        while not counts or counts[-1] != count:
            await trio.sleep(0.01)
            counts.extend(line.split()[0] for line in notified(manager) if "connections of at most" in line)

    async def beside(server):
        await reported("STATUS=0")
        server.connections.update({-number: ConnectionContext() for number in range(1, 6)})
        await reported("STATUS=5")
        server.connections.clear()
        await reported("STATUS=0")
        await trio.sleep(0.1)  # five more intervals without a change
        counts.extend(line.split()[0] for line in notified(manager) if "connections of at most" in line)
        os.kill(os.getpid(), signal.SIGINT)

    with recording(), trio.fail_after(10):
        await daemon.serve(config_of(CONFIG), extra_task=beside)
    assert counts == ["STATUS=0", "STATUS=5", "STATUS=0"]


async def test_without_signals_they_are_left_alone():
    """`signals=False` leaves the handlers of the process as they are."""
    before = signal.getsignal(signal.SIGTERM)

    async def beside(server):
        assert signal.getsignal(signal.SIGTERM) is before
        server.stop(daemon.Reason.SHUTDOWN)

    with recording(), trio.fail_after(9):
        await daemon.serve(config_of(CONFIG), extra_task=beside, handle_signals=False)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_cap_that_the_limit_of_open_files_forbids_is_warned_of(over):
    """The warning says what is needed, what there is and what would do; a cap that fits is not warned of."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = (hard - reserved_descriptors(choose_engine(config_of(CONFIG)))) // 2
    text = written(route={"respond": "204"}, limits={"connections": str(most + over)})
    with recording() as records, trio.fail_after(9):
        await daemon.serve(config_of(text), on_ready=lambda _: os.kill(os.getpid(), signal.SIGINT))
    warnings = records.of("config.warning", problem="W014", setting="limits.connections")
    assert len(warnings) == over
    assert all(f"the limit is {hard}:" in line["detail"] for line in warnings)
    assert all(line["detail"].endswith(f"set at most {most}") for line in warnings)


@pytest.mark.parametrize(("pid", "fed"), [(None, True), ("own", True), ("1", False)])
async def test_the_watchdog_is_fed_by_the_loop(manager, monkeypatch, pid, fed):
    """Twice within `WatchdogSec=`, where that is meant for this process; a task that never yields ends it."""
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    if pid is None:
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    while_stuck = None

    async def beside(_server):
        nonlocal while_stuck
        before = []
        if fed:
            while before.count("WATCHDOG=1") < 3:
                await trio.sleep(0.01)
                before += notified(manager)
        else:
            await trio.sleep(0.3)  # three times WatchdogSec=
            assert "WATCHDOG=1" not in notified(manager)
        time.sleep(0.3)  # blocks the event loop, as a task that never yields does
        while_stuck = notified(manager)
        os.kill(os.getpid(), signal.SIGINT)

    with recording(), trio.fail_after(9):
        await daemon.serve(config_of(CONFIG), extra_task=beside)
    assert "WATCHDOG=1" not in while_stuck


async def test_a_limited_address_space_is_warned_of(monkeypatch):
    """The warning names the limit, and what to set in its place."""
    monkeypatch.setattr(
        daemon.resource, "getrlimit", lambda kind: (2**31, 2**31) if kind == resource.RLIMIT_AS else LIMITS(kind)
    )
    with recording() as records, trio.fail_after(9):
        await daemon.serve(config_of(CONFIG), on_ready=lambda _: os.kill(os.getpid(), signal.SIGINT))
    (warning,) = records.of("config.warning", problem="W019")
    assert "2048 MiB" in warning["detail"]
    assert "MemoryMax=" in warning["detail"]
