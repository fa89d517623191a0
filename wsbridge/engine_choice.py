"""Which engine relays and does TLS: that of the setting `engine`, as far as the native one is installed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from wsbridge import native
from wsbridge.config.model import Config
from wsbridge.log.format import set_members_writer
from wsbridge.net.tls_roles import OpenSsl, TlsProvider
from wsbridge.relay.engine import Engine, PythonEngine


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What a configuration leads to in this process.

    Attributes:
        name: Of the engine.
        threads: Of the native engine; 0 with the other one, which has none.
    """

    name: Literal["python", "native"]
    threads: int = 0

    @property
    def descriptors(self) -> int:
        """Files that the engine keeps open: an epoll set and an event for each thread."""
        return 2 * self.threads


def choose_engine(config: Config) -> EngineChoice:
    """Return what `engine` and `limits.engine_threads` lead to.

    Raises:
        ValueError: The native engine is required and cannot be used; one sentence, which says what to do.
    """
    if config.engine == "python" or (config.engine == "auto" and native.load() is None):
        return EngineChoice("python")
    if native.load() is None:
        raise ValueError(f"engine: {native.required_but_missing()}")
    threads = config.limits.engine_threads
    return EngineChoice("native", threads if isinstance(threads, int) else len(os.sched_getaffinity(0)))


def build_engine(config: Config) -> Engine:
    """Build the engine that relays until the process ends, and have it write the values of log lines.

    Raises:
        ValueError: See `choose_engine`; or its threads cannot be started.
    """
    choice, max_lingering = choose_engine(config), config.limits.lingering_sockets
    if choice.name == "python":
        set_members_writer(None)
        return PythonEngine(max_lingering)
    from wsbridge.native.engine import NativeEngine  # imports the extension
    from wsbridge.native.log_members import native_members_writer

    set_members_writer(native_members_writer())

    try:
        return NativeEngine(choice.threads, max_lingering)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(
            f"limits.engine_threads: {choice.threads} threads cannot be started: {why}; "
            "set fewer, or allow the process more threads and open files (TasksMax= and LimitNOFILE= of a systemd unit)"
        ) from None


def build_tls(config: Config) -> TlsProvider:
    """Return what does TLS until the process ends: that of the engine.

    Raises:
        ValueError: See `choose_engine`.
    """
    if choose_engine(config).name == "python":
        return OpenSsl()
    from wsbridge.native.tls import Rustls  # imports the extension

    return Rustls()


def describe_engine() -> tuple[str, str]:
    """Return the engine that `engine: auto` leads to, and why that is not the native one (empty if it is)."""
    extension = native.find_extension()
    if extension.module is not None:
        return f"native {extension.module.__version__}", ""
    return PythonEngine.name, f"native not {'usable' if extension.is_broken else 'installed'}: {extension.problem}"
