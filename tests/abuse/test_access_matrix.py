"""Every kind of route by every kind of authentication by all that can be shown: who gets in, and nobody else."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.abuse.ways_in import NOTHING, OTHER, Shown, Way, answer, ways
from tests.authority import client_context, folder, server_context
from tests.client import request
from tests.client_authority import ClientAuthority
from tests.rejections import rejection_body, without_id
from tests.serving import Backend, Served, accept_upgrade, backend, echo, serving, written
from wsbridge.registry import AUTH

KINDS = sorted(AUTH.keys() - {"none"})


async def speaks(stream: trio.SocketStream) -> None:
    """Serve as any backend: TLS or WebSocket where that is asked for, else an echo."""
    peeked = await stream.socket.recv(1, socket.MSG_PEEK)
    if peeked == b"\x16":
        tls = trio.SSLStream(stream, server_context(), server_side=True)
        await tls.do_handshake()
        while await tls.receive_some(65536):
            pass
    elif peeked == b"G":
        await accept_upgrade(stream)
        await echo(stream)
    else:
        await echo(stream)


@contextlib.asynccontextmanager
async def unix(path: Path, state: Backend) -> AsyncIterator[None]:
    """Serve at a Unix socket, and count its dials with the others."""
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()

    async def serve() -> None:
        while True:
            theirs, _ = await sock.accept()
            state.dials += 1
            theirs.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield
        nursery.cancel_scope.cancel()
    sock.close()


def goals(tmp_path: Path, port: int) -> dict[str, tuple[dict[str, Any], str, str]]:
    """Give each kind of route: its keys, what is asked for, and how."""
    (tmp_path / "page").mkdir(exist_ok=True)
    (tmp_path / "page" / "x.txt").write_text("inside")
    (tmp_path / "list").write_text(f"known: 127.0.0.1:{port}\n")
    targets = {"networks": ["127.0.0.1/32"], "ports": [str(port)]}
    tls = {"url": f"tls://localhost:{port}", "ca": str(folder() / "ca.pem")}
    listed = {"tokens": str(tmp_path / "list"), "token_from": "query.to"}
    tickets = {"route": "takes", "key": {"file": "tickets"}}
    return {
        "tcp": ({"backend": f"tcp://127.0.0.1:{port}"}, "/tcp?", "upgrade"),
        "late": ({"backend": f"tcp://127.0.0.1:{port}", "dial": {"when": "after-upgrade"}}, "/late?", "upgrade"),
        "tls": ({"backend": tls}, "/tls?", "upgrade"),
        "unix": ({"backend": f"unix:{tmp_path}/sock"}, "/unix?", "upgrade"),
        "ws": ({"backend": f"ws://127.0.0.1:{port}/"}, "/ws?", "upgrade"),
        "files": ({"files": str(tmp_path / "page")}, "/files/x.txt?", "GET"),
        "respond": ({"respond": "204"}, "/respond?", "GET"),
        "gives": ({"issue_tickets": tickets}, "/gives?", "POST"),
        "chosen": (
            {"backend": "tcp://127.0.0.1:{query.port}", "allowed_targets": targets},
            f"/chosen?port={port}&",
            "upgrade",
        ),
        "forbidden": (
            {"backend": "tcp://127.0.0.1:{query.port}", "allowed_targets": targets},
            "/forbidden?port=1&",
            "upgrade",
        ),
        "listed": ({"backend": listed, "allowed_targets": targets}, "/listed?to=known&", "upgrade"),
        "unlisted": ({"backend": listed, "allowed_targets": targets}, "/unlisted?to=unknown&", "upgrade"),
        OTHER: ({"backend": f"tcp://127.0.0.1:{port}"}, f"/{OTHER}?", "upgrade"),
    }


RIGHT = {"GET": {"files": 200, "respond": 204}, "POST": {"gives": 200}}
CHOSEN_WRONG = {"forbidden", "unlisted"}


def configuration(tmp_path: Path, port: int, way: Way, clients: ClientAuthority) -> str:
    """Write one listener with TLS for all routes, and one that speaks tcp where the kind can do without a request."""
    routes: dict[str, Any] = {}
    for name, (keys, path, _) in goals(tmp_path, port).items():
        if name == "gives" and way.here.get("kind") == "ticket":
            continue  # tickets are issued to identities of other methods
        pattern = "/files/*" if name == "files" else path.partition("?")[0]
        auth = way.there if name == OTHER else way.here
        routes[name] = {"match": {"path": pattern}, "auth": auth, **keys}
    takes = {"kind": "ticket", "key": {"file": "tickets"}}
    routes["takes"] = {"match": {"path": "/takes"}, "auth": takes, "backend": "tcp://127.0.0.1:9"}
    tls = clients.listener_tls("optional")
    listeners: dict[str, Any] = {"web": {"bind": "127.0.0.1:0", "tls": tls}}
    if way.raw:
        listeners["raw"] = {"bind": "127.0.0.1:0", "tls": tls, "protocol": "tcp", "route": "tcp"}
    return written(listeners=listeners, routes=routes, timeouts={"lingering": "100ms"})


async def connected(served: Served, context: ssl.SSLContext | None, name: str = "web") -> trio.SSLStream[Any]:
    """Connect by TLS."""
    plain = await trio.open_tcp_stream("127.0.0.1", served.port(name))
    return trio.SSLStream(plain, context or client_context(), server_hostname="localhost", https_compatible=True)


async def ask(served: Served, path: str, how: str, shown: Shown) -> tuple[int, bytes]:
    """Ask for a route; give status and answer, which are nothing where the handshake failed."""
    target = path + shown.query if shown.query else path.rstrip("?&")
    data = request(target, *shown.lines)
    if how != "upgrade":
        lines = "".join(f"{line}\r\n" for line in shown.lines)
        data = f"{how} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode()
    stream = await connected(served, shown.context)
    got = b""
    try:
        await stream.send_all(data)
        while more := await stream.receive_some(65536):
            got += more
            if got.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in got:
                break
    except (trio.BrokenResourceError, ssl.SSLError):
        pass
    finally:
        stream.transport_stream.socket.close()
    return (int(got.split()[1]) if got else 0), got


@contextlib.asynccontextmanager
async def running(tmp_path: Path, kind: str) -> AsyncIterator[tuple[Served, Backend, Way]]:
    """Serve all routes by one kind."""
    async with backend(answer) as service, backend(speaks) as back, unix(tmp_path / "sock", back):
        clients = ClientAuthority(tmp_path)
        way = ways(tmp_path, service.port, clients)[kind]
        text = configuration(tmp_path, back.port, way, clients)
        async with serving(text, folder=tmp_path) as served:
            yield served, back, way


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_gets_in_who_may_not(tmp_path: Path, kind: str) -> None:
    """Without, with wrong, expired or other routes' credentials nothing is dialled, and all get the same answer."""
    async with running(tmp_path, kind) as (served, back, way):
        for name, (_, path, how) in goals_of(served, tmp_path, back).items():
            responses = set()
            for case, make in {"none": lambda _: NOTHING, **way.cases}.items():
                if case == "right":
                    continue
                status, got = await ask(served, path, how, make(name))
                assert status == (0 if case in way.unheard else way.status), (name, case, got)
                if status:
                    responses.add(without_id(got.decode()))
            assert len(responses) == 1, name
            reason = "forbidden" if way.status == 403 else "unauthenticated"
            assert responses.pop().endswith("\r\n\r\n" + rejection_body(reason))
        await served.quiet()
        assert back.dials == 0
        reasons = {line["reason"] for line in served.records.endings} - {"tls_failed"}
        assert reasons == {"forbidden" if way.status == 403 else "unauthenticated"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "network"])
