"""Under attack: legitimate clients are served in time, by one core, and memory stays bounded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.client import request
from tests.process.attackers import Attackers
from tests.process.daemon import Daemon
from tests.process.memory import Sampler
from tests.process.plain import Crowd, Socket
from tests.serving import written

TOKEN = "0123456789abcdef0123456789abcdef"
SLOWEST = 0.25
"""Seconds that a handshake may take at the 99th percentile."""
MIB = 1024 * 1024
MOST_GROWTH = 64 * MIB
WHOLE = pytest.mark.soak


@contextlib.contextmanager
def cores():
    """Give one core to the daemon and another to all other processes of the test."""
    before = os.sched_getaffinity(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(before) < 2 or hard < 10_000:
        pytest.skip("needs two cores and 10,000 descriptors")
    ours, theirs = sorted(before)[:2]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {theirs})
    try:
        yield ours, theirs
    finally:
        os.sched_setaffinity(0, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def bridge(core, *, handshake="10s", table=65536, **web):
    """A daemon on one core whose route requires a token; its backend accepts every connection."""
    crowd = Crowd()
    tokens = f"legit sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n"
    route = {"backend": f"tcp://127.0.0.1:{crowd.port}", "match": "any"}
    route["auth"] = {"kind": "bearer", "tokens": "@FOLDER@/tokens"}
    text = written(
        listeners={"web": {"bind": "127.0.0.1:0", "backlog": "4096", **web}},
        routes={"app": route},
        limits={"connections": "9000", "per_address": {"exempt": [], "table_size": str(table)}},
        timeouts={"handshake": handshake},
    )
    daemon = Daemon(text)
    (daemon.folder / "tokens").write_text(tokens)
    (daemon.folder / "tokens").chmod(0o600)
    try:
        with daemon:
            for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
            yield daemon, crowd
            assert not daemon.log_lines("internal_error")
    finally:
        crowd.close()


def asking(token, before=""):
    """The head of a request with a bearer token."""
    return before + request("/", f"Authorization: Bearer {token}").decode()


def waited(daemon):
    """Return for how many seconds this thread, and those of the daemon, have waited for a core."""
    nanoseconds = 0
    for file in (Path("/proc/thread-self/schedstat"), *Path(f"/proc/{daemon.pid}/task").glob("*/schedstat")):
        with contextlib.suppress(FileNotFoundError):  # the thread has ended, or this kernel does not count it
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def legitimate(daemon, crowd, count, pause, proxied=False):
    """Complete so many handshakes from addresses of their own, one each `pause` seconds; return how long each took.

    Time in which this thread or the daemon could have run, but had to wait for other processes, is not counted.
    """
    times = []
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0, start + number * pause - time.monotonic()))  # the pace is part of the load
        source = f"127.2.0.{1 + number % 50}"
        head = asking(TOKEN, f"PROXY TCP4 {source} 192.0.2.1 1 2\r\n" if proxied else "").encode()
        delay, began = waited(daemon), time.monotonic()
        client = Socket(socket_from("127.0.0.1" if proxied else source, daemon.port()))
        client.send(head)
        answer = client.head()
        taken = time.monotonic() - began
        times.append(max(0.0, taken - max(0.0, waited(daemon) - delay)))
        assert answer.startswith("HTTP/1.1 101"), answer
        client.close()
        crowd.turn(0)
        crowd.let_go()
    return sorted(times)


def socket_from(source, port):
    """Connect from an address."""
    return socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(source, 0))


def slowest(times):
    """Return the 99th percentile of sorted times."""
    return times[-1 - len(times) // 100]


def check_times(name, times, sampler, **more):
    """Print the figures, and check the 99th percentile."""
    p50, p99, most = (f"{taken * 1000:.1f} ms" for taken in (times[len(times) // 2], slowest(times), times[-1]))
    print(  # noqa: T201  (the figures)
        f"\n{name}: {len(times)} handshakes p50 {p50}, p99 {p99}, most {most};"
        f" memory {sampler.first / MIB:.1f} MiB, at most {sampler.most / MIB:.1f} MiB;"
        f" {', '.join(f'{key} {value}' for key, value in more.items())}"
    )
    assert slowest(times) < SLOWEST


@pytest.mark.parametrize("part", [10, pytest.param(1, marks=WHOLE)])
def test_banned_addresses_and_slow_heads(part):
    """2,000 slow heads held and 5,000 connections a second from banned addresses, reset before their head is read."""
    heads, pace, handshakes = 2000 // part, 5000 // part, max(500 // part, 100)
    with cores() as (ours, theirs), bridge(ours, handshake=f"{10 // part}s") as (daemon, crowd):
        banned = [f"127.0.0.{number}" for number in range(2, 22)]
        for source in banned:
            for _ in range(10):
                with Socket(socket_from(source, daemon.port())) as client:
                    client.send(asking("wrong").encode())
                    assert client.head().startswith("HTTP/1.1 401")
        daemon.wait("address.banned", len(banned))
        slow = {"sources": [f"127.1.0.{number}" for number in range(1, 21)], "head": "GET / HTTP/1.1\r\nX: "}
        with (
            Sampler(daemon) as sampler,
            Attackers(theirs, port=daemon.port(), hold=heads, drip=2 / part, **slow) as held,
        ):
            daemon.until(lambda: daemon.descriptors() > heads)
            cpu, began = daemon.cpu(), time.monotonic()
            with Attackers(theirs, port=daemon.port(), sources=banned, head="", rate=pace, most=2000) as flood:
                time.sleep(1)  # the flood's rate is an average over seconds
                times = legitimate(daemon, crowd, handshakes, 0.02)
                daemon.until(lambda: daemon.descriptors() > heads)
            share = (daemon.cpu() - cpu) / (time.monotonic() - began)
        rate = flood.found["made"] / flood.found["seconds"]
        check_times(
            "banned and slow",
            times,
            sampler,
            banned_a_second=round(rate),
            slow_heads_held=held.found["held"],
            slow_heads_made=held.found["made"],
            daemon_cpu=f"{share:.0%}",
        )
        assert rate > (0.9 if part == 1 else 0.5) * pace
        assert flood.found["answers"].keys() <= {"reset", "end"}
        assert sampler.most - sampler.first < MOST_GROWTH
        assert len(daemon.log_lines("connection.banned")) < 200


@pytest.mark.parametrize(
    ("count", "handshakes", "table"), [(2000, 100, 500), pytest.param(100_000, 500, 65536, marks=WHOLE)]
)
def test_wrong_logins_from_many_addresses(count, handshakes, table):
    """One of each address of a PROXY header, at half the rate of handshakes that was measured just before."""
    web = {"trusted_proxies": ["127.0.0.0/8"], "client_address_from": "proxy-protocol"}
    with cores() as (ours, theirs), bridge(ours, table=table, **web) as (daemon, crowd):
        right = asking(TOKEN, "PROXY TCP4 10.{n} 192.0.2.1 1 2\r\n")
        wrong = asking("wrong", "PROXY TCP4 11.{n} 192.0.2.1 1 2\r\n")
        plan = {"port": daemon.port(), "sources": ["127.0.0.1"]}
        able, busy = most_handshakes(daemon, crowd, theirs, {**plan, "head": right}, min(count, 4000))
        with (
            Sampler(daemon) as sampler,
            Attackers(theirs, **plan, head=wrong, rate=able / 2, least=count, most=2000) as flood,
        ):
            cpu, began = daemon.cpu(), time.monotonic()
            times = legitimate(daemon, crowd, handshakes, 0.8 * count / (able / 2) / handshakes, proxied=True)
            assert flood.process.poll() is None  # it goes on until it is asked to end
            flood.wait(600)
            share = (daemon.cpu() - cpu) / (time.monotonic() - began)
        rate = flood.found["made"] / flood.found["seconds"]
        check_times(
            "wrong logins",
            times,
            sampler,
            handshakes_a_second=f"{able:.0f} (daemon_cpu {busy:.0%})",
            wrong_logins_a_second=round(rate),
            daemon_cpu=f"{share:.0%}",
            answers=flood.found["answers"],
        )
        assert flood.found["answers"] == {"401": flood.found["made"]}
        assert flood.found["made"] >= count
        assert sampler.most - sampler.first < MOST_GROWTH


def most_handshakes(daemon, crowd, core, plan, count):
    """Run so many handshakes as fast as possible; return how many a second, and the CPU time of the daemon a second."""
    cpu, began = daemon.cpu(), time.monotonic()
    with Attackers(core, **plan, rate=1_000_000, count=count, most=64) as able:
        while able.process.poll() is None:
            crowd.turn(0.01)
            crowd.let_go()
    share = (daemon.cpu() - cpu) / (time.monotonic() - began)
    assert able.found["answers"] == {"101": count}
    daemon.wait("connection.closed")
    return able.found["made"] / able.found["seconds"], share
