"""A stand-in for systemd as PID 1: it binds sockets, passes them, is notified, and restarts the service."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from tests.process.daemon import PATIENCE, Daemon

PASS_DESCRIPTORS = """
import fcntl, os, sys
count = int(sys.argv[1])
passed = [int(number) for number in sys.argv[2:2 + count]]
above = max([3 + count, *passed]) + 1
high = [fcntl.fcntl(number, fcntl.F_DUPFD, above) for number in passed]
for at, number in enumerate(high):
    os.dup2(number, 3 + at)
os.closerange(3 + count, above + count + 1)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""
"""What systemd does between fork and exec: descriptors from 3 on, and LISTEN_PID of the process that is to be."""

_UCRED = struct.Struct("3i")


class PassingDaemon(Daemon):
    """A daemon that gets sockets.

    Args:
        text: As for `Daemon`.
        sockets: The listening sockets, each with its name (FileDescriptorName=).
        environ: Further variables.
        stored: Descriptors from the store, each with its name; closed once the process has them.
    """

    def __init__(
        self,
        text: str,
        sockets: list[tuple[str, socket.socket]],
        environ: dict[str, str] | None = None,
        stored: list[tuple[str, int]] | None = None,
    ) -> None:
        super().__init__(text)
        self._sockets = sockets
        self._environ = environ or {}
        self._stored = stored or []

    def start(self, command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the process."""
        numbers = [*(sock.fileno() for _, sock in self._sockets), *(number for _, number in self._stored)]
        arguments = [str(len(numbers)), *map(str, numbers)]
        environ = {
            **environ,
            **self._environ,
            "LISTEN_FDS": str(len(numbers)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in [*self._sockets, *self._stored]),
        }
        return subprocess.Popen(
            [sys.executable, "-IS", "-c", PASS_DESCRIPTORS, *arguments, *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=self.folder,
            pass_fds=numbers,
        )


class ServiceManager:
    """Runs a `wsbridge.service` with `wsbridge.socket`, like systemd; use it as a context manager.

    The sockets stay open for as long as it lives. Notifications count only if they come from the main process
    (NotifyAccess=main). A stop sends SIGTERM, and SIGKILL after `stop_timeout` (TimeoutStopSec=), which
    EXTEND_TIMEOUT_USEC extends. A main process that is killed is restarted (Restart=on-failure). What a process puts
    into the file descriptor store is passed to the next one behind the sockets, the latest first.

    Args:
        text: The configuration.
        sockets: The listening sockets, each with its name.
        stop_timeout: In seconds.
        store_max: Descriptors that the store takes (FileDescriptorStoreMax=); further ones are closed.

    Attributes:
        text: The configuration, for the next start.
        stored: What is in the store, the latest first: names and descriptors.
        daemons: Those that were started, the last of them running.
        states: What the main processes have sent, in order.
        killed: Whether a stop took longer than the timeout.
    """

    def __init__(
        self,
        text: str,
        sockets: list[tuple[str, socket.socket]],
        *,
        stop_timeout: float = 30.0,
        store_max: int = 0,
    ) -> None:
        self.text = text
        self.stored: list[tuple[str, int]] = []
        self._store_max = store_max
        self._sockets = sockets
        self._stop_timeout = stop_timeout
        self._stop_deadline = 0.0
        self._closing = False
        self._lock = threading.Lock()
        self._more = threading.Condition()
        self._restarting = contextlib.ExitStack()
        self.daemons: list[PassingDaemon] = []
        self.states: list[tuple[int, dict[str, str]]] = []
        self.killed = False
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._address = f"wsbridge-test-{os.getpid()}-{id(self)}"
        self._notify.bind(f"\0{self._address}")

    def __enter__(self) -> Self:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for daemon in self.daemons:
            daemon.__exit__()
        self._notify.shutdown(socket.SHUT_RD)
        self._reader.join(PATIENCE)
        self._notify.close()
        self.empty_store()

    def empty_store(self) -> None:
        """Close what is in the store."""
        with self._more:
            for _, number in self.stored:
                os.close(number)
            self.stored = []

    @property
    def daemon(self) -> PassingDaemon:
        """The last that was started."""
        return self.daemons[-1]

    def start(self) -> None:
        """Start the service, and wait until it is ready."""
        environ = {"NOTIFY_SOCKET": f"@{self._address}"}
        if self._store_max:
            environ["FDSTORE"] = str(self._store_max)
        daemon = PassingDaemon(self.text, self._sockets, environ, list(self.stored))
        self.daemons.append(daemon)
        daemon.__enter__()
        self.wait("READY", "1", daemon.pid)

    def stop(self) -> None:
        """Stop the service, and wait for its end."""
        self._stop_deadline = time.monotonic() + self._stop_timeout
        self.daemon.term()
        while True:
            left = self._stop_deadline - time.monotonic()
            try:
                self.daemon.ended(max(0.01, min(left, 0.2)))
            except subprocess.TimeoutExpired:
                if left <= 0:
                    self.killed = True
                    self.daemon.kill()
            else:
                return

    def restart(self) -> None:
        """`systemctl restart`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill the main process, which is restarted at once (RestartSec=0)."""
        self.daemon.kill()
        self.daemon.ended()
        self.start()

    def wait(self, key: str, value: str, pid: int) -> None:
        """Wait for a notification of a process."""
        with self._more:
            found = self._more.wait_for(
                lambda: any(sender == pid and state.get(key) == value for sender, state in self.states), PATIENCE
            )
        assert found, (key, value, self.states)

    def values(self, key: str, pid: int | None = None) -> list[str]:
        """Return what was sent for a key, by one process or by all."""
        with self._more:
            return [state[key] for sender, state in self.states if key in state and pid in (None, sender)]

    def _store(self, state: dict[str, str], passed: list[int]) -> None:
        """Put descriptors into the store, or remove some; a barrier is closed, like all that is not kept."""
        with self._more:
            if "FDSTORE" in state and len(self.stored) + len(passed) <= self._store_max:
                assert state["FDPOLL"] == "0"
                self.stored[:0] = [(state["FDNAME"], number) for number in reversed(passed)]
                passed = []
            if "FDSTOREREMOVE" in state:
                passed += [number for name, number in self.stored if name == state["FDNAME"]]
                self.stored = [(name, number) for name, number in self.stored if name != state["FDNAME"]]
            for number in passed:
                os.close(number)

    def _read(self) -> None:
        while True:
            space = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(4 * 253)
            data, ancillary, _, _ = self._notify.recvmsg(4096, space)
            if not data:
                return
            passed = array.array("i")
            for _, kind, value in ancillary:
                if kind == socket.SCM_RIGHTS:
                    passed.frombytes(value)
            sender = next(_UCRED.unpack(value)[0] for _, kind, value in ancillary if kind == socket.SCM_CREDENTIALS)
            state = dict(line.split("=", 1) for line in data.decode().splitlines())
            self._store(state, list(passed))
            if sender not in [daemon.pid for daemon in self.daemons if hasattr(daemon, "pid")]:
                continue
            if "EXTEND_TIMEOUT_USEC" in state:
                until = time.monotonic() + int(state["EXTEND_TIMEOUT_USEC"]) / 1e6
                self._stop_deadline = max(self._stop_deadline, until)
            with self._more:
                self.states.append((sender, state))
                self._more.notify_all()


def passed_tcp() -> socket.socket:
    """Bind a socket as a .socket unit does."""
    return socket.create_server(("127.0.0.1", 0), backlog=4096)


def passed_unix(path: Path) -> socket.socket:
    """Bind a Unix socket as a .socket unit does."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(4096)
    return sock
