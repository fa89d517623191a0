"""What it costs the daemon that `top`, `sessions` and the status page show 2,000 connections, and what they show."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import expect, sync_playwright

from tests.client import BINARY, frame, request
from tests.clients.browser import launch
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
LISTINGS = 10
TOKEN = "let-me-in"


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


def command(daemon: Daemon, name: str, *options: str) -> list[str]:
    """Give the command line of a client of the admin API."""
    folder = daemon.folder
    admin = ("--admin", admin_address(daemon), "--admin-token-file", str(folder / "token"))
    return [sys.executable, "-m", "wsbridge", name, "--json", *admin, *options]


def admin_address(daemon: Daemon) -> str:
    """Give address and port of the admin API."""
    return str(daemon.wait("listener.opened", listener="admin")["listen_address"])


async def follow(daemon: Daemon, *options: str) -> list[dict[str, Any]]:
    """Run `top`, at its default interval; give its snapshots."""
    done = await trio.run_process(command(daemon, "top", *options), capture_stdout=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def watch_page(daemon: Daemon) -> tuple[str, float]:
    """Show the status page for SECONDS; give the connections that it shows, and the CPU's share meanwhile."""
    with sync_playwright() as playwright, launch(playwright) as browser, browser.new_page() as page:
        page.goto(f"http://{admin_address(daemon)}/")
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Enter")
        expect(page.locator("#rows tr").first).to_be_visible()
        begin, began = daemon.cpu(), time.monotonic()
        page.wait_for_timeout(SECONDS * 1000)
        share = (daemon.cpu() - begin) / (time.monotonic() - began)
        return page.locator("#connections").inner_text(), share


@asynccontextmanager
async def crowded(folder: Path) -> AsyncIterator[tuple[Daemon, Crowd]]:
    """Run a daemon with COUNT clients that send and receive all the time."""
    async with trio.open_nursery() as nursery:
        with descriptors(2 * COUNT + 200):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            nursery.start_soon(trio.serve_listeners, echo, [listener])
            backend = f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
            routes = {name: {"match": {"path": f"/{name}"}, "backend": backend, "auth": "none"} for name in ROUTES}
            admin = {"bind": "127.0.0.1:0", "token": {"file": "@FOLDER@/token"}, "page": True}
            (folder / "token").write_text(TOKEN)
            (folder / "token").chmod(0o600)
            with Daemon(written(routes=routes, admin=admin), folder=folder) as daemon:
                crowd = Crowd(daemon.port())
                for number in range(COUNT):
                    nursery.start_soon(crowd.client, ROUTES[number % len(ROUTES)])
                    while number - crowd.open > 50:
                        await trio.sleep(0.01)
                while crowd.open < COUNT:
                    await trio.sleep(0.01)
                yield daemon, crowd
                nursery.cancel_scope.cancel()


@pytest.mark.soak
@pytest.mark.browser
async def test_two_thousand_connections_are_followed(tmp_path: Path) -> None:
    """Each costs less than a twentieth of a core, and the totals are those of the clients, live and per route."""
    async with crowded(tmp_path) as (daemon, crowd):
        begin = daemon.cpu()
        await trio.sleep(SECONDS)
        without = (daemon.cpu() - begin) / SECONDS

        begin, began = daemon.cpu(), trio.current_time()
        snapshots = await follow(daemon, "--count", str(int(SECONDS / 2)))
        with_top = (daemon.cpu() - begin) / (trio.current_time() - began)
        assert [one["total"] for one in snapshots] == [COUNT] * len(snapshots)

        shown, with_page = await trio.to_thread.run_sync(watch_page, daemon)
        assert shown == str(COUNT)

        begin, began = daemon.cpu(), trio.current_time()
        for _ in range(LISTINGS):
            done = await trio.run_process(command(daemon, "sessions"), capture_stdout=True)
            assert len(json.loads(done.stdout)["connections"]) == COUNT
        listing = (daemon.cpu() - begin - without * (trio.current_time() - began)) / LISTINGS

        costs = {"top": with_top - without, "page": with_page - without, "sessions every second": listing}
        print(f"CPU without {without:.1%};", *(f"{name} {cost:.2%};" for name, cost in costs.items()))  # noqa: T201
        assert max(costs.values()) < MAX_SHARE

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
