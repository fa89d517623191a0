"""The page of metrics: it says what the log says, clients cannot make it grow, and scrapes cost little."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.authority import folder
from tests.client import Client, frame, request
from tests.clients.program import free_port, program
from tests.serving import Served, backend, config_of, serving, written
from wsbridge.access_log import AccessLog
from wsbridge.admin import metrics as metrics_module
from wsbridge.admin.api import AdminApi, MonitoringApi
from wsbridge.admin.endpoints import build_endpoints
from wsbridge.admin.http import AdminRequest
from wsbridge.admin.long_lists import PIECE_BYTES
from wsbridge.admin.metric_table import METRICS
from wsbridge.admin.metrics import Metrics
from wsbridge.auth.identity import Identity
from wsbridge.config.load import load_file
from wsbridge.context import ConnectionContext
from wsbridge.net.address import Peer
from wsbridge.reasons import Reason, Termination
from wsbridge.registry import CONFIG_REGISTRY
from wsbridge.reload import Reloader
from wsbridge.worker_thread import NoThreadError

TOKEN = "0123456789abcdef0123456789abcdef"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series_of(text: str) -> Series:
    """Give the value of each series, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def values(found: Series, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Give the values of a metric that are not 0, by these labels."""
    rows: Counter[tuple[str, ...]] = Counter()
    for (metric, pairs), value in found.items():
        if metric == name and value:
            rows[tuple(dict(pairs)[label] for label in labels)] += value
    return rows


class Scraped:
    """A server whose metrics are read without HTTP."""

    def __init__(self, served: Served, metrics: Metrics) -> None:
        self.served = served
        self.metrics = metrics

    async def text(self, accept: str = "") -> str:
        """Scrape."""
        return (await self.page(accept))[0]

    async def page(self, accept: str = "") -> tuple[str, str]:
        """Scrape; give the media type, too."""
        pieces, media_type = await self.metrics.page(accept)
        return b"".join(pieces).decode(), media_type

    async def series(self) -> Series:
        """Scrape, and parse."""
        return series_of(await self.text())


@contextlib.asynccontextmanager
async def scraped(text: str, *, folder: Path | None = None) -> AsyncIterator[Scraped]:
    """Run a server with metrics."""
    async with serving(text, folder=folder) as served:
        yield Scraped(served, Metrics(served.server, Reloader(served.server, None)))


def varied(folder: Path, echo_url: str) -> str:
    """Write a configuration with routes of all kinds, behind a proxy that says who its clients are."""
    tokens = folder / "tokens"
    tokens.write_text(f"robot sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    return written(
        listeners={
            "web": {"bind": "127.0.0.1:0"},
            "proxied": {
                "bind": "127.0.0.1:0",
                "trusted_proxies": ["127.0.0.1"],
                "client_address_from": "proxy-protocol",
            },
            "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "route": "dead"},
        },
        routes={
            "echo": {"match": {"path": "/echo/*"}, "backend": echo_url, "auth": "none"},
            "late": {
                "match": {"path": "/late/*"},
                "backend": f"tcp://127.0.0.1:{free_port()}",
                "auth": "none",
                "dial": {"when": "after-upgrade"},
            },
            "dead": {
                "match": {"path": "/dead/*"},
                "backend": f"tcp://127.0.0.1:{free_port()}",
                "auth": "none",
            },
            "private": {
                "match": {"path": "/private/*"},
                "backend": echo_url,
                "auth": {"kind": "bearer", "tokens": str(tokens)},
            },
            "fixed": {"match": {"path": "/fixed/*"}, "respond": "204", "auth": "none"},
        },
        limits={"per_address": {"max_failures": "3", "ban_time": "1h", "exempt": []}},
    )


class Visitors:
    """Clients of all kinds, with addresses, paths, tokens, hosts and names of their own.

    Args:
        served: Where they connect.
        seed: Makes what they send.
    """

    def __init__(self, served: Served, seed: int) -> None:
        self._served = served
        self._random = random.Random(seed)
        self._codes = itertools.cycle((1000, 1001, 3000, 4000))
        self.said: list[str] = []
        self.kinds = [
            *(self.closes, self.drops, self.breaks_protocol, self.is_dead, self.is_late, self.has_no_route),
            *(self.guesses, self.logs_in, self.asks, self.stumbles, self.says_nothing, self.is_foreign, self.is_raw),
        ]

    def word(self) -> str:
        """Make up something that nobody has said before."""
        self.said.append(f"x{self._random.getrandbits(64):016x}")
        return self.said[-1]

    async def connect(self, listener: str = "proxied") -> Client:
        """Connect, from an address of its own."""
        client = await self._served.connect(listener)
        if listener == "proxied":
            address = ".".join(str(self._random.randrange(101, 255)) for _ in range(4))
            self.said.append(address)
            await client.send(f"PROXY TCP4 {address} 192.0.2.1 {self._random.randrange(1, 65536)} 80\r\n".encode())
        return client

    async def upgraded(self, path: str, *headers: str) -> Client:
        """Be upgraded."""
        client = await self.connect(self._random.choice(("web", "proxied")))
        await client.send(self.head(path, *headers))
        assert (await client.head()).startswith("HTTP/1.1 101")
        return client

    def head(self, path: str, *headers: str) -> bytes:
        """Write a request."""
        agent, cookie = f"User-Agent: {self.word()}", f"Cookie: {self.word()}={self.word()}"
        return request(
            f"{path}/{self.word()}?token={self.word()}", agent, cookie, *headers, host=f"127.0.0.1:{len(self.said) + 1}"
        )

    async def rejected(self, path: str, *headers: str, listener: str = "proxied") -> None:
        """Be rejected, in whatever way."""
        with await self.connect(listener) as client, contextlib.suppress(trio.BrokenResourceError):
            await client.send(self.head(path, *headers))
            await client.everything()

    async def closes(self) -> None:
        with await self.upgraded("/echo") as client:
            await client.echoed(os.urandom(self._random.randrange(1, 5000)))
            code = next(self._codes)
            await client.close(code if code < 3000 else code + self._random.randrange(1000))

    async def drops(self) -> None:
        client = await self.upgraded("/echo")
        client.drop()

    async def breaks_protocol(self) -> None:
        with await self.upgraded("/echo") as client:
            await client.send(frame(7, b"unknown opcode"))
            await client.closing()

    async def is_dead(self) -> None:
        await self.rejected("/dead")

    async def is_late(self) -> None:
        with await self.upgraded("/late") as client:
            await client.closing()

    async def has_no_route(self) -> None:
        await self.rejected(f"/{self.word()}")

    async def guesses(self) -> None:
        await self.rejected("/private", f"Authorization: Bearer {self.word()}{self.word()}")

    async def logs_in(self) -> None:
        with await self.upgraded("/private", f"Authorization: Bearer {TOKEN}") as client:
            await client.echoed()
            await client.close()

    async def asks(self) -> None:
        with await self.connect() as client:
            await client.send(f"GET /fixed/{self.word()} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert "204" in await client.head()

    async def stumbles(self) -> None:
        with await self.connect("web") as client:
            await client.send(f"{self.word()} {self.word()}\r\n\r\n".encode())
            await client.everything()

    async def says_nothing(self) -> None:
        (await self.connect("web")).drop()

    async def is_foreign(self) -> None:
        await self.rejected("/echo", f"Origin: https://{self.word()}.example")

    async def is_raw(self) -> None:
        # It may be reset before connect(2) has returned.
        with contextlib.suppress(trio.BrokenResourceError, OSError), await self.connect("raw") as client:
            await client.send(self.word().encode())
            await client.everything()


class Lines:
    """What the log says, counted as the metrics count it."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines
        self._ends = [line for line in lines if line["event"] in ("connection.closed", "connection.rejected")]

    def count(self, event: str, *keys: str) -> Counter[tuple[str, ...]]:
        """Count the lines of an event by the values of these keys."""
        lines = [line for line in self._lines if line["event"] == event]
        return Counter(tuple(str(line.get(key) or "") for key in keys) for line in lines)

    def close_codes(self) -> Counter[tuple[str, ...]]:
        """Count those that have a close code, by its class."""
        return Counter(
            (line["route"], line["initiator"], code if code in ("1000", "1001", "1005") else f"{code[0]}xxx")
            for line in self._ends
            if (code := str(line.get("close_code", "")))
        )

    def dials(self) -> Counter[tuple[str, ...]]:
        """Count those whose backend was reached."""
        return Counter((line["route"],) for line in self._ends if "backend_address" in line)

    def bytes(self) -> Counter[tuple[str, ...]]:
        """Add up the bytes of each direction."""
        found: Counter[tuple[str, ...]] = Counter()
        for line in self._ends:
            for direction in ("to_backend", "to_client"):
                found[line.get("route", ""), direction] += line.get(f"bytes_{direction}", 0)
        return +found


async def visited(daemon: Scraped, seed: int) -> None:
    """Have clients of all kinds come in random order, five at a time."""
    visitors = Visitors(daemon.served, seed)
    limit = trio.CapacityLimiter(5)

    async def visit(kind: Any) -> None:
        async with limit:
            await kind()

    async with trio.open_nursery() as nursery:
        for kind in random.Random(seed).choices(visitors.kinds, k=150) + visitors.kinds:
            nursery.start_soon(visit, kind)
    await daemon.served.quiet()


async def test_counters_equal_the_lines_of_the_log(tmp_path: Path) -> None:
    """After a random run: by route, listener, reason, initiator, status, class of close code, and in bytes."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201  (seen if it fails)
    async with backend() as back, scraped(varied(tmp_path, back.url), folder=tmp_path) as daemon:
        await visited(daemon, seed)
        found = await daemon.series()
        lines = Lines(daemon.served.records.all)

    closed = lines.count("connection.closed", "route", "reason", "initiator")
    rejected = lines.count("connection.rejected", "listener", "route", "reason", "initiator")
    empty = lines.count("connection.empty", "listener")
    answered = lines.count("http.request", "route", "status")
    assert len(closed) >= 4
    assert len(rejected) >= 7
    assert values(found, "wsbridge_connections_total", "route", "reason", "initiator") == closed
    labels = ("listener", "route", "reason", "initiator")
    assert values(found, "wsbridge_handshakes_rejected_total", *labels) == rejected
    assert values(found, "wsbridge_connections_empty_total", "listener") == empty != {}
    assert values(found, "wsbridge_http_responses_total", "route", "status") == answered != {}
    assert values(found, "wsbridge_ws_close_total", "route", "initiator", "code_class") == lines.close_codes()
    durations = values(found, "wsbridge_connection_duration_seconds_count", "route")
    assert durations == lines.count("connection.closed", "route")
    assert values(found, "wsbridge_backend_connect_seconds_count", "route") == lines.dials() != {}
    assert values(found, "wsbridge_bytes_total", "route", "direction") == lines.bytes() != {}
    connections = sum(sum(counts.values()) for counts in (closed, rejected, empty, answered))
    assert sum(values(found, "wsbridge_connections_accepted_total", "listener").values()) == connections
    assert not values(found, "wsbridge_connections_active", "route")


def note_end(served: Served, number: int) -> None:
    """Have the end of a connection logged and counted, whose client, request and backend are its own."""
    listener = served.server.generation.listeners["proxied"]
    route = served.server.generation.routes["private"]
    context = ConnectionContext(number, "proxied", peer=Peer(f"10.1.{number // 250}.{number % 250}", number, 2))
    context.route, context.route_stats, context.backend = route.name, route.stats, f"tcp://x{number}.example:1"
    context.identity = Identity(f"user-{number}", "basic")
    context.target, context.backend_address = f"tcp://target-{number}:1", f"10.2.0.1:{number}"
    context.subprotocol = f"sub-{number}"
    context.relayed = bool(number % 2)
    account = AccessLog(context, listener_stats=listener.stats)
    account.rejected_target = f"/path-{number}"
    account.log_closed(
        Termination(Reason.CLIENT_CLOSED, "client", f"detail {number}", close_code=3000 + number % 2000)
        if context.relayed
        else Termination(Reason.UNAUTHENTICATED, "client", f"detail {number}", status=401)
    )


async def test_without_a_thread_a_scrape_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has a page again; `accept_requests` answers this one with 503."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    async with scraped(written(route={"respond": "204", "auth": "none"})) as daemon:
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", fail)
            with pytest.raises(NoThreadError):
                await daemon.page("")
        assert "wsbridge_" in (await daemon.page(""))[0]


async def test_clients_cannot_make_series(tmp_path: Path) -> None:
    """The same kinds of clients with other addresses, paths, tokens, users and hosts: the series stay the same."""
    async with backend() as back, scraped(varied(tmp_path, back.url), folder=tmp_path) as daemon:

        async def visit(seed: int, times: int, numbers: range) -> list[str]:
            visitors = Visitors(daemon.served, seed)
            async with trio.open_nursery() as nursery:
                for _ in range(times):
                    for kind in visitors.kinds:
                        nursery.start_soon(kind)
            for number in numbers:
                note_end(daemon.served, number)
                if not number % 500:
                    await trio.lowlevel.checkpoint()
            await daemon.served.quiet()
            return visitors.said

        said = await visit(1, 24, range(4000))  # so many that each kind comes to each listener
        before = await daemon.series()
        said += await visit(2, 24, range(4000, 14_000))
        text = await daemon.text()
        after = series_of(text)
    assert set(after) == set(before)
    assert sum(after.values()) > sum(before.values()) + 10_000
    assert len(set(said)) > 500
    assert not [word for word in said if word in text]
    names = {"web", "proxied", "raw", "echo", "late", "dead", "private", "fixed", ""}
    assert {dict(labels).get(key, "") for _, labels in after for key in ("listener", "route")} <= names
    assert "user-" not in text and "path-" not in text and "target-" not in text and "10.1." not in text


async def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    """The text format, and OpenMetrics for those that ask for it; whatever else is asked for gets text."""
    async with backend() as back, scraped(written(route={"backend": back.url}), folder=tmp_path) as daemon:
        client = await daemon.served.upgraded()
        await client.echoed(b"12345")
        text, media_type = await daemon.page("")
        assert media_type.startswith("text/plain; version=0.0.4")
        prometheus = (
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        )
        opened, media_type = await daemon.page(prometheus)
        assert media_type.startswith("application/openmetrics-text; version=1.0.0")
        assert opened.endswith("# EOF\n")
        names = {(sample.name, str(sample.labels)) for family in parse_openmetrics(opened) for sample in family.samples}
        assert {name for name in names if "process_" not in name[0]} == {
            (name, str(dict(labels))) for name, labels in series_of(text) if "process_" not in name
        }
        for odd in ("*/*", "\xff;version=\xff", "text/plain;version=9.x", "application/openmetrics-text-not"):
            assert (await daemon.page(odd))[1].startswith("text/plain; version=0.0.4")
        assert (await daemon.page("application/openmetrics-text;version=\xff"))[1].isascii()
        client.drop()


async def test_promtool_has_nothing_to_complain_of(tmp_path: Path) -> None:
    """Names, types, units and help, of a page with every metric."""
    async with backend() as back, scraped(varied(tmp_path, back.url), folder=tmp_path) as daemon:
        async with trio.open_nursery() as nursery:
            for kind in Visitors(daemon.served, 3).kinds:
                nursery.start_soon(kind)
        await daemon.served.quiet()
        text = await daemon.text()
    assert text.count("# TYPE") > 30
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_live_connections_and_the_limit() -> None:
    """What is open, what is relayed, how many there may be."""
    web = {"bind": "127.0.0.1:0", "connections": "7"}
    async with backend() as back:
        text = written(
            listeners={"web": web},
            routes={"app": {"match": "any", "backend": back.url, "auth": "none"}},
            limits={"connections": "9"},
        )
        async with scraped(text) as daemon:
            client, waiting = await daemon.served.upgraded(), await daemon.served.connect()
            await waiting.send(b"GET / HT")
            while len(daemon.served.server.connections) < 2:
                await trio.sleep(0.01)
            await client.echoed(b"12345")
            found = await daemon.series()
            assert found["wsbridge_connections_active", (("route", "app"),)] == 1
            assert found["wsbridge_connections_open", ()] == 2
            assert found["wsbridge_connections_limit", ()] == 9
            assert found["wsbridge_listener_connections_open", (("listener", "web"),)] == 2
            assert found["wsbridge_listener_connections_limit", (("listener", "web"),)] == 7
            assert found["wsbridge_bytes_total", (("direction", "to_client"), ("route", "app"))] == 5
            assert found["wsbridge_route_info", (("backend", back.url), ("route", "app"))] == 1
            assert found["wsbridge_ready", ()] == 1
            daemon.served.server.drain()
            found = await daemon.series()
            assert (found["wsbridge_ready", ()], found["wsbridge_draining", ()]) == (0, 1)
            for one in (client, waiting):
                one.drop()


async def test_reloads_and_the_routes_they_remove(tmp_path: Path) -> None:
    """Success and failure, the hash, and the counters of routes, which go with their route and stay with it."""
    file = tmp_path / "wsbridge.yaml"
    both = {name: {"match": {"path": f"/{name}"}, "respond": "204", "auth": "none"} for name in ("one", "two")}
    file.write_text(written(routes=both))
    async with serving(written(routes=both)) as served:
        reloader = Reloader(served.server, lambda: load_file(file, CONFIG_REGISTRY, {}))
        daemon = Scraped(served, Metrics(served.server, reloader))
        for name in both:
            with await served.connect() as client:
                await client.send(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await client.head()
        await served.quiet()
        first = await daemon.series()
        assert len(values(first, "wsbridge_http_responses_total", "route")) == 2
        assert first["wsbridge_config_last_reload_successful", ()] == 1
        assert not values(first, "wsbridge_config_reloads_total", "result")

        file.write_text("routes: [")
        assert (await reloader.reload()).error
        failed = await daemon.series()
        assert failed["wsbridge_config_last_reload_successful", ()] == 0
        loaded_at = "wsbridge_config_last_reload_success_timestamp_seconds", ()
        assert failed[loaded_at] == first[loaded_at]
        assert values(failed, "wsbridge_config_hash_info", "hash") == values(first, "wsbridge_config_hash_info", "hash")

        file.write_text(written(routes={"one": both["one"]}))
        assert not (await reloader.reload()).error
        with trio.fail_after(10):
            while len(served.server.generations) > 1:
                await trio.sleep(0.01)
        last = await daemon.series()
        assert last["wsbridge_config_last_reload_successful", ()] == 1
        assert last[loaded_at] > first[loaded_at]
        assert values(last, "wsbridge_config_reloads_total", "result") == {("success",): 1, ("failure",): 1}
        assert values(last, "wsbridge_http_responses_total", "route") == {("one",): 1}
        assert last["wsbridge_config_generation", ()] == 2
        assert values(last, "wsbridge_config_hash_info", "hash") != values(first, "wsbridge_config_hash_info", "hash")


async def test_certificates_and_their_expiry() -> None:
    """By listener and file, as /v1/listeners has them."""
    async with scraped(written(route={"respond": "204"}, tls=True)) as daemon:
        (listener,) = daemon.served.server.generation.listeners.values()
        assert listener.tls is not None
        (certificate,) = listener.tls.certificates()
        found = values(await daemon.series(), "wsbridge_tls_cert_not_after_timestamp_seconds", "listener", "cert")
        assert list(found) == [("web", certificate["file"])]
        assert min(found.values()) > 1.7e9


async def test_paths_that_are_not_utf8(tmp_path: Path) -> None:
    """Bytes of the directory in which the configuration is are written as escapes: the page is UTF-8."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xff"))
    odd.mkdir()
    for name in ("cert.pem", "key.pem"):
        shutil.copy(folder() / name, odd)
    tls = {"certificates": [{"cert": "cert.pem", "key": "key.pem"}]}
    listeners = {"web": {"bind": "127.0.0.1:0", "tls": tls}}
    async with scraped(written(listeners=listeners, route={"backend": "unix:service.sock"}), folder=odd) as daemon:
        found = values(await daemon.series(), "wsbridge_tls_cert_not_after_timestamp_seconds", "cert")
        assert list(found) == [(f"{tmp_path}/w\\xff/cert.pem",)]


