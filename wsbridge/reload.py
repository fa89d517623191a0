"""Reload: read the configuration again and put it into effect, or keep the one that works and report why."""

from __future__ import annotations

import contextlib
import errno
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

import trio

from wsbridge.config.base import KeyPath
from wsbridge.config.errors import ConfigError, Problem, merge_warnings
from wsbridge.config.load import LoadedConfig
from wsbridge.config.model import Config
from wsbridge.engine_choice import choose_engine
from wsbridge.log.logger import log
from wsbridge.net.listeners import ListenError, ListeningSockets
from wsbridge.server import NotServingError, Server

MAX_REPORTED_PROBLEMS: Final = 100
"""Problems of one load that are logged and returned: thousands would keep connections waiting."""
NO_FILE = "there is no configuration file that could be read again"


SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that loads lets the event loop run, which needs its turn several times a message."""


class ShortTurns:
    """Keeps connections fast while threads load, build or describe a configuration; one context manager for all.

    A full garbage collection would stop everything until it has looked at all objects of a large
    configuration, again and again while that grows; it is put off to the end.
    """

    def __init__(self) -> None:
        self._users = 0
        self._interval = 0.0
        self._thresholds = (0, 0, 0)

    def __enter__(self) -> None:
        self._users += 1
        if self._users == 1:
            self._interval, self._thresholds = sys.getswitchinterval(), gc.get_threshold()
            sys.setswitchinterval(SWITCH_INTERVAL)
            gc.set_threshold(*self._thresholds[:2], sys.maxsize >> 32)

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            gc.set_threshold(*self._thresholds)
            sys.setswitchinterval(self._interval)


SHORT_TURNS: Final = ShortTurns()


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How one reload ended.

    Attributes:
        generation: Number of the configuration that serves now.
        error: Why the new one does not; one sentence, or one a line. None: it does.
        problems: Errors and warnings of the file, with their places, at most MAX_REPORTED_PROBLEMS.
        time: When it ended, in seconds since 1970.
    """

    generation: int
    error: str | None = None
    problems: Sequence[Problem] = ()
    time: float = field(default_factory=time.time)


class ReloadPart(Protocol):
    """What a reload exchanges beside the server, all or nothing."""

    @property
    def sockets(self) -> ListeningSockets | None:
        """Where it listens; None: nowhere."""

    async def prepare(self, config: Config) -> None:
        """Open what is new. Raises ListenError or ValueError."""

    def commit(self) -> None:
        """Put it into effect; cannot fail."""

    def rollback(self) -> None:
        """Close it again."""


