"""What it costs the daemon that `top` follows 2,000 connections, and whether its totals are right."""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.client import BINARY, frame, request
from tests.process.daemon import Daemon
from tests.serving import written

COUNT = 2000
SECONDS = 20.0
"""Of each measurement: ten snapshots at the default interval."""
MAX_SHARE = 0.05
"""Of a core."""
PERIOD = 4.0
"""Mean of the seconds between two messages of a client."""
ROUTES = ("office", "telemetry", "desk")
PAYLOAD = b"x" * 100


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Allow as many open files in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"needs {count} descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Clients that send messages and get them back.

    Attributes:
        sent: Payload bytes by route.
        open: How many clients are connected.
        stop: Set when no more is to be sent.
    """

    def __init__(self, port: int) -> None:
        self.sent: Counter[str] = Counter()
        self.open = 0
        self.busy = 0
        self.stop = trio.Event()
        self._port = port
        self._rng = random.Random(12)

    async def client(self, route: str) -> None:
        """Be one client until the end of the test."""
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            await self._talk(stream, route)

    async def _talk(self, stream: trio.SocketStream, route: str) -> None:
        await stream.send_all(request(f"/{route}"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        self.open += 1
        while True:
            with trio.move_on_after(self._rng.uniform(0, 2 * PERIOD)):
                await self.stop.wait()
            if self.stop.is_set():
                await trio.sleep_forever()
            self.busy += 1
            await stream.send_all(frame(BINARY, PAYLOAD))
            left = len(PAYLOAD)
            while left > 0:
                data = await stream.receive_some()
                left -= data.count(b"x")
            self.sent[route] += len(PAYLOAD)
            self.busy -= 1


async def echo(stream: trio.SocketStream) -> None:
    """Be the backend of one client."""
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def follow(daemon: Daemon, *options: str) -> list[dict[str, Any]]:
    """Run `top`, at its default interval; give its snapshots."""
    command = [sys.executable, "-m", "wsbridge", "top", "--json", "--admin", str(daemon.folder / "admin.sock")]
    done = await trio.run_process([*command, *options], capture_stdout=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.soak
async def test_two_thousand_connections_are_followed() -> None:
    """`top` costs less than a twentieth of a core, and its totals are those of the clients, live and per route."""
    async with trio.open_nursery() as nursery:
        with descriptors(2 * COUNT + 200):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            backend = f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
            routes = {name: {"match": {"path": f"/{name}"}, "backend": backend, "auth": "none"} for name in ROUTES}
            with Daemon(written(routes=routes, admin={"bind": "unix:@FOLDER@/admin.sock"})) as daemon:
                crowd = Crowd(daemon.port())
                for number in range(COUNT):
                    nursery.start_soon(crowd.client, ROUTES[number % len(ROUTES)])
                    while number - crowd.open > 50:
                        await trio.sleep(0.01)
                while crowd.open < COUNT:
                    await trio.sleep(0.01)

                begin = daemon.cpu()
                await trio.sleep(SECONDS)
                without = (daemon.cpu() - begin) / SECONDS
                begin, began = daemon.cpu(), trio.current_time()
                snapshots = await follow(daemon, "--count", str(int(SECONDS / 2)))
                with_top = (daemon.cpu() - begin) / (trio.current_time() - began)
                cost = with_top - without
                print(f"CPU without {without:.1%}, with top {with_top:.1%}: {cost:.2%} of a core")  # noqa: T201
                assert [one["total"] for one in snapshots] == [COUNT] * len(snapshots)
                assert cost < MAX_SHARE

                crowd.stop.set()
                while crowd.busy:
                    await trio.sleep(0.01)
                (last,) = await follow(daemon, "--count", "1", "--interval", "200ms")
                live: Counter[str] = Counter()
                for row in last["connections"]:
                    assert row["bytes_to_client"] == row["bytes_to_backend"]
                    live[row["route"]] += row["bytes_to_client"]
                assert live == crowd.sent
                assert {row["route"]: row["bytes_to_client"] for row in last["routes"]} == crowd.sent
                assert {row["route"]: row["active"] for row in last["routes"]} == Counter(
                    row["route"] for row in last["connections"]
                )
                nursery.cancel_scope.cancel()
