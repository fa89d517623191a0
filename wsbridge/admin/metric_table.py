"""The table of Prometheus metrics: what each is called, what it says, and how it is read from the counters.

No label has a value that clients send: labels are names of the configuration, reasons, initiators, and other values of
which there are a few.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from wsbridge import __version__
from wsbridge.counters import Histogram, ListenerStats, RouteStats

MetricRow = tuple[Sequence[str], float]
"""The values of the labels, and the value."""
HistogramRow = tuple[Sequence[str], Histogram]
"""The values of the labels, and the histogram."""


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
    histograms: Callable[[MetricsSnapshot], Iterable[HistogramRow]] | None = None


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


def _used(snapshot: MetricsSnapshot, select: Callable[[RouteStats], Histogram]) -> Iterable[HistogramRow]:
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
