"""Many idle connections: every ping is answered, none is lost, and what one costs."""

import resource
import time

import pytest

from tests.process.daemon import Daemon
from tests.process.plain import Crowd
from tests.serving import written

COST = {False: 12 * 1024, True: 40 * 1024}
"""Bytes of memory that an idle connection may cost, without TLS and with it."""


def hold(count, seconds, pings, ping, *, tls):
    """Hold idle connections and answer their pings; give bytes of memory for each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * count + 200:
        pytest.skip(f"needs {2 * count + 200} descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd()
    try:
        text = written(
            route={"backend": f"tcp://127.0.0.1:{crowd.port}"},
            timeouts={"ping_interval": ping, "ping_timeout": "10s"},
            tls=tls,
        )
        with Daemon(text) as daemon:
            crowd.add(50, daemon.port(), tls=tls)
            before = daemon.anonymous()
            crowd.add(count - 50, daemon.port(), tls=tls)
            first = dict(crowd.pings)
            began = time.monotonic()
            fewest = 0
            while time.monotonic() - began < (seconds if fewest >= pings else seconds + 60):
                crowd.turn(0.1)
                fewest = min(now - first[fd] for fd, now in crowd.pings.items())
            cost = (daemon.anonymous() - before) / (count - 50)
            assert crowd.lost == 0
            assert crowd.size == count
            assert fewest >= pings
            assert not daemon.log_lines("connection.closed")
            assert not daemon.log_lines("internal_error")
    finally:
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return cost


@pytest.mark.parametrize("tls", [False, True])
def test_idle_connections(tls):
    """Hundreds of idle connections answer several pings each, none is lost, and memory is as documented."""
    assert hold(400, 4.5, 3, "1s", tls=tls) < COST[tls] * 1.5  # few connections carry the steps of the allocator


@pytest.mark.soak
@pytest.mark.parametrize("tls", [False, True])
def test_five_thousand_idle_connections(tls):
    """5,000 connections with `ping_interval: 2s`, held for 30 s: ten pings each, none lost, memory as documented."""
    assert hold(5000, 30, 10, "2s", tls=tls) < COST[tls]
