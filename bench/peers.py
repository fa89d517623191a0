"""A bridge as processes: started with its ports, weighed, ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.cases import SERVICES, TRANSPORTS, TUNNELS, Service, Transport

HERE = Path(__file__).parent
_START_S = 15.0
_STOP_S = 5.0
_QUIET_S = 0.1
_QUIET_CPU_S = 0.002
"""A bridge that uses less CPU than this in that time is done with what the last case left it."""


class PeerError(Exception):
    """A bridge cannot be started; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A bridge that can be measured.

    Attributes:
        name: As in the table.
        commands: By transport, a command line for each process, with placeholders as described in `peers.toml`.
        most: Concurrent connections that it supports; None for any number.
        get: How to install it.
        needs: What else must be there, each with a command that succeeds if it is.
        clients: More options of `load`.
    """

    name: str
    commands: Mapping[Transport, tuple[str, ...]]
    most: int | None = None
    get: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    clients: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Give the first program of it that is not installed, or the first of its needs that is not met."""
        for commands in self.commands.values():
            for command in commands:
                program = shlex.split(command)[0]
                if program != "{python}" and find(program) is None:
                    return program
        return next((name for name, command in self.needs.items() if not _succeeds(command)), None)


def _words(command: str, values: Mapping[str, str]) -> list[str]:
    words = [word.format_map(values) for word in shlex.split(command)]
    return [find(words[0]) or words[0], *words[1:]]


def _succeeds(command: str) -> bool:
    words = _words(command, {"python": sys.executable})
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


def read_peers(file: Path) -> list[Peer]:
    """Read a table of peers.

    Raises:
        PeerError: It is not what `peers.toml` describes.
    """
    try:
        table = tomllib.loads(file.read_text())
        if not table:
            raise PeerError(f"{file}: names no bridge")
        return [
            Peer(
                name,
                {kind: tuple(entry[kind]) for kind in TRANSPORTS if kind in entry},
                entry.get("most"),
                entry.get("get", ""),
                entry.get("needs", {}),
                tuple(shlex.split(entry.get("clients", ""))),
            )
            for name, entry in table.items()
        ]
    except (OSError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise PeerError(f"{file}: {error}") from error


def find(program: str) -> str | None:
    """Give the path of a program: beside this Python, in PATH, or where Debian puts servers."""
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")
    return shutil.which(program, path=os.pathsep.join(places))


def _scheduled_s(pid: int) -> float:
    """Seconds on a CPU of the living threads of a process.

    Exact, where the times that a process reports lack up to two ticks of 10 ms: much for one with a process a client.
    """
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(thread.read_text().split()[0])
    return total / 1e9


class Running:
    """The processes of a started bridge.

    Attributes:
        peer: What was started.
        transport: How its clients talk to it.
        ports: Where it listens, by the service behind.
    """

    def __init__(
        self, peer: Peer, transport: Transport, processes: list[subprocess.Popen[bytes]], ports: dict[Service, int]
    ) -> None:
        self.peer = peer
        self.transport = transport
        self.ports = ports
        self._processes = processes

    def _family(self) -> Iterator[psutil.Process]:
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [psutil.Process(process.pid)]
                yield from family + family[0].children(recursive=True)

    def cpu_s(self) -> float:
        """CPU seconds that all its processes have used, those of ended children among them."""
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                user, system, children_user, children_system = process.cpu_times()[:4]
                total += max(user + system, _scheduled_s(process.pid)) + children_user + children_system
        return total

    def memory(self) -> int:
        """Bytes of all its processes; what several share counts once (proportional set size)."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total

    def ended(self) -> bool:
        """Return whether one of its processes has ended by itself."""
        return any(process.poll() is not None for process in self._processes)

    def settle(self, limit_s: float = 5.0) -> None:
        """Wait until it is done with the connections of the last case."""
        end, last = time.monotonic() + limit_s, -1.0
        while time.monotonic() < end and self.cpu_s() - last > _QUIET_CPU_S:
            last = self.cpu_s()
            time.sleep(_QUIET_S)

    def stop(self) -> None:
        """End all its processes: asked first, killed after 5 s."""
        family = list(self._family())
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for child in self._processes:
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for process in psutil.wait_procs(family, timeout=_STOP_S)[1]:
            process.kill()


def _wait(running: Running, ports: list[int], log: Path) -> None:
    end = time.monotonic() + _START_S
    for port in ports:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > end or running.ended():
                said = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise PeerError(
                    f"{running.peer.name} does not listen on port {port}: {' / '.join(said) or 'it says nothing'}"
                )
            time.sleep(0.02)


@contextlib.contextmanager
def started(peer: Peer, transport: Transport, values: Mapping[str, str], lab: Path, *cores: int) -> Iterator[Running]:
    """Start a bridge on some cores, and end it after the block.

    Args:
        peer: What to start.
        transport: Which of its commands.
        values: The placeholders but for its own ports.
        lab: The directory for its log.
        cores: The CPUs that it may use.

    Raises:
        PeerError: It does not listen within 15 s.
    """
    *listening, middle = free_ports(len(SERVICES) + 1)
    ports = dict(zip(SERVICES, listening, strict=True))
    known = {**values, **{f"listen_{service}": str(port) for service, port in ports.items()}, "middle": str(middle)}
    environment = os.environ | {name.upper(): value for name, value in known.items()}
    processes: list[subprocess.Popen[bytes]] = []
    running = Running(peer, transport, processes, ports)
    log = lab / f"{peer.name}-{transport}.log"
    try:
        null = subprocess.DEVNULL
        with log.open("wb") as output:
            for command in peer.commands[transport]:
                words = ["taskset", "-c", ",".join(map(str, cores)), *_words(command, known)]
                process = subprocess.Popen(words, stdout=output, stderr=output, stdin=null, env=environment)
                processes.append(process)  # at once, so that it is ended if the next one cannot be started
        _wait(running, [*listening, middle] if transport in TUNNELS else listening, log)
        yield running
    finally:
        running.stop()


def free_ports(count: int) -> list[int]:
    """Give TCP ports of 127.0.0.1 that nothing uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
