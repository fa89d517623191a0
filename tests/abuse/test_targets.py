"""Clients that choose what they may not: other ways of writing an address, names that change, our own listeners.

What is dialled is counted; whatever was wrong, the client learns the same.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.client import request
from tests.rejections import rejection_body, without_id
from tests.serving import Backend, Served, backend, serving, written
from wsbridge.auth.replay import MAX_CLOCK_SKEW_MS
from wsbridge.backends.dynamic import TokenFileTarget
from wsbridge.net import resolver
from wsbridge.protocol.ticket import Ticket, encode_ticket, new_ticket_id

PATH = {"path": "/to/{host}/{port}"}
ANY_PORT = ["1-65535"]


def route(**keys: Any) -> str:
    """Write a configuration with one route whose clients choose host and port."""
    app = {"match": PATH, "backend": "tcp://{host}:{port}", "auth": "none", **keys}
    return written(routes={"app": app}, limits={"dns_ttl": "1ms", "dns_negative_ttl": "1ms"})


async def answer(served: Served, path: str, *headers: str, listener: str = "web") -> str:
    """Ask, and give the whole answer; where it was a 101, its first line."""
    with await served.connect(listener) as client:
        await client.send(request(path, *headers))
        first = await client.take(12)
        if first.endswith(b" 101"):
            return first.decode()
        return (first + await client.everything()).decode()


async def refused(served: Served, path: str, *headers: str) -> dict[str, Any]:
    """Ask for what is refused, and give the line of the log; all refusals are the same to the client."""
    await served.quiet()
    before = len(served.records.endings)
    text = await answer(served, path, *headers)
    assert text.startswith("HTTP/1.1 403 ")
    assert without_id(text).endswith("\r\n\r\n" + rejection_body("forbidden"))
    line = await served.records.ended(before + 1)
    assert (line["reason"], line["initiator"], line["status"]) == ("forbidden", "client", 403)
    return line


def resolving(served: Served, answers: Callable[[str], Sequence[str]]) -> list[str]:
    """Let names have the addresses that the test says; gives the names that are asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [
            (socket.AF_INET6, 1, 6, "", (found, 0, 0, 0)) if ":" in found else (socket.AF_INET, 1, 6, "", (found, 0))
            for found in answers(host)
        ]

    served.server.services.resolver._getaddrinfo = getaddrinfo
    return asked


@contextlib.asynccontextmanager
async def twins() -> AsyncIterator[tuple[Backend, Backend]]:
    """Two backends on one port: at 127.0.0.1, which may be chosen, and at 127.0.0.2, which may not."""
    async with backend() as good:
        evil = Backend(good.port)
        (listener,) = await trio.open_tcp_listeners(good.port, host="127.0.0.2")

        async def count(stream: trio.SocketStream) -> None:
            evil.dials += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, count, [listener])
            yield good, evil
            nursery.cancel_scope.cancel()


LOOPBACK = {"networks": ["127.0.0.1/32"], "ports": ANY_PORT}


async def test_what_is_allowed_is_reached() -> None:
    """By address and by name; the log has the target and the real address."""
    async with backend() as back, serving(route(allowed_targets=LOOPBACK)) as served:
        resolving(served, lambda host: ["127.0.0.1"])
        for host in ("127.0.0.1", "db.example", "DB.example."):
            with await served.upgraded(f"/to/{host}/{back.port}") as client:
                await client.echoed()
                await client.close()
        await back.until(finished=3)
        ended = [await served.records.ended(number) for number in (1, 2, 3)]
        lines = sorted(ended, key=lambda line: line["id"])  # an engine may report ends that come together in any order
        assert [line["target"] for line in lines] == [
            f"tcp://127.0.0.1:{back.port}",
            f"tcp://db.example:{back.port}",
            f"tcp://db.example:{back.port}",
        ]
        assert {line["backend_address"] for line in lines} == {f"127.0.0.1:{back.port}"}


