"""Sessions go from one server to the next, both in this process: each is in one of them at any time, or ends.

With real processes: process/test_session_takeover. By way of systemd: test_stored_sessions.
"""

from __future__ import annotations

import array
import contextlib
import copy
import dataclasses
import functools
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.admin.takeovers import Running, Successor, asking, running, taking_over
from tests.authority import folder, server_context
from tests.serving import Backend, Served, accept_upgrade, backend, echo, open_files, reset, serving, written
from tests.sessions.client import SessionClient, clients, opened, route_of, session
from wsbridge import revocation
from wsbridge.admin import takeover
from wsbridge.net.sealed_file import write_sealed_file
from wsbridge.net.shared_socket import set_reset_on_close
from wsbridge.protocol.resume_frames import REJECTED_TEXT
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.reasons import Reason, Rejected, Termination
from wsbridge.sessions import handover
from wsbridge.sessions.handover import SessionAdopter, digest_route, save_session
from wsbridge.sessions.saved_state import SAVED_STATE_VERSION, SavedList, SavedSession, encode_session

LOST = (4004, "session_lost")
LIMITS = {"detached_sessions_per_identity": 1000}


def ready(session_state: int = SAVED_STATE_VERSION) -> bytes:
    """Write what a process says that keeps one listener and the admin socket."""
    return b'{"kept": [true, true], "session_state": %d}\n' % session_state


def text_of(back: Backend, place: Path, **rest: Any) -> str:
    """Write a configuration with one route that has resumable sessions."""
    rest = {"resume": {"ttl": "20s"}, "limits": LIMITS, "admin": {"bind": f"unix:{place}/admin.sock"}, **rest}
    return route_of(back, **rest)


@contextlib.asynccontextmanager
async def with_sessions(
    place: Path, count: int, handler: Any = echo, **rest: Any
) -> AsyncIterator[tuple[Backend, Running, str, list[SessionClient]]]:
    """Run a server with so many open sessions; gives the backend, the server, its configuration and the clients."""
    async with backend(handler) as back:
        text = text_of(back, place, **rest)
        async with (
            running(text, place / "admin.sock") as first,
            clients(first.served.port(), count) as found,
        ):
            for one in found:
                await opened(one)
            yield back, first, text, found


@contextlib.asynccontextmanager
async def succeeded(first: Running, text: str, *expected: int) -> AsyncIterator[Successor]:
    """Run a server that takes over, and adopts, ends and loses as many sessions as expected."""
    async with taking_over(first.path, text) as second:
        assert await second.adopt() == expected
        yield second


async def echoes(client: SessionClient) -> None:
    """Send bytes over a session, which come back."""
    size = len(client.received)
    await client.send(b"more")
    await client.until(lambda: len(client.received) == size + 4 or client.ended)
    assert client.received.endswith(b"more")


async def ends(client: SessionClient, path: str = "/") -> tuple[int | None, str] | None:
    """Come back, and give how the session ends."""
    if not client.ended:
        await client.connect(path)
        await client.until(lambda: client.ended)
    return client.end


async def receive_until(stream: trio.SocketStream, part: bytes, count: int = 0) -> tuple[bytes, list[int]]:
    """Receive messages of the running process, and so many descriptors; the kernel drops others."""
    data, descriptors = b"", array.array("i")
    while part not in data or len(descriptors) < count:
        more, rights, *_ = await stream.socket.recvmsg(65536, socket.CMSG_SPACE(4 * count) if count else 0)
        data += more
        for _, _, value in rights:
            descriptors.frombytes(value)
    return data, list(descriptors)


async def given_away(first: Running) -> tuple[int, int, int]:
    """Wait until all sessions are given away; give how many were, how many are lost and how many are left."""
    line = await first.served.records.wait("sessions.handed_over")
    return line["count"], line["lost"], line["left"]


# ------------------------------------------------------------------ what goes on, and what does not


