"""Rates between two snapshots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.top.stub import STATUS, connection, ending, route
from wsbridge.top.snapshot import Snapshot, total_rates, with_last_reasons, with_rates


def snapshot(at: float, **rows: object) -> Snapshot:
    """Make a snapshot of the stub's process."""
    return replace(Snapshot(at, STATUS), **rows)


def test_rates_of_connections_and_routes():
    """Bytes that moved, by the time between the answers; each way on its own."""
    before = snapshot(10.0, connections=[connection(1, bytes_to_client=100)], routes=[route(bytes_to_backend=50)])
    now = snapshot(
        14.0,
        connections=[connection(1, bytes_to_client=500, bytes_to_backend=8)],
        routes=[route(bytes_to_backend=90), route("other", bytes_to_client=40)],
    )
    rated = with_rates(now, before)
    assert rated.connections[0]["bytes_to_client_per_second"] == 100
    assert rated.connections[0]["bytes_to_backend_per_second"] == 2
    assert total_rates(rated) == {"bytes_to_backend": 10, "bytes_to_client": 10}


def test_a_new_connection_has_the_rate_of_its_life():
    """It began within the interval, so that the bytes moved in less than that."""
    rated = with_rates(
        snapshot(12.0, connections=[connection(3, duration_seconds=0.5, bytes_to_client=1000)]), snapshot(10.0)
    )
    assert rated.connections[0]["bytes_to_client_per_second"] == 2000


@pytest.mark.parametrize("facts", [{}, {"bytes_to_client": 40}])
def test_counters_that_go_back_have_no_rate(facts):
    """A route that a reload removed and added again begins at zero; keys may be missing."""
    before = snapshot(10.0, routes=[route(bytes_to_client=100)])
    row = {"route": "office", **facts}
    assert "bytes_to_client_per_second" not in with_rates(snapshot(11.0, routes=[row]), before).routes[0]


def test_nothing_is_compared_across_a_restart():
    """Connections of another process have the same numbers, and are others."""
    before = snapshot(10.0, connections=[connection(1)], routes=[route()])
    now = replace(
        snapshot(11.0, connections=[connection(1, bytes_to_client=5)], routes=[route()]), status={**STATUS, "pid": 1}
    )
    assert with_rates(now, before) is now
    assert total_rates(now) is None
    assert with_rates(before, None) is before


def test_rows_without_a_duration():
    """A connection that is new and says nothing of its age."""
    rated = with_rates(snapshot(12.0, connections=[{"id": 1, "bytes_to_client": 10}]), snapshot(10.0))
    assert rated.connections[0]["bytes_to_client_per_second"] == 5


def test_the_last_ending_of_each_route():
    """The newest is the first."""
    ended = [ending(3, reason="client_lost"), ending(2, route="other", reason="backend_refused"), ending(1)]
    routes = with_last_reasons([route(), route("other"), route("quiet")], ended)
    assert [row["last_reason"] for row in routes] == ["client_lost", "backend_refused", None]
