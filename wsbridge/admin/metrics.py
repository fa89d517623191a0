"""Prometheus metrics: a table of all of them, read from the counters when a scrape asks.

No label has a value that clients send: labels are names of the configuration, reasons, initiators, and other values of
which there are a few.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Final, Literal

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from wsbridge import __version__
from wsbridge.config.effective import to_json
from wsbridge.config.load import LoadedConfig
from wsbridge.counters import Histogram, ListenerStats, RouteStats
from wsbridge.log.writer import LogWriter
from wsbridge.reload import SHORT_TURNS, Reloader
from wsbridge.server import Server

OPENMETRICS: Final = "application/openmetrics-text"
HASH_DIGITS: Final = 16
"""Hexadecimal digits of the hash of a configuration."""
SAMPLES_PER_TURN: Final = 100
"""Samples that are made or rendered before the thread sleeps, so that the event loop runs; a millisecond."""
TURN_PAUSE: Final = 0.002
"""Seconds that it sleeps then."""
MAX_PAUSES: Final = 2.0
"""Seconds that it sleeps in all; a page of ten thousand busy routes must not take longer than a scrape may."""
PAUSE_FACTOR: Final = 9
"""Least pause between two renderings, as a multiple of the time that the first one took: a tenth of a core at most."""

MetricRow = tuple[Sequence[str], float]
"""The values of the labels, and the value."""


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """What a scrape reads; made on the event loop, read in a thread.

    Attributes:
        routes: The counters of the routes of all generations in use, by name, and the backends as configured.
        listeners: The counters of the listeners of all generations in use, by name.
        open_listeners: Name, connections, and connection limit of the open listeners; infinite for none.
        certificates: Listener and file of the certificates in use, and when each expires, in seconds since 1970.
        process: Values of metrics that have one value each, by name.
        suppressed: Records that the rate limit of their event suppressed, by event.
        reloads: Reloads, by result.
        config_hash: Returns a hash of the settings in effect.
        engine: What relays.
    """

    routes: Mapping[str, tuple[RouteStats, str]]
    listeners: Mapping[str, ListenerStats]
    open_listeners: Sequence[tuple[str, int, float]]
    certificates: Mapping[tuple[str, str], float]
    process: Mapping[str, float]
    suppressed: Mapping[str, int]
    reloads: Mapping[str, int]
    config_hash: Callable[[], str]
    engine: str


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric.

    Attributes:
        name: In full, with `_total` or `_info`.
        kind: As Prometheus names them; `info` has the value 1 and says something by its labels.
        meaning: One sentence.
        labels: Its labels.
        rows: Reads it; of a histogram `histograms` does. None: it is in `MetricsSnapshot.process`, or not there at all.
        histograms: Reads a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    meaning: str
    labels: tuple[str, ...] = ()
    rows: Callable[[MetricsSnapshot], Iterable[MetricRow]] | None = None
    histograms: Callable[[MetricsSnapshot], Iterable[tuple[Sequence[str], Histogram]]] | None = None


def _bytes(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for route, (stats, _) in snapshot.routes.items():
        yield (route, "to_backend"), stats.bytes_to_backend
        yield (route, "to_client"), stats.bytes_to_client


def _of_backend_sessions(
    value: Callable[[RouteStats], float],
) -> Callable[[MetricsSnapshot], Iterable[MetricRow]]:
    """Return a reader of the routes whose backends have had resumable sessions."""
    return lambda snapshot: (
        ((name,), value(stats)) for name, (stats, _) in snapshot.routes.items() if stats.backend_sessions
    )


def _rejections(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for listener, unrouted in snapshot.listeners.items():
        for (reason, initiator), count in list(unrouted.rejections.items()):
            yield (listener, "", reason, initiator), count
    for route, (stats, _) in snapshot.routes.items():
        for (listener, reason, initiator), count in list(stats.rejections.items()):
            yield (listener, route, reason, initiator), count


def _closed(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for route, (stats, _) in snapshot.routes.items():
        for (reason, initiator), count in list(stats.closed.items()):
            yield (route, reason, initiator), count


def _close_codes(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for route, (stats, _) in snapshot.routes.items():
        for (initiator, code_class), count in list(stats.close_codes.items()):
            yield (route, initiator, code_class), count


def _sessions_closed(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for route, (stats, _) in snapshot.routes.items():
        for (reason, initiator), count in list(stats.sessions_closed.items()):
            yield (route, reason, initiator), count


def _nonzero(snapshot: MetricsSnapshot, select: Callable[[RouteStats], int]) -> Iterable[MetricRow]:
    """Return the values of routes that have one."""
    return (((route,), value) for route, (stats, _) in snapshot.routes.items() if (value := select(stats)))


def _responses(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for route, (stats, _) in snapshot.routes.items():
        for status, count in list(stats.responses.items()):
            yield (route, str(status)), count


def _accept_errors(snapshot: MetricsSnapshot) -> Iterable[MetricRow]:
    for listener, stats in snapshot.listeners.items():
        for name, count in list(stats.accept_errors.items()):
            yield (listener, name), count


def _used(
    snapshot: MetricsSnapshot, select: Callable[[RouteStats], Histogram]
) -> Iterable[tuple[Sequence[str], Histogram]]:
    """Return the histograms of routes that have any value; most of thousands may have none."""
    for route, (stats, _) in snapshot.routes.items():
        histogram = select(stats)
        if any(histogram.counts):
            yield (route,), histogram


def _by_listener(select: Callable[[ListenerStats], int]) -> Callable[[MetricsSnapshot], Iterable[MetricRow]]:
    return lambda snapshot: (((name,), select(stats)) for name, stats in snapshot.listeners.items())


METRICS: Final = (
    MetricInfo(
        "wsbridge_build_info",
        "info",
        "Version of wsbridge and of Python, and what relays.",
        ("version", "python_version", "engine"),
        lambda snapshot: [((__version__, platform.python_version(), snapshot.engine), 1)],
    ),
    MetricInfo("wsbridge_ready", "gauge", "1 if clients should be sent here, as /readyz says; else 0."),
    MetricInfo("wsbridge_draining", "gauge", "1 during a drain or a shutdown; else 0."),
    # Connections.
    MetricInfo("wsbridge_connections_open", "gauge", "Open connections of clients, in whatever step."),
    MetricInfo(
        "wsbridge_connections_limit",
        "gauge",
        "How many there may be now; fewer while memory is short.",
    ),
    MetricInfo(
        "wsbridge_listener_connections_open",
        "gauge",
        "Open connections that an open listener has accepted.",
        ("listener",),
        lambda snapshot: (((name,), count) for name, count, _ in snapshot.open_listeners),
    ),
    MetricInfo(
        "wsbridge_listener_connections_limit",
        "gauge",
        "How many there may be, where the listener has a limit of its own.",
        ("listener",),
        lambda snapshot: (((name,), most) for name, _, most in snapshot.open_listeners if most != math.inf),
    ),
    MetricInfo(
        "wsbridge_connections_active",
        "gauge",
        "Connections that are relayed now.",
        ("route",),
        lambda snapshot: (((name,), stats.active) for name, (stats, _) in snapshot.routes.items()),
    ),
    MetricInfo(
        "wsbridge_connections_total",
        "counter",
        "Relayed connections that have ended: the lines connection.closed of the log.",
        ("route", "reason", "initiator"),
        _closed,
    ),
    MetricInfo(
        "wsbridge_connection_duration_seconds",
        "histogram",
        "How long they lasted, from accept.",
        ("route",),
        histograms=lambda snapshot: _used(snapshot, lambda stats: stats.durations),
    ),
    MetricInfo(
        "wsbridge_bytes_total",
        "counter",
        "Payload bytes relayed, those of open connections included.",
        ("route", "direction"),
        _bytes,
    ),
    MetricInfo(
        "wsbridge_ws_close_total",
        "counter",
        "Connections that ended with a close frame, by the class of its code.",
        ("route", "initiator", "code_class"),
        _close_codes,
    ),
    # Resumable sessions.
    MetricInfo("wsbridge_sessions_open", "gauge", "Resumable sessions that have not ended, with a connection or not."),
    MetricInfo("wsbridge_sessions_detached", "gauge", "Those of them that wait for their clients."),
    MetricInfo(
        "wsbridge_sessions_held_bytes",
        "gauge",
        "Bytes that sessions keep to be sent again, or until the backend accepts them.",
    ),
    MetricInfo("wsbridge_sessions_held_limit_bytes", "gauge", "How many there may be (limits.replay_memory)."),
    MetricInfo(
        "wsbridge_sessions_opened_total",
        "counter",
        "Sessions that were opened.",
        ("route",),
        lambda snapshot: _nonzero(snapshot, lambda stats: stats.sessions_opened),
    ),
    MetricInfo(
        "wsbridge_sessions_adopted_total",
        "counter",
        "Sessions of an earlier process that went on in this one.",
        ("route",),
        lambda snapshot: _nonzero(snapshot, lambda stats: stats.sessions_adopted),
    ),
    MetricInfo(
        "wsbridge_sessions_resumed_total",
        "counter",
        "How often a session went on over another connection.",
        ("route",),
        lambda snapshot: _nonzero(snapshot, lambda stats: stats.sessions_resumed),
    ),
    MetricInfo(
        "wsbridge_sessions_closed_total",
        "counter",
        "Sessions that ended: the lines session.closed of the log.",
        ("route", "reason", "initiator"),
        _sessions_closed,
    ),
    # Connections that are not relayed.
    MetricInfo(
        "wsbridge_connections_accepted_total",
        "counter",
        "Accepted connections, whatever became of them.",
        ("listener",),
        _by_listener(lambda stats: stats.accepted),
    ),
    MetricInfo(
        "wsbridge_handshakes_rejected_total",
        "counter",
        "Connections rejected before the relay: the lines connection.rejected. No route: it was not known yet.",
        ("listener", "route", "reason", "initiator"),
        _rejections,
    ),
    MetricInfo(
        "wsbridge_connections_empty_total",
        "counter",
        "Connections that ended before their first byte, such as health checks: the lines connection.empty.",
        ("listener",),
        _by_listener(lambda stats: stats.empty),
    ),
    MetricInfo(
        "wsbridge_connections_shed_total",
        "counter",
        "Connections over a connection limit that were reset without a response: the lines connection.shed.",
        ("listener",),
        _by_listener(lambda stats: stats.shed),
    ),
    MetricInfo(
        "wsbridge_connections_banned_total",
        "counter",
        "Connections that were reset because their address is banned: the lines connection.banned.",
    ),
    MetricInfo("wsbridge_bans_active", "gauge", "Addresses that are banned now."),
    MetricInfo(
        "wsbridge_accept_errors_total",
        "counter",
        "Failures of accept(2), by errno, such as EMFILE without descriptors.",
        ("listener", "errno"),
        _accept_errors,
    ),
    MetricInfo(
        "wsbridge_http_responses_total",
        "counter",
        "Requests that wsbridge answered itself: files, fixed responses, tickets.",
        ("route", "status"),
        _responses,
    ),
    # Backends.
    MetricInfo(
        "wsbridge_route_info",
        "info",
        "The backend of a route, as configured.",
        ("route", "backend"),
        lambda snapshot: (((name, backend), 1) for name, (_, backend) in snapshot.routes.items() if backend),
    ),
    MetricInfo(
        "wsbridge_backend_connect_seconds",
        "histogram",
        "How long successful dials took, with name lookup, TLS and the handshake of a WebSocket backend.",
        ("route",),
        histograms=lambda snapshot: _used(snapshot, lambda stats: stats.connect_times),
    ),
    MetricInfo(
        "wsbridge_backend_sessions_total",
        "counter",
        "Resumable sessions that WebSocket backends have opened for plain TCP clients.",
        ("route",),
        _of_backend_sessions(lambda stats: stats.backend_sessions),
    ),
    MetricInfo(
        "wsbridge_backend_sessions_lost_total",
        "counter",
        "How often such a session lost its connection to the backend: the lines backend.lost.",
        ("route",),
        _of_backend_sessions(lambda stats: stats.backend_transports_lost),
    ),
    MetricInfo(
        "wsbridge_backend_sessions_resumed_total",
        "counter",
        "How often such a session went on over another connection: the lines backend.resumed.",
        ("route",),
        _of_backend_sessions(lambda stats: stats.backend_sessions_resumed),
    ),
    MetricInfo(
        "wsbridge_backend_sessions_detached",
        "gauge",
        "Such sessions that have no connection to the backend now.",
        ("route",),
        _of_backend_sessions(lambda stats: stats.backend_sessions_detached),
    ),
    # Configuration and certificates.
    MetricInfo(
        "wsbridge_config_last_reload_successful", "gauge", "0 if the last reload failed; 1 also before the first one."
    ),
    MetricInfo(
        "wsbridge_config_last_reload_success_timestamp_seconds",
        "gauge",
        "When the configuration in effect was loaded, in seconds since 1970.",
    ),
    MetricInfo(
        "wsbridge_config_reloads_total",
        "counter",
        "Reloads, by whether they succeeded.",
        ("result",),
        lambda snapshot: (((result,), count) for result, count in snapshot.reloads.items()),
    ),
    MetricInfo(
        "wsbridge_config_hash_info",
        "info",
        "A hash of the settings in effect, secrets masked: the same on hosts with the same configuration.",
        ("hash",),
        lambda snapshot: [((snapshot.config_hash(),), 1)],
    ),
    MetricInfo(
        "wsbridge_config_generation",
        "gauge",
        "Number of the configuration in effect: 1, and one more after each reload.",
    ),
    MetricInfo(
        "wsbridge_config_generations",
        "gauge",
        "Configurations in use: that one, and those before it that still have connections.",
    ),
    MetricInfo(
        "wsbridge_tls_cert_not_after_timestamp_seconds",
        "gauge",
        "When a certificate of a listener expires, in seconds since 1970.",
        ("listener", "cert"),
        lambda snapshot: snapshot.certificates.items(),
    ),
    # The process.
    MetricInfo("wsbridge_loop_lag_seconds", "gauge", "Longest lag of the event loop in the last minute."),
    MetricInfo(
        "wsbridge_memory_used_bytes",
        "gauge",
        "Memory that counts towards the nearest limit; absent where nothing limits memory.",
    ),
    MetricInfo("wsbridge_memory_limit_bytes", "gauge", "That limit; absent where nothing limits memory."),
    MetricInfo(
        "wsbridge_memory_pressure", "gauge", "1 while new connections are rejected because memory is short; else 0."
    ),
    MetricInfo("wsbridge_log_dropped_total", "counter", "Lines of the log that were lost: its output did not keep up."),
    MetricInfo(
        "wsbridge_log_suppressed_total",
        "counter",
        "Lines of the log that the rate limit of their event suppressed.",
        ("event",),
        lambda snapshot: (((event,), count) for event, count in snapshot.suppressed.items()),
    ),
    MetricInfo(
        "wsbridge_audit_dropped_total",
        "counter",
        "Lost records of the audit log; absent without an audit log.",
    ),
)
"""All of them, in the order of the page, apart from those of the process that `ProcessCollector` reads."""


class RenderingTurns:
    """Has the thread that renders sleep again and again.

    While it runs, each system call of the event loop takes longer: the loop gives up the interpreter for it, and gets
    it back only when the thread's turn is over (sys.setswitchinterval).
    """

    def __init__(self) -> None:
        self._samples = 0
        self._slept = 0.0

    def count(self, samples: int) -> None:
        """Note that samples were made or rendered."""
        self._samples += samples
        if self._samples >= SAMPLES_PER_TURN:
            self._samples = 0
            if self._slept < MAX_PAUSES:
                began = time.monotonic()
                time.sleep(TURN_PAUSE)
                self._slept += time.monotonic() - began


class _Samples(list[Sample]):
    """Samples of one metric, which are rendered in turns.

    Args:
        samples: The samples.
        turns: Those of the page.
    """

    def __init__(self, samples: Iterable[Sample], turns: RenderingTurns) -> None:
        super().__init__(samples)
        self._turns = turns

    def __iter__(self) -> Iterator[Sample]:
        for sample in super().__iter__():
            yield sample
            self._turns.count(1)


def _family(info: MetricInfo, snapshot: MetricsSnapshot, turns: RenderingTurns) -> Metric:
    """Return a metric with its samples."""
    if info.histograms is not None:
        histograms = HistogramMetricFamily(info.name, info.meaning, labels=info.labels)
        for labels, histogram in info.histograms(snapshot):
            histograms.add_metric(labels, _buckets(histogram), histogram.total)
            turns.count(len(histogram.counts) // 2)
        return histograms
    rows = _process_rows(info.name, snapshot) if info.rows is None else info.rows(snapshot)
    if info.kind == "info":
        facts = InfoMetricFamily(info.name.removesuffix("_info"), info.meaning, labels=info.labels)
        for labels, _ in rows:
            facts.add_metric(labels, {})
        return facts
    family = (CounterMetricFamily if info.kind == "counter" else GaugeMetricFamily)(
        info.name, info.meaning, labels=info.labels
    )
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _process_rows(name: str, snapshot: MetricsSnapshot) -> list[MetricRow]:
    return [((), snapshot.process[name])] if name in snapshot.process else []


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the upper bounds and how many values are not above each."""
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class MetricsCollector(Collector):
    """Makes the metrics of one snapshot, one after the other.

    Args:
        snapshot: What to read.
    """

    def __init__(self, snapshot: MetricsSnapshot) -> None:
        self._snapshot = snapshot
        self._turns = RenderingTurns()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics that have samples."""
        for info in METRICS:
            family = _family(info, self._snapshot, self._turns)
            if family.samples:
                family.samples = _Samples(family.samples, self._turns)
                yield family


def render_page(snapshot: MetricsSnapshot, encode: Callable[[Collector], bytes]) -> bytes:
    """Return the page of a snapshot; for thousands of routes it takes a second, so not on the event loop."""
    registry = CollectorRegistry()
    registry.register(MetricsCollector(snapshot))
    ProcessCollector(registry=registry)
    return encode(registry)


class ConfigHash:
    """A hash of the settings in effect, made once for each configuration."""

    def __init__(self) -> None:
        self._of: LoadedConfig | None = None
        self._digits = ""

    def __call__(self, loaded: LoadedConfig) -> str:
        """Return the hash; the first time for a configuration of thousands of routes that takes a while."""
        if loaded is not self._of:
            settings = json.dumps(to_json(loaded.config, loaded.references), sort_keys=True)
            self._digits = hashlib.sha256(settings.encode()).hexdigest()[:HASH_DIGITS]
            self._of = loaded
        return self._digits


@dataclass(frozen=True, slots=True)
class _Page:
    """What was rendered last in one format, and its number among all renderings."""

    number: int
    text: str


class Metrics:
    """Answers scrapes: one rendering at a time, in a thread, with a pause in proportion after each.

    Scrapes that come while one is rendered wait for the next one and share it. So each has figures that are no older
    than its request, and no number of them makes more work than a tenth of a core.

    Args:
        server: What serves.
        reloader: Reloads its configuration.
        writer: Writes the log; None where no thread does.
    """

    def __init__(self, server: Server, reloader: Reloader, writer: LogWriter | None = None) -> None:
        self._server = server
        self._reloader = reloader
        self._writer = writer
        self._hash = ConfigHash()
        self._lock = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._pages: dict[str, _Page] = {}
        self._begun = 0
        self._not_before = -math.inf

    async def page(self, accept: str) -> tuple[str, str]:
        """Return the metrics as they are now, and the media type.

        Args:
            accept: The header Accept of the request: OpenMetrics where it names that, else the text format.
        """
        wants_openmetrics = any(part.partition(";")[0].strip() == OPENMETRICS for part in accept.lower().split(","))
        encode, media_type = choose_encoder(OPENMETRICS if wants_openmetrics else "")
        asked = self._begun
        async with self._lock:
            last = self._pages.get(media_type)
            if last is not None and last.number > asked:
                return last.text, media_type
            await trio.sleep_until(self._not_before)
            self._begun += 1
            began = trio.current_time()
            page = self._pages[media_type] = _Page(self._begun, await self._render(encode))
            ended = trio.current_time()
            self._not_before = ended + PAUSE_FACTOR * (ended - began)
        return page.text, media_type

    async def _render(self, encode: Callable[[Collector], bytes]) -> str:
        await self._server.acceptor.count_bytes()
        snapshot = self.snapshot()
        with SHORT_TURNS:
            page = await trio.to_thread.run_sync(render_page, snapshot, encode, limiter=self._thread)
        return page.decode()

    def snapshot(self) -> MetricsSnapshot:
        """Return what a scrape reads, as it is now."""
        server, loaded = self._server, self._reloader.loaded
        generations = [*server.generations, server.generation]
        tls = [(name, one.tls) for name, one in server.generation.listeners.items() if one.tls is not None]
        return MetricsSnapshot(
            routes={
                name: (route.stats, "" if route.backend is None else route.backend.name)
                for generation in generations
                for name, route in generation.routes.items()
            },
            listeners={
                name: listener.stats for generation in generations for name, listener in generation.listeners.items()
            },
            open_listeners=[(one.listener.name, one.connections, one.max_connections) for one in server.listeners],
            certificates={
                (name, one["file"] or ""): datetime.fromisoformat(one["expires"]).timestamp()
                for name, listener_tls in tls
                for one in listener_tls.certificates()
                if one["expires"] is not None
            },
            process=self._process_values(),
            suppressed={} if self._writer is None else self._writer.suppressed_by_event(),
            reloads={"success": self._reloader.count - self._reloader.failures, "failure": self._reloader.failures},
            config_hash=lambda: self._hash(loaded),
            engine=server.services.engine.name,
        )

    def _process_values(self) -> dict[str, float]:
        server, last = self._server, self._reloader.last
        audit_log, table, sessions = server.services.audit_log, server.services.client_table, server.services.sessions
        values = {
            "ready": server.is_ready or server.has_successor,
            "draining": server.is_draining,
            "connections_open": len(server.connections),
            "connections_limit": server.acceptor.admission_limit,
            "connections_banned_total": table.banned_count,
            "bans_active": table.count_bans(),
            "sessions_open": len(sessions.sessions),
            "sessions_detached": len(sessions.detached),
            "sessions_held_bytes": sessions.memory.used,
            "sessions_held_limit_bytes": sessions.memory.limit,
            "config_last_reload_successful": last is None or last.error is None,
            "config_last_reload_success_timestamp_seconds": self._reloader.loaded_at,
            "config_generation": server.generation.number,
            "config_generations": len(server.generations),
            "loop_lag_seconds": server.loop_lag.recent,
            "memory_pressure": server.acceptor.memory_pressure,
        }
        if server.acceptor.memory is not None:
            values |= {
                "memory_used_bytes": server.acceptor.memory.used,
                "memory_limit_bytes": server.acceptor.memory.limit,
            }
        if self._writer is not None:
            values["log_dropped_total"] = self._writer.dropped
        if audit_log is not None:
            values["audit_dropped_total"] = audit_log.dropped
        return {f"wsbridge_{name}": value for name, value in values.items()}