async def scripted(stream: trio.SocketStream, stalled: trio.Event | None = None) -> None:
    """Echo a line, and do what it says: end the stream behind an answer, read nothing for now, be reset, or nothing.

    Then echo what comes.
    """
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some(100)
    await stream.send_all(line)
    command, size = line.split()
    await stream.send_all(b"x" * int(size))
    if command == b"fin":
        await stream.send_eof()
    elif command == b"stall" and stalled is not None:
        await stalled.wait()
    elif command == b"reset":
        await trio.sleep(0.2)  # a reset destroys what was not read
        reset(stream)
        return
    await echo(stream)


async def test_sessions_in_every_state_go_on(tmp_path: Path) -> None:
    """Detached or not, with bytes that wait, half-closed by the backend or the client, reset: nothing of it is lost."""
    stalled = trio.Event()
    handler = functools.partial(scripted, stalled=stalled)
    upload = bytes(range(256)) * 32768  # more than the kernel holds for a backend that reads nothing
    async with with_sessions(tmp_path, 6, handler) as (back, first, text, found), trio.open_nursery() as nursery:
        idle, fin, broken, full, half, held = found
        for one, command in (
            (idle, b"none 10\n"),
            (fin, b"fin 100000\n"),
            (broken, b"reset 30000\n"),
            (full, b"none 3000000\n"),
            (half, b"none 10\n"),
            (held, b"stall 10\n"),
        ):
            one.paused = one is not idle
            await one.send(command)
            await one.until(lambda one=one: len(one.received) >= 10)
        await half.finish()
        await back.until(open=5)
        for one in (fin, broken, full):
            one.cut()
        await first.served.records.wait("connection.closed", 3, reason="client_lost")
        held.go_on()
        nursery.start_soon(held.send, upload)
        await held.until(lambda: held.machine.room == 0)
        async with succeeded(first, text, 6, 0, 0):
            stalled.set()
            for one in found:
                one.go_on()
                await one.connect()
            await echoes(idle)
            await fin.until(lambda: fin.finished)
            assert fin.received == b"fin 100000\n" + b"x" * 100000
            await broken.until(lambda: broken.ended)
            assert broken.end == (4012, "backend_reset")
            assert broken.received == b"reset 30000\n" + b"x" * 30000
            await full.until(lambda: len(full.received) == 3000013)
            assert full.received == b"none 3000000\n" + b"x" * 3000000
            await half.until(lambda: half.finished)
            await held.until(lambda: len(held.received) >= 19 + len(upload))
            assert bytes(held.received[19:]) == upload
        assert not first.served.records.of("internal_error")


async def test_a_reset_of_the_backend_goes_along(tmp_path: Path) -> None:
    """The kernel reports it once, to the process that waits for room in the window: the next one must not see a FIN."""
    resume = {"ttl": "20s", "window": "64KiB"}
    async with with_sessions(tmp_path, 1, scripted, resume=resume) as (_, first, text, (client,)):
        client.paused = True
        await client.send(b"reset 100000\n")
        (found,) = first.served.server.services.sessions.sessions.values()
        await client.until(lambda: found.relay.back.transport.read_state == "reset")
        client.cut()
        async with succeeded(first, text, 1, 0, 0):
            client.go_on()
            await client.connect()
            await client.until(lambda: client.ended or client.finished)
            assert client.end == (4012, "backend_reset")
            assert (b"reset 100000\n" + b"x" * 100000).startswith(client.received)


async def test_a_backend_that_has_ended_in_both_directions_is_no_lost_one(tmp_path: Path) -> None:
    """The client has ended its stream, and what the backend has sent before it ended waits for room in the window."""
    resume = {"ttl": "20s", "window": "64KiB"}
    async with with_sessions(tmp_path, 1, scripted, resume=resume) as (back, first, text, (client,)):
        client.paused = True
        await client.send(b"fin 100000\n")
        await client.finish()
        await client.until(lambda: client.machine.fin_acked)
        await back.until(open=0)
        client.cut()
        async with succeeded(first, text, 1, 0, 0):
            client.go_on()
            await client.connect()
            await client.until(lambda: client.ended)
            assert client.ended is not None and client.ended.complete
            assert client.received == b"fin 100000\n" + b"x" * 100000