async def test_whoever_may_gets_in(tmp_path: Path, kind: str) -> None:
    """With the right ones each route answers or dials, once; what may not be chosen is 403 and no dial even then."""
    async with running(tmp_path, kind) as (served, back, way):
        for name, (_, path, how) in goals_of(served, tmp_path, back).items():
            before = back.dials
            status, got = await ask(served, path, how, way.cases["right"](name))
            wanted = 403 if name in CHOSEN_WRONG else 101 if how == "upgrade" else RIGHT[how][name]
            assert status == wanted, (name, got)
            await served.quiet()
            with trio.fail_after(9):
                while back.dials != before + (status == 101):
                    await trio.sleep(0.005)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ticket"])
async def test_what_is_good_elsewhere_is_good_there(tmp_path: Path, kind: str) -> None:
    """Credentials that were rejected at another route are accepted at their own."""
    async with running(tmp_path, kind) as (served, back, way):
        shown = way.cases["elsewhere"](OTHER) if kind != "network" else NOTHING
        status, got = await ask(served, f"/{OTHER}?", "upgrade", shown)
        assert status == 101, got
        await back.until(dials=1)


@pytest.mark.parametrize("kind", ["network", "certificate"])
async def test_a_raw_client_that_may_not_is_cut(tmp_path: Path, kind: str) -> None:
    """Where no request is heard, a refusal is the end of the connection, with nothing dialled and nothing said."""
    async with running(tmp_path, kind) as (served, back, way):
        for case, make in {"none": lambda _: NOTHING, **way.cases}.items():
            dials = back.dials
            stream = await connected(served, make("tcp").context, "raw")
            try:
                await stream.send_all(b"hello")
                got = bytes(await stream.receive_some(65536))
            except (trio.BrokenResourceError, ssl.SSLError):
                got = b""
            finally:
                stream.transport_stream.socket.close()
            assert got == (b"hello" if case == "right" else b""), case
            assert back.dials == dials + (case == "right"), case


def test_every_kind_is_here(tmp_path: Path) -> None:
    """A kind that is new must say here what it is shown."""
    assert sorted(ways(tmp_path, 1, ClientAuthority(tmp_path))) == KINDS


def goals_of(served: Served, tmp_path: Path, back: Backend) -> dict[str, tuple[dict[str, Any], str, str]]:
    """Give the routes that are served, but for the other one."""
    known = served.server.generation.routes
    found = {name: goal for name, goal in goals(tmp_path, back.port).items() if name in known and name != OTHER}
    assert len(found) >= 11
    return found