class Reloader:
    """Reloads the configuration of a server, one reload after the other.

    Args:
        server: What serves.
        load: Reads and checks the configuration; runs in a thread. Raises ConfigError. None: there is no file.
        parts: What is exchanged with it.
        on_reloaded: Called with each configuration that was put into effect.
        references: Of the first configuration, see `LoadedConfig`.

    Attributes:
        loaded: What is in effect, as it was read.
        last: How the last reload ended; None before the first.
        count: How many have ended.
        failures: How many of them have failed.
        loaded_at: When `loaded` was put into effect, in seconds since 1970.
    """

    def __init__(
        self,
        server: Server,
        load: Callable[[], LoadedConfig] | None,
        on_reloaded: Callable[[Config], None] = lambda _: None,
        parts: Sequence[ReloadPart] = (),
        references: Mapping[KeyPath, str] = MappingProxyType({}),
    ) -> None:
        self.loaded = LoadedConfig(server.generation.config, references=references)
        self.last: ReloadResult | None = None
        self.count = self.failures = 0
        self.loaded_at = time.time()
        self._parts = parts
        self._server = server
        self._load = load
        self._on_reloaded = on_reloaded
        self._lock = trio.Lock()

    @property
    def can_reload(self) -> bool:
        """Whether there is a file to read again."""
        return self._load is not None

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let reloads wait, after the end of one that runs."""
        async with self._lock:
            yield

    @property
    def is_queued(self) -> bool:
        """Whether a reload waits for one that runs."""
        return self._lock.statistics().tasks_waiting > 0

    async def reload(self, on_begin: Callable[[], object] = lambda: None) -> ReloadResult:
        """Load, check, build, bind what is new, swap, retire what is gone; any error leaves everything as it was.

        One that is requested while another one runs begins after it, since the file may have changed in between; one
        that is requested during the start, once all listeners are open.

        Args:
            on_begin: Called when it begins.
        """
        async with self._lock:
            await self._server.started.wait()
            on_begin()
            began = trio.current_time()
            with SHORT_TURNS:
                result = await self._reload()
            self.last = result
            self.count += 1
            self.failures += result.error is not None
        if result.error is None:
            log.info(
                "config.reloaded",
                generation=result.generation,
                routes=len(self._server.generation.routes),
                duration_seconds=round(trio.current_time() - began, 3),
            )
        else:
            log.error("config.reload_failed", generation=result.generation, detail=result.error)
        return result

    async def _reload(self) -> ReloadResult:
        problems: Sequence[Problem] = ()
        if self._load is None:
            return self._failed(NO_FILE, problems)
        try:
            loaded = await self._server.read_files(partial(_load, self._load))
            if isinstance(loaded, ConfigError):
                return self._invalid(loaded.problems)
            problems = [*loaded.warnings, *self._needs_restart(loaded)]
            await self._apply(loaded.config)
        except ListenError as error:
            detail = str(error) + self._overlap_hint(error)
            log_listen_error(error, detail)
            return self._failed(detail, problems)
        except (ValueError, NotServingError) as error:
            return self._failed(str(error), problems)
        except Exception:
            log.exception("internal_error", component="reload")
            return self._failed("an internal error, which the log has", problems)
        log_problems(problems)
        self.loaded, self.loaded_at = loaded, time.time()
        self._on_reloaded(loaded.config)
        return ReloadResult(self._server.generation.number, None, _first(merge_warnings(problems)))

    def _needs_restart(self, loaded: LoadedConfig) -> Iterator[Problem]:
        """Warn of what cannot change while the process runs."""
        running, wanted = self._server.services.engine_choice, choose_engine(loaded.config)
        if wanted.name != running.name:
            text = f"{running.name} relays until a restart, {wanted.name} after it"
            yield Problem(loaded.file, 0, 0, "engine", text, "", "W035")
        elif wanted.threads != running.threads:
            text = f"{running.threads} until a restart, {wanted.threads} after it"
            yield Problem(loaded.file, 0, 0, "limits.engine_threads", text, "", "W035")

    async def _apply(self, config: Config) -> None:
        prepared: list[ReloadPart] = []
        try:
            for part in self._parts:
                prepared.append(part)
                await part.prepare(config)
            await self._server.apply(config)
        except BaseException:
            for part in prepared:
                part.rollback()
            raise
        for part in prepared:
            part.commit()

    def _overlap_hint(self, error: ListenError) -> str:
        """Say that an address is in use by this very process, which keeps its listeners until the new ones are open."""
        port = error.bind.rpartition(":")[2]
        if error.errno != errno.EADDRINUSE or not port.isdecimal():
            return ""
        own = [opened.listening for opened in self._server.listeners]
        own += [part.sockets for part in self._parts if part.sockets is not None]
        for address in (address for listening in own for address in listening.addresses):
            if address.rpartition(":")[2] == port:
                return f" by this process, at {address}: exchanging these two needs a restart"
        return ""

    def _invalid(self, problems: Sequence[Problem]) -> ReloadResult:
        errors = [problem for problem in problems if problem.severity == "error"]
        log_problems(errors)
        text = f"{len(errors)} error{'s' * (len(errors) > 1)} in the configuration"
        if len(errors) > MAX_REPORTED_PROBLEMS:
            text += f", of which {MAX_REPORTED_PROBLEMS} are listed; wsbridge check prints all"
        return self._failed(text, problems)

    def _failed(self, error: str, problems: Sequence[Problem]) -> ReloadResult:
        return ReloadResult(self._server.generation.number, error, _first(merge_warnings(problems)))


def _load(load: Callable[[], LoadedConfig]) -> LoadedConfig | ConfigError:
    """Load a configuration; runs in a thread, which also frees the nodes of the file.

    The traceback of an error would refer to them; the result does not.
    """
    try:
        return load().without_places()
    except ConfigError as error:
        return ConfigError(error.problems)


def _first(problems: Sequence[Problem]) -> Sequence[Problem]:
    """Return at most MAX_REPORTED_PROBLEMS; if there are more, errors before warnings."""
    if len(problems) <= MAX_REPORTED_PROBLEMS:
        return problems
    return sorted(problems, key=lambda problem: problem.severity)[:MAX_REPORTED_PROBLEMS]


def log_listen_error(error: ListenError, detail: str) -> None:
    """Log that a listener cannot be opened."""
    problem = {"problem": error.problem} if error.problem else {}
    log.error("listener.error", listener=error.listener, listen_address=error.bind, **problem, detail=detail)


def log_problems(problems: Sequence[Problem]) -> None:
    """Log errors and warnings of the configuration; warnings that say the same of many settings in one record.

    No more than MAX_REPORTED_PROBLEMS are logged.
    """
    merged = merge_warnings(problems)
    for problem in _first(merged):
        place: dict[str, object] = {"line": problem.line, "column": problem.column} if problem.line else {}
        setting = {"setting": problem.setting} if problem.setting else {}
        fields = {"problem": problem.code, "file": problem.file, **place, **setting, "detail": problem.message}
        if problem.severity == "error":
            log.error("config.error", **fields)
        else:
            log.warning("config.warning", **fields)
    if len(merged) > MAX_REPORTED_PROBLEMS:
        detail = f"and {len(merged) - MAX_REPORTED_PROBLEMS:,} more, which wsbridge check prints"
        if any(problem.severity == "error" for problem in problems):
            log.error("config.error", detail=detail)
        else:
            log.warning("config.warning", detail=detail)