async def test_many_scrapes_share_few_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come while one is rendered get the next one, so that each is answered with what came before it."""
    rendered = 0
    render = metrics_module.render_page

    def counting(*arguments: Any) -> list[bytes]:
        nonlocal rendered
        rendered += 1
        return render(*arguments)

    monkeypatch.setattr(metrics_module, "render_page", counting)
    async with scraped(written(route={"respond": "204"})) as daemon:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(daemon.text)
        assert 1 <= rendered <= 2
        await daemon.text()
        assert rendered <= 3


async def test_renderings_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is scraped: after a rendering there is a pause nine times as long."""
    begun: list[float] = []

    def slow(*_: object) -> list[bytes]:
        begun.append(time.monotonic())
        time.sleep(0.05)
        return [b"page"]

    monkeypatch.setattr(metrics_module, "render_page", slow)
    async with scraped(written(route={"respond": "204"})) as daemon:
        for _ in range(3):
            await daemon.text()
    assert begun[1] - begun[0] >= 0.5
    assert begun[2] - begun[1] >= 0.5


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
async def test_nothing_grows_with_the_page_that_holds_the_interpreter(
    accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the pieces in which it is rendered and sent, nor the JSON of which its hash is made."""
    sizes: list[int] = []
    dumps = json.dumps

    def recording(*arguments: Any, **options: Any) -> str:
        text = dumps(*arguments, **options)
        sizes.append(len(text))
        return text

    routes = {
        f"r{number}": {"match": {"path": f"/{number}"}, "backend": "tcp://127.0.0.1:1", "auth": "none"}
        for number in range(500)
    }
    async with scraped(written(routes=routes)) as daemon:
        for route in daemon.served.server.generation.routes.values():
            route.stats.durations.counts[3] = route.stats.connect_times.counts[2] = 1
        monkeypatch.setattr(metrics_module.json, "dumps", recording)
        pieces, _ = await daemon.metrics.page(accept)
        monkeypatch.undo()
        page = b"".join(pieces).decode()
    assert len(page) > 10 * PIECE_BYTES
    assert max(map(len, pieces)) < 1.5 * PIECE_BYTES
    assert len(sizes) > 500
    assert max(sizes) < 8192
    assert page.count("# HELP wsbridge_connection_duration_seconds ") == 1
    assert page.count("\nwsbridge_connection_duration_seconds_count{") == 500
    assert page.count("\nwsbridge_connections_active{") == 500
    assert page.count("# EOF\n") == page.endswith("# EOF\n") == bool(accept)


async def test_who_gets_it_and_how() -> None:
    """GET and HEAD at the monitoring endpoint; the 404 of other paths names it."""
    async with scraped(written(route={"respond": "204"})) as daemon:
        api = MonitoringApi(daemon.served.server, daemon.metrics)
        first, *_ = (await api.handle(AdminRequest("GET", "/metrics"))).body
        assert first.startswith(b"# HELP wsbridge_build_info ")
        assert (await api.handle(AdminRequest("POST", "/metrics"))).status == 405
        assert "/metrics" in (await api.handle(AdminRequest("GET", "/"))).body


def documented() -> Iterator[tuple[str, str, str, str]]:
    """Give the rows of the table in docs/metrics.md."""
    for line in (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("| `wsbridge_"):
            name, kind, labels, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            yield name.strip("`"), kind, labels.replace("`", ""), meaning


def test_every_metric_is_documented() -> None:
    """The table of the page is that of the program."""
    assert list(documented()) == [(one.name, one.kind, ", ".join(one.labels), one.meaning) for one in METRICS]


async def test_the_admin_api_asks_for_its_token(tmp_path: Path) -> None:
    """On a port: 401 without the token, the page with it; the monitoring endpoint asks for nothing."""
    (tmp_path / "token").write_text("let-me-in\n")
    sections = {
        "admin": {"bind": "127.0.0.1:0", "token": {"file": str(tmp_path / "token")}},
        "monitoring": {"bind": "127.0.0.1:0"},
    }
    async with scraped(written(route={"respond": "204"})) as daemon, trio.open_nursery() as nursery:
        reloader = Reloader(daemon.served.server, None)
        api = AdminApi(daemon.served.server, reloader, reloader.reload, metrics=daemon.metrics)
        monitoring = MonitoringApi(daemon.served.server, daemon.metrics)
        ports = {}
        endpoints = build_endpoints(api, monitoring, {}, nursery)
        for endpoint, name in zip(endpoints, sections, strict=True):
            await endpoint.prepare(config_of(written(route={"respond": "204"}, **sections)))
            endpoint.commit()
            opened = daemon.served.records.of("listener.opened", listener=name)[0]
            ports[name] = int(opened["listen_address"].rpartition(":")[2])

        async def answer(name: str, *lines: str) -> bytes:
            async with await trio.open_tcp_stream("127.0.0.1", ports[name]) as stream:
                head = "\r\n".join(("GET /metrics HTTP/1.1", "Host: 127.0.0.1", *lines))
                await stream.send_all(f"{head}\r\n\r\n".encode())
                return b"".join([part async for part in stream])

        assert (await answer("admin")).startswith(b"HTTP/1.1 401 ")
        for allowed in (await answer("admin", "Authorization: Bearer let-me-in"), await answer("monitoring")):
            assert allowed.startswith(b"HTTP/1.1 200 ")
            assert b"\nwsbridge_ready 1.0\n" in allowed
        for endpoint in endpoints:
            endpoint.close()
        nursery.cancel_scope.cancel()