async def tls_echo(stream: trio.SocketStream) -> None:
    """Serve an echo backend under TLS."""
    await echo(trio.SSLStream(stream, server_context(), server_side=True))


async def test_what_the_new_configuration_does_not_allow_ends(tmp_path: Path) -> None:
    """A route that is gone or leads elsewhere ends its sessions with the reason; one with TLS behind it loses them."""
    async with backend() as back, backend() as other, backend(tls_echo) as tls:
        far = {"url": tls.url.replace("tcp", "tls"), "ca": str(folder() / "ca.pem"), "server_name": "localhost"}
        targets = {"kept": back.url, "changed": back.url, "gone": back.url, "tls": far}

        def text(**changes: str | None) -> str:
            routes = {
                name: {"match": {"path": f"/{name}"}, "backend": url, "auth": "none", "resume": {}}
                for name, url in {**targets, **changes}.items()
                if url
            }
            return written(routes=routes, admin={"bind": f"unix:{tmp_path}/admin.sock"}, limits=LIMITS)

        async with (
            running(text(), tmp_path / "admin.sock") as first,
            clients(first.served.port(), 4) as found,
        ):
            kept, changed, gone, far_one = found
            for name, one in zip(targets, found, strict=True):
                await opened(one, f"/{name}")
                await echoes(one)
            async with succeeded(first, text(changed=other.url, gone=None), 1, 2, 1):
                records = first.served.records
                reasons = {
                    line["route"]: line["detail"] for line in records.of("session.closed", reason="route_removed")
                }
                assert reasons == {
                    "changed": "backend, auth or allowed_targets of the route have changed",
                    "gone": "the route is gone, or has no resume",
                }
                await back.until(lost=2)
                await kept.resume("/kept")
                assert await ends(changed, "/changed") == (4009, "route_removed")
                await echoes(far_one)  # until the drain ends
                far_one.cut()
                line = await records.wait("session.closed", route="tls")
                assert (line["reason"], line["detail"]) == ("session_lost", "its client can reach another process only")
                assert await ends(far_one, "/tls") == LOST
                assert gone.machine.ended is None


async def test_a_session_keeps_what_resume_said_when_it_began(tmp_path: Path) -> None:
    """Its client knows the old name of the machine, and comes back by it; new ones get the new name."""
    old = {"ttl": "20s", "node": "one", "window": "64KiB"}
    async with with_sessions(tmp_path, 1, resume=old) as (back, first, _, (client,)):
        text = text_of(back, tmp_path, resume={"ttl": "30s", "node": "two", "window": "128KiB"})
        async with succeeded(first, text, 1, 0, 0), session(first.served.port()) as other:
            await client.resume(f"/?n={client.machine.node}")
            assert (client.machine.node, client.machine.ttl) == ("one", 20)
            await echoes(client)
            await opened(other)
            assert (other.machine.node, other.machine.ttl) == ("two", 30)


async def test_limits_hold_afterwards(tmp_path: Path) -> None:
    """Of more sessions than may wait for their clients, the oldest end."""
    async with with_sessions(tmp_path, 3) as (back, first, _, _):
        text = text_of(back, tmp_path, limits={"detached_sessions_per_identity": 2})
        async with succeeded(first, text, 3, 0, 0):
            (line,) = first.served.records.of("session.closed", initiator="wsbridge", reason="session_displaced")
            assert "limits.detached_sessions_per_identity is 2" in line["detail"]