FORMS = [
    *("2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.01", "127.0.0.1."),
    *("017700000001", "[127.0.0.1]", "127.0.0.1:1", "127.0.0.1@x", "x@127.0.0.1", "127.0.0.1\\", "127.0.0.1#"),
    *("::1", "[::1]", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::127.0.0.1"),
    *("2002:7f00:1::", "::ffff:0:127.0.0.1", "fe80::1%lo", "::1%lo", "fe80::1%25lo", "::", "0.0.0.0", "0", "127.0.0.2"),
    *("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "192.0.0.192", "255.255.255.255"),
    *("224.0.0.1", "ff02::1", "①②⑦.⓪.⓪.①", "127\u30020\u30020\u30021", "\uff4cocalhost"),
    *("127.0.0.1 ", " 127.0.0.1", "127.0.0.1\0", "127.0.0.1\n", "127.0.0.1?"),
]


async def test_other_ways_of_writing_an_address() -> None:
    """None of them is dialled, with loopback allowed in the one way and with all networks allowed."""
    async with backend() as back:
        for networks in (["127.0.0.1/32"], ["0.0.0.0/0", "::/0", "::ffff:0:0/96", "64:ff9b::/96"]):
            config = written(
                routes={
                    "app": {
                        "match": {"path": "/{port}"},
                        "backend": "tcp://{query.host}:{port}",
                        "auth": "none",
                        "allowed_targets": {"networks": networks, "ports": ANY_PORT},
                    }
                }
            )
            async with serving(config) as served:
                for form in FORMS:
                    line = await refused(served, f"/{back.port}?host={quote(form)}")
                    assert "address" not in line, form
        assert back.dials == 0


@pytest.mark.parametrize("port", ["0", "65536", "022", "0x16", "+22", "22%20", "%32%32%00", "a", "-1"])
async def test_other_ways_of_writing_a_port(port: str) -> None:
    """All are refused."""
    async with serving(route(allowed_targets=LOOPBACK)) as served:
        text = await answer(served, f"/to/127.0.0.1/{port}")
        assert text.startswith(("HTTP/1.1 403 ", "HTTP/1.1 400 "))


async def test_a_name_that_changes_its_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged is what is dialled: a second look-up, which would lead elsewhere, is not made."""
    monkeypatch.setattr(resolver, "STALE_DELAY", 60.0)  # so that no old answer is used
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"])
    async with twins() as (good, evil), serving(route(allowed_targets=LOOPBACK)) as served:
        asked = resolving(served, lambda host: [next(answers)])
        for number in (1, 2):
            with await served.upgraded(f"/to/rebind.example/{good.port}") as client:
                await client.echoed()
            await served.quiet()
            assert (good.dials, evil.dials, len(asked)) == (number, 0, 2 * number - 1)
            await trio.sleep(0.01)  # longer than the answer is kept
            line = await refused(served, f"/to/rebind.example/{good.port}")
            assert "127.0.0.2" in line["detail"]
            await trio.sleep(0.01)
        assert (good.dials, evil.dials, len(asked)) == (2, 0, 4)


async def test_of_several_addresses_the_good_are_dialled() -> None:
    """In whatever order they come, and with special ones among them."""
    async with twins() as (good, evil), serving(route(allowed_targets=LOOPBACK)) as served:
        mixes = [
            ["127.0.0.2", "127.0.0.1"],
            ["127.0.0.1", "127.0.0.2"],
            ["169.254.169.254", "::1", "fe80::1", "127.0.0.1", "::ffff:127.0.0.2"],
        ]
        for number, mix in enumerate(mixes, 1):
            resolving(served, lambda host, mix=mix: mix)
            with await served.upgraded(f"/to/mix{number}.example/{good.port}") as client:
                await client.echoed()
            assert (good.dials, evil.dials) == (number, 0)
        resolving(served, lambda host: ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1"])
        line = await refused(served, f"/to/bad.example/{good.port}")
        assert all(address in line["detail"] for address in ("127.0.0.2", "10.0.0.1", "169.254.169.254", "[::1]"))
        assert (good.dials, evil.dials) == (3, 0)


async def test_a_name_that_is_not_allowed_is_not_looked_up() -> None:
    """Nothing leaves for the DNS."""
    targets = {"names": ["*.good.example"], **LOOPBACK}
    async with serving(route(allowed_targets=targets)) as served:
        asked = resolving(served, lambda host: ["127.0.0.1"])
        for name in ("evil.example", "good.example", "a.good.example.evil.example", "localhost"):
            await refused(served, f"/to/{name}/22")
        assert asked == []


@pytest.mark.parametrize(
    ("bind", "hosts"),
    [
        ("127.0.0.1:0", ["127.0.0.1", "gw.example"]),
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "gw.example"]),
        ("[::]:0", ["127.0.0.1", "127.0.0.2", "%5B::1%5D", "gw.example"]),
    ],
)
async def test_our_own_listeners(bind: str, hosts: list[str]) -> None:
    """A client cannot come back in from inside, unless that is written."""
    app = {"match": PATH, "backend": "tcp://{host}:{port}", "auth": "none"}
    for own in (False, True):
        targets = {"networks": ["127.0.0.0/8", "::1/128"], "ports": ANY_PORT, "allow_own_listeners": str(own).lower()}
        config = written(
            listeners={"web": {"bind": bind}},
            routes={"app": {**app, "allowed_targets": targets}},
            limits={"connections": "99"},
        )
        async with serving(config) as served:
            resolving(served, lambda host: ["127.0.0.1"])
            for host in hosts:
                path = f"/to/{host}/{served.port()}"
                if own:
                    assert (await answer(served, path)).endswith(" 101")
                else:
                    assert "allow_own_listeners is false" in (await refused(served, path))["detail"]


async def test_sockets_of_others(tmp_path: Path) -> None:
    """A client reaches the sockets of the directory: not ours, not those outside, by no path and no link."""
    (tmp_path / "run").mkdir()
    opened = []
    for name in ("run/a", "docker.sock"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / name))
        sock.listen()
        sock.setblocking(False)
        opened.append(sock)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "docker.sock")
    config = written(
        listeners={"web": {"bind": "127.0.0.1:0"}, "own": {"bind": f"unix:{tmp_path}/run/gw"}},
        routes={
            "app": {
                "match": "any",
                "auth": "none",
                "backend": f"unix:{tmp_path}/run/{{query.name}}",
                "allowed_targets": {"unix": [str(tmp_path / "run")]},
            }
        },
    )
    async with serving(config) as served:
        assert (await answer(served, "/?name=a")).endswith(" 101")
        opened[0].accept()[0].close()
        for name in (
            "..%2Fdocker.sock",
            "..",
            ".",
            "link",
            "gone",
            "gw",
            f"{quote(str(tmp_path), safe='')}%2Fdocker.sock",
        ):
            line = await refused(served, f"/?name={name}")
            assert line["path"] == "/?name=***"
        for sock in opened:
            with pytest.raises(BlockingIOError):
                sock.accept()
            sock.close()


@contextlib.asynccontextmanager
async def tokens(tmp_path: Path, **keys: Any) -> AsyncIterator[tuple[Backend, Served, list[int]]]:
    """A bridge with a list of tokens, its backend, and how often a token was looked up."""
    looked: list[int] = []
    pick = TokenFileTarget.select

    async def counted(self: TokenFileTarget, *rest: Any) -> Any:
        looked.append(1)
        return await pick(self, *rest)

    async with backend() as back:
        (tmp_path / "list").write_text(f"s3cret-a: 127.0.0.1:{back.port}\ns3cret-b: 10.0.0.1:22\n")
        app = {
            "match": "any",
            "auth": "none",
            "backend": {"tokens": "list", "token_from": "query.id"},
            "allowed_targets": LOOPBACK,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TokenFileTarget, "select", counted)
            async with serving(written(routes={"app": {**app, **keys}}), folder=tmp_path) as served:
                yield back, served, looked
                assert "s3cret" not in str(served.records.all)


async def test_a_token_leads_to_its_target(tmp_path: Path) -> None:
    """One that is unknown, that occurs twice or that leads to what is not allowed is rejected in the same way."""
    async with tokens(tmp_path) as (back, served, _):
        with await served.upgraded("/?id=s3cret-a") as client:
            await client.echoed()
        for query in ("id=s3cret-b", "id=s3cret-c", "", "id=", "id=s3cret-a&id=s3cret-a", "ID=other", "id=%FF"):
            await refused(served, f"/?{query}")
        assert back.dials == 1


async def test_a_token_is_looked_up_for_those_who_may_ask(tmp_path: Path) -> None:
    """After Origin and authentication: before, a right one and a wrong one are the same, and neither is looked up."""
    auth = {"kind": "network", "allow": ["192.0.2.0/24"]}
    async with tokens(tmp_path, auth=auth) as (back, served, looked):
        answers = {without_id(await answer(served, f"/?id={token}")) for token in ("s3cret-a", "s3cret-x")}
        assert len(answers) == 1
        assert (back.dials, looked) == (0, [])
    async with tokens(tmp_path) as (back, served, looked):
        for token in ("s3cret-a", "s3cret-x"):
            text = await answer(served, f"/?id={token}", "Origin: https://evil.example")
            assert "\r\n\r\norigin_not_allowed: " in text
        assert (back.dials, looked) == (0, [])


async def test_a_cookie_chooses_for_pages_of_the_same_origin_alone(tmp_path: Path) -> None:
    """A page of another site, a request without Origin, a duplicate and a huge cookie reach nothing."""
    from_cookie = {"tokens": "list", "token_from": "cookie.id"}
    async with tokens(tmp_path, backend=from_cookie) as (back, served, looked):
        same = "Origin: http://localhost"
        with await served.upgraded("/", "Cookie: a=b; id=s3cret-a", same) as client:
            await client.echoed()
        for lines in (["Origin: https://evil.example"], ["Origin: null"], []):
            text = await answer(served, "/", "Cookie: id=s3cret-a", *lines)
            assert "\r\n\r\norigin_not_allowed: " in text
        assert len(looked) == 1  # only for the page of the same origin
        for cookie in (
            "id=s3cret-a; id=s3cret-a",
            "id=s3cret-a; id=s3cret-b",
            "id=s3cret-c",
            "id=" + "s" * 7000,
            "id=",
        ):
            assert " 403" in (await answer(served, "/", f"Cookie: {cookie}", same)).partition("\r\n")[0]
        assert " 431" in (await answer(served, "/", f"Cookie: id={'s' * 9000}", same)).partition("\r\n")[0]
        assert back.dials == 1


async def test_after_the_upgrade_it_is_a_close_code(tmp_path: Path) -> None:
    """1008 and the word, for an unknown token as for a target that is not allowed."""
    async with tokens(tmp_path, dial={"when": "after-upgrade"}) as (back, served, _):
        for token in ("s3cret-b", "s3cret-c"):
            with await served.upgraded(f"/?id={token}") as client:
                assert await client.closing() == (1008, "forbidden")
        assert back.dials == 0


async def test_connections_of_one_token_are_limited(tmp_path: Path) -> None:
    """So a token that has leaked cannot use up all of them; an unknown one is not counted."""
    async with tokens(tmp_path, limits={"connections_per_token": "1"}) as (back, served, _):
        for _ in range(3):
            await refused(served, "/?id=unknown")
        with await served.upgraded("/?id=s3cret-a") as client:
            await client.echoed()
            text = await answer(served, "/?id=s3cret-a")
            assert text.startswith("HTTP/1.1 429 ")
            assert back.dials == 1
        await served.quiet()
        with await served.upgraded("/?id=s3cret-a") as client:
            await client.echoed()


KEY = "k" * 32


def ticket(target: str) -> str:
    """Write a ticket of the route that leads to one target."""
    now = int(time.time() * 1000) + MAX_CLOCK_SKEW_MS  # of another host, for a process that has just started
    return encode_ticket(Ticket(new_ticket_id(), "app", now, now + 30_000, "alice", {}, target=target), KEY.encode())


async def test_a_ticket_leads_to_its_target_alone(tmp_path: Path) -> None:
    """By `{target}`, by fields that come to the same, and by a fixed backend that is the one; never elsewhere."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    async with twins() as (good, evil):
        here, there = f"tcp://127.0.0.1:{good.port}", f"tcp://127.0.0.2:{good.port}"
        both = {"networks": ["127.0.0.1/32", "127.0.0.2/32"], "ports": ANY_PORT}
        auth = {"kind": "ticket", "key": {"file": "key"}}
        for url, targets in (
            ("{target}", LOOPBACK),
            ({"url": "{target}", "schemes": ["tcp"]}, LOOPBACK),
            ("tcp://{query.host}:{query.port}", both),
            (here, None),
        ):
            app = {"match": "any", "auth": auth, "backend": url, **({"allowed_targets": targets} if targets else {})}
            query = f"host=127.0.0.1&port={good.port}"
            async with serving(written(routes={"app": app}), folder=tmp_path) as served:
                dials = good.dials
                with await served.upgraded(f"/?{query}&ticket={ticket(here)}") as client:
                    await client.echoed()
                others = [there, f"tcp://2130706433:{good.port}"]
                if "{target}" not in str(url):
                    others += ["tcp://127.0.0.1:1", f"tls://127.0.0.1:{good.port}"]
                for other in others:
                    await refused(served, f"/?{query}&ticket={ticket(other)}")
                assert (good.dials, evil.dials) == (dials + 1, 0)


async def test_labels_of_the_host_choose_what_is_allowed_only():
    """A label is one of letters, digits, - and _; whatever else a Host has, nothing else is dialled."""
    async with backend() as allowed, backend() as other:
        app = {
            "match": {"host": "{port}.tenants.example.org"},
            "backend": "tcp://127.0.0.1:{port}",
            "auth": "none",
            "allowed_targets": {"networks": ["127.0.0.0/8"], "ports": [allowed.port]},
        }
        async with serving(written(routes={"app": app}, listeners={"web": {"bind": "127.0.0.1:0"}})) as served:
            for host, status in (
                (f"{allowed.port}.tenants.example.org", b"101"),
                (f"{allowed.port}.TENANTS.example.org.:8080", b"101"),
                (f"{other.port}.tenants.example.org", b"403"),
                (f"0{allowed.port}.tenants.example.org", b"403"),
                (f"a.{allowed.port}.tenants.example.org", b"404"),
                ("tenants.example.org", b"404"),
                (f"{allowed.port}.tenants.example.org.evil.example", b"404"),
                (f"{allowed.port}%2e.tenants.example.org", b"400"),
            ):
                with await served.connect() as client:
                    await client.send(request("/", host=host))
                    assert (await client.take(12))[9:] == status, host
            await served.quiet()
            assert (allowed.dials, other.dials) == (2, 0)
