"""Sessions go on by way of systemd's descriptor store; with real processes: process/test_session_restart."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.authority import folder, server_context
from tests.serving import Backend, Served, accept_upgrade, backend, echo, open_files, serving, written
from tests.sessions.client import SessionClient, clients, opened, route_of
from tests.sessions.descriptor_store import StandInStore, stop, storing
from wsbridge.admin.stored_sessions import StoredSessions
from wsbridge.net import descriptor_store
from wsbridge.net.sealed_file import SEALS, read_sealed_file, write_sealed_file
from wsbridge.reasons import Reason
from wsbridge.sessions.handover import SessionAdopter
from wsbridge.sessions.saved_state import LIST_MAGIC, SAVED_STATE_VERSION, SESSION_MAGIC

LOST = (4004, "session_lost")
LIST_NAME = "wsbridge-sessions"
REST: dict[str, Any] = {
    "limits": {"detached_sessions_per_identity": 1000},
    "timeouts": {"drain": "100ms", "drain_spread": "0s"},
}


@contextlib.asynccontextmanager
async def stored_sessions(
    count: int, max_descriptors: int = 1000
) -> AsyncIterator[tuple[Backend, StandInStore, str, list[SessionClient]]]:
    """Leave sessions in the store; gives the backend, the store, the configuration and the clients."""
    async with backend() as back, storing(max_descriptors) as store:
        text = route_of(back, **REST)
        async with store.service(text) as served, clients(served.port(), count) as found:
            for one in found:
                await opened(one)
            await stop(served)
            yield back, store, text, found


async def resumes(client: SessionClient, served: Served, path: str = "/") -> None:
    """Go on over another transport, and send bytes that come back."""
    client.port = served.port()
    await client.resume(path)
    size = len(client.received)
    await client.send(b"more")
    await client.until(lambda: len(client.received) == size + 4)


async def ends(client: SessionClient, served: Served, path: str = "/") -> tuple[int | None, str] | None:
    """Come back, and give how the session ends."""
    client.port = served.port()
    if not client.ended:
        await client.connect(path)
        await client.until(lambda: client.ended)
    return client.end


async def test_what_cannot_go_on_is_lost() -> None:
    """A backend under TLS, and a session for which the store has no room; a route that has changed ends its session."""

    async def tls_echo(stream: trio.SocketStream) -> None:
        await echo(trio.SSLStream(stream, server_context(), server_side=True))

    async with backend() as back, backend() as other, backend(tls_echo) as tls, storing(5) as store:
        far = {"url": tls.url.replace("tcp", "tls"), "ca": str(folder() / "ca.pem"), "server_name": "localhost"}
        targets = {"tls": far, "app": back.url, "changed": back.url, "late": back.url}

        def text(**changes: str) -> str:
            routes = {
                name: {"match": {"path": f"/{name}"}, "backend": url, "auth": "none", "resume": {}}
                for name, url in {**targets, **changes}.items()
            }
            return written(routes=routes, **REST)

        async with store.service(text()) as served, clients(served.port(), 4) as found:
            for name, one in zip(targets, found, strict=True):
                await opened(one, f"/{name}")
            await stop(served)
            (full,) = served.records.of("session.closed", route="late")
            assert full["detail"] == "the descriptor store is full: FileDescriptorStoreMax is 5"
            (line,) = served.records.of("sessions.handed_over")
            assert (line["count"], line["lost"]) == (2, 2)
            async with store.next_service(text(changed=other.url), 1, 1, 2) as after:
                far_one, app, changed, late = found
                await resumes(app, after, "/app")
                assert await ends(far_one, after, "/tls") == LOST
                assert await ends(late, after, "/late") == LOST
                assert await ends(changed, after, "/changed") == (4009, "route_removed")
                assert store.stored == []


async def test_one_that_has_ended_is_not_lost() -> None:
    """It still waits for its WebSocket backend, which does not answer the close frame."""

    async def silent(stream: trio.SocketStream) -> None:
        await accept_upgrade(stream)
        await release.wait()

    release = trio.Event()
    async with backend(silent) as back, storing() as store:
        text = route_of(back, **{**REST, "timeouts": {**REST["timeouts"], "close": "1s"}}).replace("tcp://", "ws://")
        async with store.service(text) as served, clients(served.port(), 2) as (ended, lost):
            for one in (ended, lost):
                await opened(one)
            served.server.services.sessions.sessions[ended.machine.session_id].end(Reason.CLOSED_BY_OPERATOR, "")
            await stop(served)
            (line,) = served.records.of("sessions.handed_over")
            assert (line["count"], line["lost"]) == (0, 1)
            assert {line["reason"] for line in served.records.of("session.closed")} == {
                "closed_by_operator",
                "session_lost",
            }
            async with store.next_service(text, 0, 0, 1) as after:
                assert await ends(lost, after) == LOST
            release.set()


async def test_without_a_thread_they_are_stored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the limit of tasks of the unit."""

    async def fail(*_: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    async with backend() as back, storing() as store:
        text = route_of(back, **REST)
        async with store.service(text) as served, clients(served.port(), 2) as found:
            for one in found:
                await opened(one)
            with monkeypatch.context() as patch:
                patch.setattr(trio.to_thread, "run_sync", fail)
                await stop(served)
            async with store.next_service(text, 2, 0, 0) as after:
                for one in found:
                    await resumes(one, after)


async def test_other_connections_have_the_drain() -> None:
    """The sessions stay attached until the last other connection has ended, and go on."""
    async with backend() as back, storing() as store:
        text = route_of(back, **{**REST, "timeouts": {"drain": "10s"}})
        async with store.service(text) as served, clients(served.port(), 1) as (client,):
            await opened(client)
            with await served.upgraded() as plain:
                served.server.stop(Reason.DRAINING)
                await client.send(b"x" * 32)
                await client.until(lambda: len(client.received) == 32)
                await plain.echoed()
                assert client.going_away is None
            await served.returned.wait()
            assert client.going_away is not None
            async with store.next_service(text, 1, 0, 0) as after:
                await resumes(client, after)


def of_another_version(descriptor: int, magic: bytes) -> int:
    """Write a state again, as another version would."""
    content = read_sealed_file(descriptor, 1 << 20)
    assert content.startswith(magic)
    return write_sealed_file("test", [magic, struct.pack(">I", 99), content[len(magic) + 4 :]])


def unsealed(descriptor: int, magic: bytes) -> int:
    """Write a state again, so that it could still be changed."""
    copy = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(copy, read_sealed_file(descriptor, 1 << 20))
    return copy


def cut_off(descriptor: int, magic: bytes) -> int:
    """Write the beginning of a state."""
    return write_sealed_file("test", [read_sealed_file(descriptor, 1 << 20)[:-1]])


def too_large(descriptor: int, magic: bytes) -> int:
    """Write a file that is larger than any state; it has no content in memory."""
    copy = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(copy, 1 << 30)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    return copy


def a_pipe(descriptor: int, magic: bytes) -> int:
    """Give what is no file at all."""
    reader, writer = os.pipe()
    os.close(writer)
    return reader


@pytest.mark.parametrize("part", ["list", "state"])
@pytest.mark.parametrize(
    ("replace", "detail"),
    [
        (of_another_version, f"is of version 99, and this process has {SAVED_STATE_VERSION}"),
        (unsealed, "is no sealed file"),
        (cut_off, "is damaged"),
        (too_large, "has 1073741824 bytes, and at most"),
        (a_pipe, "is no sealed file"),
    ],
)
async def test_a_state_that_cannot_be_used(part: str, replace: Callable[[int, bytes], int], detail: str) -> None:
    """Of the list: all sessions are lost; of one session: that one. Each has a line, and its client gets 4004."""
    async with stored_sessions(2) as (back, store, text, found):
        wanted = LIST_NAME if part == "list" else f"wsbridge-session-{found[0].machine.session_id.hex()}"
        for at, (name, number) in enumerate(store.stored):
            if name == wanted and not stat.S_ISSOCK(os.fstat(number).st_mode):
                store.stored[at] = (name, replace(number, LIST_MAGIC if part == "list" else SESSION_MAGIC))
                os.close(number)
        before = open_files()
        count = 2 if part == "list" else 1
        async with store.next_service(text, 2 - count, 0, count) as after:
            lost = after.records.of("session.lost")
            assert len(lost) == count
            assert all(detail in line["detail"] for line in lost)
            await back.until(lost=count)
            assert await ends(found[0], after) == LOST
            if part == "state":
                await resumes(found[1], after)
            assert store.stored == []
        await back.until(open=0)
        with trio.fail_after(9):
            while open_files() > before - 4 - count:  # what was stored, and the connections of the backend
                await trio.sleep(0.01)


@pytest.mark.parametrize("extra", ["state", "connection", "nothing"])
async def test_too_many_and_too_few_descriptors_of_a_session(extra: str) -> None:
    """Such a session is lost, and all of them are closed."""
    async with stored_sessions(1) as (back, store, text, (client,)):
        name = f"wsbridge-session-{client.machine.session_id.hex()}"
        one, other = socket.socketpair()
        if extra == "state":
            store.stored.append((name, write_sealed_file("test", [b"x"])))
        elif extra == "connection":
            store.stored.append((name, one.detach()))
        else:
            at = next(at for at, (_, number) in enumerate(store.stored) if stat.S_ISSOCK(os.fstat(number).st_mode))
            os.close(store.stored.pop(at)[1])
        one.close()
        async with store.next_service(text, 0, 0, 1) as after:
            await back.until(lost=1)
            assert await ends(client, after) == LOST
            assert store.stored == []
        if extra == "connection":
            other.settimeout(5)
            assert other.recv(1) == b""
        other.close()


async def test_a_connection_that_leaves_the_store_is_reset() -> None:
    """`systemctl stop` empties it: to the backend that is no end in order."""
    async with stored_sessions(2) as (back, store, _, _):
        assert back.open == 2
        store.empty()
        await back.until(lost=2)


async def test_a_store_that_takes_nothing_ends_all_sessions() -> None:
    """It has gone: the clients get 4004, and the log says why."""
    async with backend() as back, storing() as store, contextlib.AsyncExitStack() as stack:
        text = route_of(back, **REST)
        store.environ["NOTIFY_SOCKET"] += "-gone"
        served = await stack.enter_async_context(store.service(text))
        (client,) = await stack.enter_async_context(clients(served.port(), 1))
        await opened(client)
        await stop(served)
        assert "cannot be notified" in served.records.of("sessions.not_stored")[0]["detail"]
        assert "cannot be notified" in served.records.of("session.closed")[0]["detail"]
        await client.until(lambda: client.ended)
        assert client.end == LOST
        await back.until(lost=1)


async def test_a_store_that_cannot_be_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions go on nevertheless; it is waited for one message, and for no other."""
    async with stored_sessions(8) as (_, store, text, found):
        store.stall()
        monkeypatch.setattr(descriptor_store, "STORE_TIMEOUT", 0.3)
        async with store.next_service(text, 8, 0, 0) as after:
            assert len(after.records.of("sessions.not_removed")) == 1
            await resumes(found[0], after)


async def test_what_stays_in_the_store_is_removed_before_the_next_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be two states of each session then."""
    async with stored_sessions(2) as (_, store, text, found):
        store.stall()
        monkeypatch.setattr(descriptor_store, "STORE_TIMEOUT", 0.3)
        async with store.next_service(text, 2, 0, 0) as second:
            monkeypatch.undo()
            await resumes(found[0], second)
            store.resume()
            await stop(second)
        async with store.next_service(text, 2, 0, 0) as third:
            for one in found:
                await resumes(one, third)
            assert store.stored == []


@contextlib.asynccontextmanager
async def unix_echo(path: Path) -> AsyncIterator[str]:
    """Run an echo backend at a Unix socket; gives its URL."""

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await echo(stream)

    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(sock)])
        yield f"unix:{path}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_crash_after_an_adoption_that_could_not_empty_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """The states in the store are old ones: no session goes on from them."""
    async with backend() as back, unix_echo(tmp_path / "back") as url, storing() as store:
        text = written(route={"backend": url if kind == "unix" else back.url, "resume": {}}, **REST)
        async with store.service(text) as served, clients(served.port(), 1) as (client,):
            await opened(client)
            await stop(served)
            store.stall()
            monkeypatch.setattr(descriptor_store, "STORE_TIMEOUT", 0.3)
            async with store.next_service(text, 1, 0, 0) as second:
                monkeypatch.undo()
                await resumes(client, second)
                client.cut()
                store.resume()
                async with store.next_service(text, 0, 0, 1) as third:
                    assert "has gone on since" in third.records.of("session.lost")[0]["detail"]
                    assert await ends(client, third) == LOST


async def test_a_session_that_ends_at_its_adoption_is_audited(tmp_path: Path) -> None:
    """With whose it was, and with what it has carried in the process before."""
    path = tmp_path / "audit.jsonl"
    async with backend() as back, backend() as other, storing() as store:

        def text(of: Backend) -> str:
            auth = {"kind": "network", "allow": ["127.0.0.0/8"]}
            return route_of(of, auth=auth, audit={"file": str(path)}, **REST)

        async with store.service(text(back)) as served, clients(served.port(), 1) as (client,):
            await opened(client)
            await client.send(b"12345")
            await client.until(lambda: client.received == b"12345")
            await stop(served)
            async with store.next_service(text(other), 0, 1, 0):
                pass
    records = [json.loads(line) for line in path.read_text().splitlines()]
    before, after = [record for record in records if record["event"] == "session.ended"]
    assert (before["reason"], after["reason"]) == ("handed_over", "route_removed")
    for key in ("session", "peer", "listener", "route", "auth_method", "backend_address", "bytes_to_backend"):
        assert before[key] == after[key]


async def test_a_restart_while_sessions_are_adopted() -> None:
    """The process in between waits until it has all, since the next one expects only what that has stored."""
    async with stored_sessions(3) as (_, store, text, found):
        async with serving(text, passed_sockets=store.pass_on()) as between, trio.open_nursery() as nursery:
            server = between.server
            stored = StoredSessions(server, store.environ)
            await stored.read_list()
            store.stall()
            adopter = SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)
            nursery.start_soon(stored.adopt_sessions, adopter)
            server.stop(Reason.DRAINING)
            with trio.move_on_after(0.3):  # the drain takes 0.1
                await between.returned.wait()
            store.resume()
            await between.returned.wait()
        stored.close()
        async with store.next_service(text, 3, 0, 0) as after:
            for one in found:
                await resumes(one, after)


async def test_a_process_that_is_stopped_before_it_adopts_anything() -> None:
    """It leaves all in the store."""
    async with stored_sessions(2) as (_, store, text, found):
        async with serving(text, passed_sockets=store.pass_on()) as between:
            stored = StoredSessions(between.server, store.environ)
            await stored.read_list()
            await stop(between)
        stored.close()
        async with store.next_service(text, 2, 0, 0) as after:
            for one in found:
                await resumes(one, after)


async def test_a_second_restart() -> None:
    """What was adopted is stored again; bytes are counted over all processes."""
    async with stored_sessions(2) as (back, store, text, found):
        async with store.next_service(text, 2, 0, 0) as second:
            await resumes(found[0], second)
            await stop(second)
        assert len(store.stored) == 5
        async with store.next_service(text, 2, 0, 0) as third:
            await resumes(found[1], third)
            await resumes(found[0], third)
            await found[0].leave(1000)
            line = await third.records.wait("session.closed")
            assert (line["bytes_to_backend"], line["bytes_to_client"], line["transports"]) == (8, 8, 3)
            assert back.dials == 2