async def test_identity_and_limits_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who resumes must be who opened it, its place in the route's limits is taken, and its token must stay listed."""
    monkeypatch.setattr("wsbridge.auth.access_list.REVOCATION_DELAY", 0.1)
    monkeypatch.setattr("wsbridge.revocation.REVOCATION_INTERVAL", 0.02)
    monkeypatch.setattr("wsbridge.reloading_file.CHECK_INTERVAL", 0.02)
    listed = tmp_path / "tokens"

    def write(*names: str) -> None:
        lines = [f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names]
        (tmp_path / "new").write_text("".join(lines))
        (tmp_path / "new").chmod(0o600)
        (tmp_path / "new").rename(listed)

    write("alice", "bob")
    auth = {"kind": "bearer", "tokens": str(listed), "on_revoke": "close"}
    async with backend() as back:
        text = text_of(back, tmp_path, auth=auth, route_limits={"connections_per_identity": 1})
        async with (
            running(text, tmp_path / "admin.sock") as first,
            clients(first.served.port(), 3) as (alice, again, other),
        ):
            await opened(alice, "/", "Authorization: Bearer alice")
            async with succeeded(first, text, 1, 0, 0) as second, trio.open_nursery() as tasks:
                await again.connect("/", "Authorization: Bearer alice")
                await again.until(lambda: again.ended)
                assert again.end == (4013, "rate_limited")
                other.machine = copy.copy(alice.machine)
                await other.connect("/", "Authorization: Bearer bob")
                await other.until(lambda: other.ended)
                assert other.end is not None and other.end[0] == 4001
                await alice.resume("/", "Authorization: Bearer alice")
                tasks.start_soon(revocation.watch_access_lists, second.server)
                write("bob")
                await alice.until(lambda: alice.ended)
                assert alice.end == (4009, "access_revoked")
                tasks.cancel_scope.cancel()


async def test_sessions_that_hold_too_much_end(tmp_path: Path) -> None:
    """`replay_memory` of the new configuration holds: what is beyond it is not adopted."""
    async with with_sessions(tmp_path, 3, scripted) as (back, first, _, found):
        for one in found:
            one.paused = True
            await one.send(b"none 700000\n")
            await one.until(lambda one=one: len(one.received) > 700000)
            one.cut()
        await first.served.records.wait("session.detached", 3)
        text = text_of(back, tmp_path, limits={**LIMITS, "replay_memory": "1500KiB"})
        async with succeeded(first, text, 2, 1, 0):
            assert first.served.records.of("session.closed", reason="overload")


# ------------------------------------------------------------------ who has a session at any time


async def test_what_happens_to_sessions_while_one_is_on_its_way(tmp_path: Path) -> None:
    """Of a list that was told: one loses its client and goes along, one ends. None begins: that is up to the next."""
    async with with_sessions(tmp_path, 3) as (back, first, text, found), session(first.served.port()) as late:
        one, detached, ended = found
        one.cut()  # it goes first
        await first.served.records.wait("session.detached")
        await late.connect(frame_too=False)
        async with taking_over(first.path, text) as second:
            await trio.testing.wait_all_tasks_blocked(0.01)
            detached.cut()
            await first.served.records.wait("session.detached", 2)
            await ended.leave(1000)
            await first.served.records.wait("session.closed")
            await late.flush()
            await late.until(lambda: late.ended or late.machine.state.value == "attached")
            assert late.end == (4014, "draining")
            assert await second.adopt() == (2, 0, 1)
            for client in (one, detached):
                await client.resume()
                await echoes(client)
            assert back.dials - back.lost == 3


async def test_one_that_has_ended_before_is_not_lost(tmp_path: Path) -> None:
    """By its client, or an operator: it still waits for its WebSocket backend, which answers no close frame."""

    async def silent(stream: trio.SocketStream) -> None:
        await accept_upgrade(stream)
        await release.wait()

    release = trio.Event()
    async with backend(silent) as back:
        text = text_of(back, tmp_path).replace("tcp://", "ws://")
        async with running(text, tmp_path / "admin.sock") as first, clients(first.served.port(), 2) as (closed, client):
            await opened(closed)
            await opened(client)
            await closed.leave(1000)
            client.cut()
            await first.served.records.wait("session.detached")
            store = first.served.server.services.sessions
            store.sessions[client.machine.session_id].end(Reason.CLOSED_BY_OPERATOR, "")
            assert len(store.sessions) == 2
            async with succeeded(first, text, 0, 0, 0):
                assert await ends(client) == (4001, REJECTED_TEXT)
            release.set()


