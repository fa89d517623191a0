"""What the admin API answered at one time, and the rates between two such times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Row = dict[str, Any]
"""A route, connection, ending or listener, with the keys of the admin API and those that `with_rates` adds."""

COUNTERS = ("bytes_to_backend", "bytes_to_client")
RATE_SUFFIX = "_per_second"
"""A row has the rate of `bytes_to_client` as `bytes_to_client_per_second`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Answers of the admin API that belong together.

    Attributes:
        at: When the routes and connections were answered, in seconds of a monotonic clock.
        status: Answer to `GET /v1/status`.
        routes: Answer to `GET /v1/routes`.
        listeners: Answer to `GET /v1/listeners`.
        connections: Live connections, of `GET /v1/connections`.
        ended: Last endings, newest first, of the same.
        total: Number of live connections, which is larger than that of `connections` if the daemon limits its answer.
    """

    at: float
    status: Mapping[str, Any]
    routes: list[Row] = field(default_factory=list)
    listeners: list[Row] = field(default_factory=list)
    connections: list[Row] = field(default_factory=list)
    ended: list[Row] = field(default_factory=list)
    total: int = 0

    @property
    def process(self) -> tuple[object, object]:
        """What differs between two processes of the daemon."""
        return self.status.get("pid"), self.status.get("started")

    def rows(self, view: str) -> list[Row]:
        """Return the rows of a view, by its name."""
        return {
            "routes": self.routes,
            "connections": self.connections,
            "endings": self.ended,
            "listeners": self.listeners,
        }[view]

    def json(self) -> dict[str, Any]:
        """Return it as one object, as the admin API names things."""
        return {
            "status": self.status,
            "routes": self.routes,
            "listeners": self.listeners,
            "connections": self.connections,
            "ended": self.ended,
            "total": self.total,
        }


def with_last_reasons(routes: Iterable[Row], ended: Iterable[Row]) -> list[Row]:
    """Return routes that have the reason of their last ending as `last_reason`.

    Args:
        routes: Of `GET /v1/routes`.
        ended: Endings, newest first.
    """
    reasons: dict[object, object] = {}
    for row in ended:
        reasons.setdefault(row.get("route"), row.get("reason"))
    return [{**row, "last_reason": reasons.get(row.get("route"))} for row in routes]


def with_rates(current: Snapshot, before: Snapshot | None) -> Snapshot:
    """Add the rates of routes and connections since another snapshot.

    What is new since then has the rate of its whole life, as far as that is known; a counter that was set back has no
    rate. After a restart of the daemon nothing can be compared.

    Args:
        current: As answered.
        before: An earlier one; None: no rates yet.
    """
    seconds = 0.0 if before is None or before.process != current.process else current.at - before.at
    if before is None or seconds <= 0:
        return current
    return replace(
        current,
        routes=_rated(current.routes, before.routes, "route", seconds),
        connections=_rated(current.connections, before.connections, "id", seconds),
    )


def _rated(rows: Iterable[Row], before: Iterable[Row], key: str, seconds: float) -> list[Row]:
    older = {row.get(key): row for row in before}
    return [row | _rates(row, older.get(row.get(key)), seconds) for row in rows]


def _rates(row: Row, before: Row | None, seconds: float) -> dict[str, float]:
    rates: dict[str, float] = {}
    if before is None:
        before, seconds = {}, min(row.get("duration_seconds", seconds) or seconds, seconds)
    for key in COUNTERS:
        moved = (row.get(key) or 0) - (before.get(key) or 0)
        if moved >= 0:
            rates[key + RATE_SUFFIX] = moved / seconds
    return rates


def total_rates(snapshot: Snapshot) -> dict[str, float] | None:
    """Return the sums of the rates of all routes, by `COUNTERS`; None before there are any."""
    names = [key + RATE_SUFFIX for key in COUNTERS]
    if not any(names[0] in row for row in snapshot.routes):
        return None
    return {key: sum(row.get(name, 0.0) for row in snapshot.routes) for key, name in zip(COUNTERS, names, strict=True)}
