"""Prometheus metrics: a page of all of them, made in pieces in a thread when a scrape asks."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, islice
from typing import Any, Final

import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from wsbridge.admin.long_lists import PIECE_BYTES
from wsbridge.admin.metric_table import METRICS, HistogramRow, MetricInfo, MetricRow, MetricsSnapshot
from wsbridge.config.effective import to_json
from wsbridge.config.load import LoadedConfig
from wsbridge.counters import Histogram
from wsbridge.log.writer import LogWriter
from wsbridge.reload import SHORT_TURNS, Reloader
from wsbridge.server import Server
from wsbridge.worker_thread import run_in_thread

OPENMETRICS: Final = "application/openmetrics-text"
HASH_DIGITS: Final = 16
"""Hexadecimal digits of the hash of a configuration."""
SAMPLES_PER_TURN: Final = 100
"""Samples that are made and rendered before the thread sleeps, so that the event loop runs; a millisecond."""
TURN_PAUSE: Final = 0.002
"""Seconds that it sleeps then."""
MAX_PAUSES: Final = 2.0
"""Seconds that it sleeps in all; a page of ten thousand busy routes must not take longer than a scrape may."""
PAUSE_FACTOR: Final = 9
"""Least pause between two renderings, as a multiple of the time that the first one took: a tenth of a core at most."""

Encoder = Callable[[Collector], bytes]
"""Renders all metrics of a collector."""


class RenderingTurns:
    """Has the thread that renders sleep again and again.

    While it runs, each system call of the event loop takes longer: the loop gives up the interpreter for it, and gets
    it back only when the thread's turn is over (sys.setswitchinterval).
    """

    def __init__(self) -> None:
        self._samples = 0
        self._slept = 0.0

    def count(self, samples: int) -> None:
        """Note that samples were rendered."""
        self._samples += samples
        if self._samples >= SAMPLES_PER_TURN:
            self._samples = 0
            if self._slept < MAX_PAUSES:
                began = time.monotonic()
                time.sleep(TURN_PAUSE)
                self._slept += time.monotonic() - began


class _Only(Collector):
    """Some metrics, for an encoder."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _parts(info: MetricInfo, snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """Return a metric in parts with a few samples each; none if it has no samples."""
    if info.histograms is not None:
        for row in info.histograms(snapshot):
            yield _part(info, histograms=[row])
        return
    rows = iter(_process_rows(info.name, snapshot) if info.rows is None else info.rows(snapshot))
    while some := list(islice(rows, SAMPLES_PER_TURN)):
        yield _part(info, some)


def _part(info: MetricInfo, rows: Iterable[MetricRow] = (), histograms: Iterable[HistogramRow] = ()) -> Metric:
    """Return a metric with some of its rows."""
    if info.histograms is not None:
        found = HistogramMetricFamily(info.name, info.meaning, labels=info.labels)
        for labels, histogram in histograms:
            found.add_metric(labels, _buckets(histogram), histogram.total)
        return found
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


def _encoded(snapshot: MetricsSnapshot, encode: Encoder, turns: RenderingTurns) -> Iterator[bytes]:
    """Return the page, some samples at a time."""
    end = encode(_Only())
    for info in METRICS:
        head = encode(_Only(_part(info))).removesuffix(end)
        is_first = True
        for part in _parts(info, snapshot):
            text = encode(_Only(part)).removesuffix(end)
            yield text if is_first else text.removeprefix(head)
            is_first = False
            turns.count(len(part.samples))
    yield encode(ProcessCollector(registry=None))


def render_page(snapshot: MetricsSnapshot, encode: Encoder) -> list[bytes]:
    """Return the page of a snapshot in pieces; for thousands of routes it takes seconds, so not on the event loop.

    The interpreter is never held for long: not by a join of millions of bytes, nor to free as many samples.

    Args:
        snapshot: What to render.
        encode: Renders all metrics of a collector, of which it is given a few at a time.
    """
    pieces: list[bytes] = []
    piece = bytearray()
    for text in _encoded(snapshot, encode, RenderingTurns()):
        piece += text
        if len(piece) >= PIECE_BYTES:
            pieces.append(bytes(piece))
            piece.clear()
    return [*pieces, bytes(piece)]


def _settings(sections: Mapping[str, Any]) -> Iterator[object]:
    """Return what a configuration says, one route at a time: JSON of all of it would hold the interpreter for long."""
    for name, section in sorted(sections.items()):
        if isinstance(section, Mapping):
            yield from ([name, *item] for item in sorted(section.items()))
        else:
            yield [name, section]


class ConfigHash:
    """A hash of the settings in effect, made once for each configuration."""

    def __init__(self) -> None:
        self._of: LoadedConfig | None = None
        self._digits = ""

    def __call__(self, loaded: LoadedConfig) -> str:
        """Return the hash; the first time for a configuration of thousands of routes that takes a while."""
        if loaded is not self._of:
            digest = hashlib.sha256()
            for setting in _settings(to_json(loaded.config, loaded.references)):
                digest.update(json.dumps(setting, sort_keys=True).encode())
            self._digits = digest.hexdigest()[:HASH_DIGITS]
            self._of = loaded
        return self._digits


@dataclass(frozen=True, slots=True)
class _Page:
    """What was rendered last in one format, and its number among all renderings."""

    number: int
    pieces: Sequence[bytes]


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

    async def page(self, accept: str) -> tuple[Sequence[bytes], str]:
        """Return the metrics as they are now, in pieces, and the media type.

        Args:
            accept: The header Accept of the request: OpenMetrics where it names that, else the text format.
        """
        wants_openmetrics = any(part.partition(";")[0].strip() == OPENMETRICS for part in accept.lower().split(","))
        encode, media_type = choose_encoder(OPENMETRICS if wants_openmetrics else "")
        asked = self._begun
        async with self._lock:
            last = self._pages.get(media_type)
            if last is not None and last.number > asked:
                return last.pieces, media_type
            await trio.sleep_until(self._not_before)
            self._begun += 1
            began = trio.current_time()
            page = self._pages[media_type] = _Page(self._begun, await self._render(encode))
            ended = trio.current_time()
            self._not_before = ended + PAUSE_FACTOR * (ended - began)
        return page.pieces, media_type

    async def _render(self, encode: Encoder) -> list[bytes]:
        await self._server.acceptor.count_bytes()
        snapshot = self.snapshot()
        with SHORT_TURNS:
            return await run_in_thread(lambda: render_page(snapshot, encode), self._thread, abandon_on_cancel=False)

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