async def test_a_client_that_comes_back_to_the_old_process(tmp_path: Path) -> None:
    """It had connected before the handover: it is told to try again, and so finds the next process."""
    async with with_sessions(tmp_path, 1) as (_, first, text, (client,)):
        client.cut()
        await client.connect(frame_too=False)
        async with succeeded(first, text, 1, 0, 0):
            await client.flush()
            await client.until(lambda: client.client is None)
            assert client.close == (4014, "draining")
            await client.resume()
            await echoes(client)


async def test_a_process_that_is_too_slow_gets_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the session that it was given after the other one has told the client that it is lost."""
    monkeypatch.setattr(takeover, "SESSION_TIMEOUT", 1.0)
    async with with_sessions(tmp_path, 2) as (back, first, text, found), taking_over(first.path, text) as second:
        assert await given_away(first) == (0, 1, 1)
        lost, left = sorted(found, key=lambda one: not one.client)
        await lost.until(lambda: lost.ended or left.ended)
        lost, left = (lost, left) if lost.ended else (left, lost)
        assert lost.end == LOST
        with trio.fail_after(9):  # at once, although the other process has its descriptor
            await back.until(lost=1)
        assert await second.adopt() == (0, 0, 2)
        assert not second.server.services.sessions.sessions
        await echoes(left)


async def test_a_process_that_takes_a_session_at_the_last_moment_has_it(tmp_path: Path) -> None:
    """The other one is shut down at the moment at which the answer comes, which it has not read."""
    async with backend() as back, trio.open_nursery() as nursery, contextlib.AsyncExitStack() as outer:
        async with running(text_of(back, tmp_path), tmp_path / "admin.sock") as first:
            client = await opened(SessionClient(first.served.port(), nursery))
            stream = await outer.enter_async_context(asking(first.path))
            await stream.send_all(ready())
            _, descriptors = await receive_until(stream, b'"backend"', count=2)
            os.write(stream.socket.fileno(), b'{"adopted": true}\n')
        assert first.served.records.of("session.closed", reason="handed_over")
        assert (back.open, back.lost) == (1, 0)
        assert client.end is None
        client.drop_all()
        for descriptor in descriptors:
            os.close(descriptor)


async def test_a_stopped_process_does_not_hold_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads nothing, and the list of the sessions is larger than what the kernel holds for it."""
    monkeypatch.setattr(takeover, "SEND_TIMEOUT", 0.2)
    more = tuple(number.to_bytes(16, "big") for number in range(20_000))

    def begin_handover(store: Any) -> SavedList:
        listed = handover.begin_handover(store)
        return SavedList(listed.epoch, (*listed.session_ids, *more))

    monkeypatch.setattr(takeover, "begin_handover", begin_handover)
    quick = {"drain": "300ms", "drain_spread": "100ms"}
    async with (
        with_sessions(tmp_path, 1, timeouts=quick) as (_, first, _, found),
        asking(first.path) as stream,
    ):
        await stream.send_all(ready())
        assert await given_away(first) == (0, 0, 1)
        await echoes(found[0])
        await first.served.returned.wait()


async def test_a_stopped_process_does_not_hold_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no session away any more: they are lost."""
    monkeypatch.setattr(takeover, "NEXT_SESSION_TIMEOUT", 0.2)
    async with with_sessions(tmp_path, 1) as (_, first, text, (client,)):

        async def give_away(*_: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(takeover, "give_away", give_away)
        async with succeeded(first, text, 0, 0, 1):
            client.cut()
            assert await ends(client) == LOST


async def test_a_bug_while_sessions_are_given_away_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reaches it any more, so that it drains as ever."""

    async def give_away(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(takeover, "give_away", give_away)
    quick = {"drain": "300ms", "drain_spread": "100ms"}
    async with with_sessions(tmp_path, 1, timeouts=quick) as (_, first, text, (client,)):
        async with succeeded(first, text, 0, 0, 1):
            await first.served.returned.wait()
            assert await ends(client) == LOST
        assert first.served.records.of("internal_error", component="admin")
        first.served.records.all.clear()


async def test_a_bug_with_one_session_ends_that_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that adopts goes on, and so does the other session."""
    restore = ServerSession.restore
    calls = []

    def restore_second(*arguments: Any) -> ServerSession:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError
        return restore(*arguments)

    monkeypatch.setattr(ServerSession, "restore", restore_second)
    async with with_sessions(tmp_path, 2) as (_, first, text, (one, other)):
        async with succeeded(first, text, 1, 0, 1):
            assert await ends(one) == LOST
            await other.connect()
            await echoes(other)
        assert first.served.records.of("internal_error", component="sessions")
        first.served.records.all.clear()


async def test_a_process_that_reads_another_state_gets_no_sessions(tmp_path: Path) -> None:
    """They go on in the old process, and are lost when their clients are."""
    async with with_sessions(tmp_path, 2) as (_, first, _, (one, two)), asking(first.path) as stream:
        await stream.send_all(ready(99))
        assert await receive_until(stream, b"}\n") == (b'{"released": true}\n', [])
        await echoes(one)
        one.cut()
        assert (await first.served.records.wait("session.closed"))["reason"] == "session_lost"
        await two.until(lambda: two.ended)
        assert two.end == LOST


async def test_a_process_that_disappears_gets_one_session_at_most(tmp_path: Path) -> None:
    """That one is lost; the others go on in the old process until its drain ends."""
    async with with_sessions(tmp_path, 3) as (back, first, _, found):
        async with asking(first.path) as stream:
            await stream.send_all(ready())
            await receive_until(stream, b'"backend"')
        assert await given_away(first) == (0, 1, 2)
        await back.until(lost=1)
        with trio.fail_after(9):
            while not any(one.ended for one in found):
                await trio.sleep(0.01)
        for one in found:
            if not one.ended:
                await echoes(one)
        assert [one.end for one in found if one.ended] == [LOST]


async def test_one_process_after_the_other_takes_over(tmp_path: Path) -> None:
    """The second waits until it has all sessions before it gives them to the third."""
    async with with_sessions(tmp_path, 2) as (back, first, text, found), taking_over(first.path, text) as second:
        results: list[tuple[int, int, int]] = []

        async def third_process() -> None:
            async with taking_over(first.path, text) as third:
                results.append(await third.adopt())
                for one in found:
                    await one.resume()
                    await echoes(one)
                    assert one.machine.session_id in third.server.services.sessions.sessions
                assert (back.dials, back.lost) == (2, 0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(third_process)
            await trio.testing.wait_all_tasks_blocked(0.05)
            results.append(await second.adopt())
        assert results == [(2, 0, 0), (2, 0, 0)]


# ------------------------------------------------------------------ one session, as it is saved and adopted


@dataclasses.dataclass
class Moving:
    """A session that was saved by one server, and is to be adopted by another one.

    Attributes:
        saved: Its state.
        sock: Its backend.
        served: The other server.
        adopter: Adopts it.
        back: The backend.
    """

    saved: SavedSession
    sock: socket.socket
    served: Served
    adopter: SessionAdopter
    back: Backend

    async def adopt(self, **changes: Any) -> bool:
        """Adopt the session, with some changes of its state."""
        state = write_sealed_file("test", encode_session(dataclasses.replace(self.saved, **changes)))
        try:
            return await self.adopter.adopt(self.saved.machine["session_id"].hex(), state, self.sock)
        finally:
            os.close(state)


@contextlib.asynccontextmanager
async def moving(**rest: Any) -> AsyncIterator[Moving]:
    """Save a session of a server that has gone, and expect it in another one."""
    async with backend() as back:
        text = route_of(back, **{"resume": {"ttl": "20s"}, **rest})
        async with serving(text) as old, session(old.port()) as client:
            await opened(client)
            await echoes(client)
            (found,) = old.server.services.sessions.sessions.values()
            stopped = save_session(found, digest_route(found.generation.config.routes["app"]))
            found.relay.end_move(Termination(Reason.HANDED_OVER, "wsbridge"), 0, 0)
        sock = stopped.backend
        assert sock is not None
        set_reset_on_close(sock, resets=True)
        async with serving(text) as served:
            server = served.server
            server.services.sessions.expect(stopped.state.machine["epoch"], [stopped.session_id])
            adopter = SessionAdopter(server.services, lambda: server.generation, server.acceptor.next_id)
            yield Moving(stopped.state, sock, served, adopter, back)


async def test_time_goes_on_while_a_session_is_on_its_way() -> None:
    """By the kernel's clock, whatever the time of day is."""
    async with moving() as one:
        assert await one.adopt(saved_at=one.saved.saved_at - 15, age=100.0)
        (found,) = one.served.server.services.sessions.sessions.values()
        facts = found.live_facts()
        assert 115 <= facts["duration_seconds"] <= 125
        assert facts["ttl_seconds"] == 20
        assert (facts["bytes_to_backend"], facts["bytes_to_client"]) == (4, 4)
        assert one.adopter.counts.adopted == 1


@pytest.mark.parametrize(
    ("rest", "away", "changes", "reason"),
    [
        ({}, 25, {}, "session_expired"),
        ({"timeouts": {"idle": "30s"}}, 15, {"idle": 20.0}, "idle_timeout"),
        ({"timeouts": {"max_lifetime": "100s"}}, 15, {"age": 90.0}, "max_lifetime"),
        ({}, 15, {"expires_in": 10.0}, "auth_expired"),
    ],
)
async def test_what_has_passed_meanwhile_ends_a_session(
    rest: dict[str, Any], away: float, changes: dict[str, Any], reason: str
) -> None:
    """`ttl`, `idle`, `max_lifetime` and the credentials."""
    async with moving(**rest) as one:
        if "expires_in" in changes:
            changes = {"identity": dataclasses.replace(one.saved.identity, expires_in=changes["expires_in"])}
        await one.adopt(saved_at=one.saved.saved_at - away, **changes)
        assert (await one.served.records.wait("session.closed"))["reason"] == reason
        await one.back.until(lost=1)


async def test_an_adoption_that_is_cancelled_closes_its_descriptor() -> None:
    """Before its thread has begun; nobody else has it."""
    async with moving() as one:
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.adopt()
        assert scope.cancelled_caught
        assert one.sock.fileno() == -1
        await one.back.until(lost=1)


async def test_a_session_that_cannot_be_relayed_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is adopted nor where it is opened: no place in the limits, no configuration, no connection."""
    errors = [OSError("no space left"), Rejected(Reason.OVERLOAD)]

    def fail(*_: object) -> None:
        raise errors.pop(0)

    async with moving(route_limits={"connections": 1}) as one:
        served = one.served
        monkeypatch.setattr("wsbridge.relay.engine.PythonEngine.open_session", fail)
        assert not await one.adopt()
        await one.back.until(lost=1)
        async with session(served.port()) as client:
            await client.connect()
            await client.until(lambda: client.ended)
        monkeypatch.undo()
        async with session(served.port()) as client:
            await opened(client)
            await client.leave(1000)
        with trio.fail_after(9):
            while served.server.generation.lifetime.connections:
                await trio.sleep(0.01)


async def test_a_session_that_is_given_up_is_not_adopted() -> None:
    """Neither is it ended here: the other process has done that."""
    async with moving() as one:
        before = open_files()
        state = write_sealed_file("test", encode_session(one.saved))
        assert not await one.adopter.adopt(one.saved.machine["session_id"].hex(), state, one.sock, lambda: False)
        os.close(state)
        assert one.served.records.of("session.lost", detail="the other process has given it up")
        assert not one.served.records.of("session.closed", initiator="wsbridge")
        assert open_files() == before - 1


async def test_a_session_under_another_name_is_not_adopted() -> None:
    """What a process says of a session, and what it sends, must be one."""
    async with moving() as one:
        state = write_sealed_file("test", encode_session(one.saved))
        assert not await one.adopter.adopt("11" * 16, state, one.sock)
        os.close(state)
        assert "the state is that of the session" in one.served.records.of("session.lost")[0]["detail"]
        await one.back.until(lost=1)
