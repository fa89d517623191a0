"""Who may open and resume sessions: first frames, identities, tokens, guesses, limits."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client import BINARY, CLOSE, PING, TEXT, Client, frame
from tests.serving import Served, accept_upgrade, backend, config_of, serving, written
from tests.sessions.client import OFFER, SessionClient, clients, message, one_session, opened, route_of, session
from wsbridge import revocation
from wsbridge.auth.passwords import hash_password
from wsbridge.protocol.resume_frames import (
    REJECTED_TEXT,
    Ack,
    Failure,
    Fin,
    Open,
    Resume,
    Resumed,
    decode_message,
    encode_frame,
)
from wsbridge.reasons import Reason

REJECTED = (4001, REJECTED_TEXT)
HASH = hash_password(b"secret", ln=15, r=1).text


def basic(name: str) -> str:
    """Write the header of a user."""
    return "Authorization: Basic " + base64.b64encode(f"{name}:secret".encode()).decode()


async def refused(client: Client) -> tuple[int, str]:
    """Read ERROR and the close frame behind it, which say the same; give code and text."""
    opcode, body = await client.frame()
    assert opcode == BINARY
    failure = decode_message(body)
    assert isinstance(failure, Failure)
    opcode, body = await client.frame()
    assert (opcode, body) == (CLOSE, failure.code.to_bytes(2, "big") + failure.text.encode())
    return failure.code, failure.text


def resume_of(epoch: int, session_id: bytes = bytes(16), token: bytes = bytes(32), attempt: int = 1) -> bytes:
    """Write a RESUME."""
    return message(encode_frame(Resume(epoch, session_id, token, attempt, 0, 0)))


@pytest.mark.parametrize(
    ("payloads", "detail"),
    [
        ([b""], "empty message"),
        ([b"\x05hello"], "DATA as the first frame"),
        ([encode_frame(Ack(0))], "ACK as the first frame"),
        ([encode_frame(Fin(0))], "FIN as the first frame"),
        ([b"\x80"], "KEEPALIVE as the first frame"),
        ([b"\x01\x00"], "OPEN with 2 bytes"),
        ([b"\x7f"], "frame of unknown type 0x7f"),
        ([bytes(600)], "600 bytes"),
        ([encode_frame(Open(0)), b"\x05x"], "DATA before the session was opened"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_may_not_come_first(payloads: list[bytes], detail: str) -> None:
    """It is a violation of the protocol, and no backend is dialed."""
    async with backend() as back, serving(route_of(back)) as served:
        with await served.upgraded("/", OFFER) as client:
            await client.send(b"".join(map(message, payloads)))
            assert await refused(client) == (4008, "protocol_error")
        line = await served.records.wait("connection.rejected")
        assert detail in line["detail"]
        assert line["close_code"] == 4008
    assert back.dials == 0


async def test_text_is_no_frame() -> None:
    """The subprotocol has binary messages only."""
    async with backend() as back, serving(route_of(back)) as served, session(served.port()) as client:
        with await served.upgraded("/", OFFER) as other:
            await other.send(frame(TEXT, encode_frame(Open(0))))
            assert await refused(other) == (4008, "protocol_error")
        await opened(client)
        await client.control(frame(TEXT, b"\x05hello"))
        await client.until(lambda: client.ended)
        assert client.end == (4008, "text message")


async def test_a_client_that_says_nothing() -> None:
    """The first frame has a deadline; pings do not count."""
    async with backend() as back, serving(route_of(back, resume={"first_frame": "300ms"})) as served:
        with await served.upgraded("/", OFFER) as client:
            await client.send(frame(9, b"?"))
            assert await client.frame() == (10, b"?")
            assert await refused(client) == (4008, "handshake_timeout")
        line = await served.records.wait("connection.rejected")
        assert line["detail"] == "no frame within resume.first_frame, 0.3 s"


@pytest.mark.parametrize("tls", [False, True])
async def test_clients_that_leave_before_they_said_anything(tls: bool) -> None:
    """By a close frame, by ERROR, or without a word: nothing is dialed, and nobody waits for another close frame."""
    close = frame(CLOSE, (1000).to_bytes(2, "big"))
    failure = encode_frame(Failure(4002, "changed my mind"))
    async with backend() as back, serving(route_of(back, tls=tls, timeouts={"close": "60s"})) as served:
        for sent, answer in (
            (close, b""),
            (message(failure), close),
            (message(failure) + close, b""),
            (frame(BINARY, failure[:2], fin=False) + close, b""),
            (b"", b""),
        ):
            with await served.upgraded("/", OFFER, tls=tls) as client:
                await client.send(sent)
                if sent:
                    with trio.fail_after(10):
                        assert await client.frame() == (CLOSE, (1000).to_bytes(2, "big") + b"client_closed")
                        await client.send(answer)
                        assert await client.everything() == b""
        await served.records.wait("connection.rejected", 4, reason="client_closed")
        await served.records.wait("connection.rejected", reason="client_lost")
    assert back.dials == 0


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("code", "error", "is_reset"),
    [(1000, False, False), (1001, False, None), (4012, False, True), (None, True, True), (4012, True, True)],
)
async def test_a_client_that_resumes_and_ends_at_once(
    tls: bool, whole: bool, code: int | None, error: bool, is_reset: bool | None
) -> None:
    """By a close frame, by ERROR, or both: the session ends as by a client that waits for RESUMED, or is detached."""
    rest = message(encode_frame(Failure(4012, "given up"))) if error else b""
    rest += b"" if code is None else frame(CLOSE, code.to_bytes(2, "big"))
    async with one_session(tls=tls, timeouts={"close": "60s"}) as (back, served, client):
        client.cut()
        await served.records.wait("session.detached")
        client.machine.connect(trio.current_time())
        ((head, _),) = client.machine.take(0, trio.current_time())
        pings = frame(PING, bytes(125)) * 20
        parts = frame(BINARY, head[:20], fin=False) + pings + frame(0, head[20:])
        with await served.upgraded("/", OFFER, tls=tls) as other:
            await other.send((message(head) if whole else pings + parts) + rest)
            if code is not None:
                with trio.fail_after(10):
                    await other.everything()
            if is_reset is not None:
                line = await served.records.wait("session.closed")
                assert (line["reason"], line["transports"]) == ("client_closed", 2)
                await back.until(open=0, lost=int(is_reset))
                return
        await served.records.wait("session.detached", 2)
        client.machine.transport_lost(trio.current_time())
        await client.resume()
        await client.send(b"more")
        await client.until(lambda: client.received == b"more")


async def test_a_frame_that_arrives_byte_by_byte() -> None:
    """How the network cuts what is sent does not matter."""
    async with backend() as back, serving(route_of(back)) as served:
        with await served.upgraded("/", OFFER) as client:
            for byte in message(encode_frame(Open(0))):
                await client.send(bytes((byte,)))
            opcode, body = await client.frame()
            assert (opcode, body[0]) == (BINARY, 2)
            for byte in message(b"\x05hello"):
                await client.send(bytes((byte,)))
            echoed = b""
            while len(echoed) < 5:
                opcode, body = await client.frame()
                assert (opcode, body[:1]) == (BINARY, b"\x05")
                echoed += body[1:]
            assert echoed == b"hello"


@pytest.mark.parametrize(
    ("url", "code", "reason"),
    [
        ("tcp://127.0.0.1:1", 4010, "backend_refused"),
        ("unix:/nowhere/at/all.sock", 4011, "backend_unreachable"),
        ("tcp://no-such-name.invalid:1", 4011, "backend_dns"),
    ],
)
async def test_a_backend_that_cannot_be_reached(url: str, code: int, reason: str) -> None:
    """The client learns why by the code of an ERROR."""
    text = written(route={"backend": url, "resume": {}})
    async with serving(text) as served, session(served.port()) as client:
        await client.connect()
        await client.until(lambda: client.ended)
        assert client.end == (code, reason)
        assert (await served.records.wait("connection.rejected"))["reason"] == reason
        assert not served.server.services.sessions.sessions


async def test_tokens_that_are_not_valid() -> None:
    """Unknown session, wrong token, old token: one code, one text; another epoch has its own code, before the token."""
    async with one_session() as (_, served, client):
        machine = client.machine
        old = machine._token
        epoch, known = machine.epoch, machine.session_id
        for sent, answer in (
            (resume_of(epoch), REJECTED),
            (resume_of(epoch, known), REJECTED),
            (resume_of(epoch ^ 1, known, old), (4004, "session_lost")),
        ):
            with await served.upgraded("/", OFFER) as other:
                await other.send(sent)
                assert await refused(other) == answer
        client.cut()
        await client.resume()
        await client.send(b"hello")
        await client.until(lambda: client.received == b"hello")
        with await served.upgraded("/", OFFER) as other:
            await other.send(resume_of(epoch, known, old, 100))
            assert await refused(other) == REJECTED
        with await served.upgraded("/", OFFER) as other:
            await other.send(resume_of(epoch, known, machine._token, 1))
            assert (await refused(other))[0] == 4003
        await client.send(b" still here")
        await client.until(lambda: client.received == b"hello still here")


async def test_transports_that_race() -> None:
    """Of several that resume with the same token the newest attempt wins: an older one that comes late gets 4003."""
    async with one_session() as (_, served, client):
        machine, answers = client.machine, []
        for attempt in (2, 1, 3):
            with await served.upgraded("/", OFFER) as other:
                await other.send(resume_of(machine.epoch, machine.session_id, machine._token, attempt))
                answers.append(decode_message((await other.frame())[1]))
        assert [type(answer) for answer in answers] == [Resumed, Failure, Resumed]
        await client.until(lambda: client.ended)
        assert client.end is not None and client.end[0] == 4003


async def test_positions_that_do_not_fit_end_the_session() -> None:
    """4002, for the transport that asked and for the one that was attached."""
    async with one_session() as (back, served, client):
        machine = client.machine
        with await served.upgraded("/", OFFER) as other:
            sent = Resume(machine.epoch, machine.session_id, machine._token, 1, 5, 0)
            await other.send(message(encode_frame(sent)))
            assert (await refused(other))[0] == 4002
        await client.until(lambda: client.ended)
        assert client.end is not None and client.end[0] == 4002
        assert (await served.records.wait("session.closed"))["reason"] == "resume_gap"
        await back.until(lost=1)


async def test_guessing_bans() -> None:
    """Wrong tokens are failed logins; the client with the right one is not banned by its own tries."""
    limits = {"per_address": {"max_failures": "3", "exempt": []}}
    async with one_session(limits=limits) as (_, served, client):
        for _ in range(5):
            client.cut()
            await client.resume()
        for _ in range(3):
            with await served.upgraded("/", OFFER) as other:
                await other.send(resume_of(client.machine.epoch, client.machine.session_id))
                assert await refused(other) == REJECTED
        await served.records.wait("address.banned")
        assert served.server.services.client_table.count_bans() == 1


def users(folder: Path) -> dict[str, Any]:
    """Write a file with two users; give the authentication by it."""
    path = folder / "users"
    path.write_text(f"alice:{HASH}\nbob:{HASH}\n")
    path.chmod(0o600)
    return {"kind": "basic", "users": str(path), "on_revoke": "close"}


async def test_another_identity_and_another_route_are_refused(tmp_path: Path) -> None:
    """Although the token is right; and without credentials there is no 101 at all."""
    auth = users(tmp_path)
    async with backend() as back:
        route = {"backend": back.url, "auth": auth, "resume": {}}
        routes = {name: {**route, "match": {"path": f"/{name}"}} for name in ("one", "two")}
        async with serving(written(routes=routes)) as served, session(served.port()) as client:
            await opened(client, "/one", basic("alice"))
            client.cut()
            for path, name in (("/one", "bob"), ("/two", "alice")):
                other = stolen(served, client)
                await other.connect(path, basic(name))
                await other.until(lambda other=other: other.ended)
                assert other.end == REJECTED
            with await served.connect() as nobody:
                await nobody.send(b"GET /one HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n")
                await nobody.send(f"Connection: upgrade\r\n{OFFER}\r\n".encode())
                await nobody.send(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
                assert "401" in await nobody.head()
            await client.resume("/one", basic("alice"))
            await client.send(b"mine")
            await client.until(lambda: client.received == b"mine")


def stolen(served: Served, client: SessionClient) -> SessionClient:
    """Give a client that knows all that another one knows."""
    other = SessionClient(served.port(), client.nursery)
    for name in ("epoch", "session_id", "_token", "_window", "_peer_window"):
        setattr(other.machine, name, getattr(client.machine, name))
    return other


async def test_a_user_that_is_removed_loses_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it is away."""
    monkeypatch.setattr("wsbridge.auth.access_list.REVOCATION_DELAY", 0.1)
    monkeypatch.setattr("wsbridge.revocation.REVOCATION_INTERVAL", 0.02)
    monkeypatch.setattr("wsbridge.reloading_file.CHECK_INTERVAL", 0.02)
    auth = users(tmp_path)
    async with one_session(auth=auth, headers=[basic("alice")]) as (_, served, client), trio.open_nursery() as tasks:
        tasks.start_soon(revocation.watch_access_lists, served.server)
        client.cut()
        await served.records.wait("session.detached")
        new = tmp_path / "new"
        new.write_text(f"bob:{HASH}\n")
        new.chmod(0o600)
        new.rename(tmp_path / "users")
        with trio.fail_after(10):
            while not (lines := served.records.of("session.closed")):  # a thread logs, too, which ends no `wait`
                await trio.sleep(0.01)
        assert lines[0]["reason"] == "access_revoked"
        tasks.cancel_scope.cancel()


async def test_only_so_many_wait_for_a_client() -> None:
    """Beyond the limit of an address, its oldest one ends; that client learns which rule ended it."""
    limits = {"detached_sessions_per_identity": "2"}
    async with (
        backend() as back,
        serving(route_of(back, limits=limits)) as served,
        clients(served.port(), 3) as (one, two, three),
    ):
        for count, client in enumerate((one, two, three), 1):
            await opened(client)
            client.cut()
            await served.records.wait("session.detached", count)
        line = await served.records.wait("session.closed")
        assert line["reason"] == "session_displaced"
        assert "limits.detached_sessions_per_identity is 2" in line["detail"]
        assert line["session"] == one.machine.session_id.hex()
        await one.connect()
        await one.until(lambda: one.ended)
        assert one.end == (4009, "session_displaced")
        await two.resume()
        await three.resume()
        assert back.open == 2


async def test_one_that_has_ended_does_not_count() -> None:
    """It waits for its WebSocket backend, which does not answer the close frame, and for its client no more."""

    async def silent(stream: trio.SocketStream) -> None:
        await accept_upgrade(stream)
        await release.wait()

    release = trio.Event()
    limits, timeouts = {"detached_sessions_per_identity": "1"}, {"close": "30s", "lingering": "30s"}
    async with backend(silent) as back:
        text = route_of(back, limits=limits, timeouts=timeouts).replace("tcp://", "ws://")
        async with serving(text) as served, clients(served.port(), 3) as found:
            store = served.server.services.sessions
            for count, client in enumerate(found, 1):
                await opened(client)
                client.cut()
                await served.records.wait("session.detached", count)
                if count == 1:
                    store.sessions[client.machine.session_id].end(Reason.CLOSED_BY_OPERATOR, "")
            one, two, three = found
            assert not served.records.of("session.closed", session=one.machine.session_id.hex())
            assert list(store.detached) == [three.machine.session_id]
            await two.connect()
            await two.until(lambda: two.ended)
            assert two.end == (4009, "session_displaced")
            await three.resume()
            release.set()


async def test_only_so_many_wait_at_all(tmp_path: Path) -> None:
    """Beyond the limit of all, a client without another session cannot keep its own."""
    auth = users(tmp_path)
    async with backend() as back:
        text = route_of(back, limits={"detached_sessions": "1"}, auth=auth)
        async with serving(text) as served, session(served.port()) as alice, session(served.port()) as bob:
            await opened(alice, "/", basic("alice"))
            await opened(bob, "/", basic("bob"))
            alice.cut()
            await served.records.wait("session.detached")
            bob.cut()
            line = await served.records.wait("session.closed")
            assert (line["reason"], line["identity"]) == ("overload", "bob")
            await bob.connect("/", basic("bob"))
            await bob.until(lambda: bob.ended)
            assert bob.end == (4009, "overload")
            await alice.resume("/", basic("alice"))


async def test_memory_is_limited() -> None:
    """Beyond `replay_memory` no session waits for its client, and none begins; those that are attached go on."""

    async def flood(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(65536))

    limits = {"replay_memory": "1MiB"}
    async with backend(flood) as back, serving(route_of(back, limits=limits, resume={"window": "1MiB"})) as served:
        memory = served.server.services.sessions.memory
        async with session(served.port()) as one, session(served.port()) as two, session(served.port()) as three:
            for client in (one, two):
                client.paused = True
                await opened(client)
            with trio.fail_after(9):
                while not memory.is_full:
                    await trio.sleep(0.01)
            await trio.sleep(0.2)
            assert memory.used < (1 << 20) + 3 * 65536 + 524288
            await three.connect()
            await three.until(lambda: three.ended)
            assert three.end == (4013, "overload")
            one.cut()
            line = await served.records.wait("session.closed")
            assert line["reason"] == "overload" and "limits.replay_memory is 1048576" in line["detail"]
            two.go_on()
            before = len(two.received)
            await two.until(lambda: len(two.received) > before + (4 << 20))
        await served.quiet()
    assert memory.used == 0


async def test_a_session_keeps_its_place_in_the_limits_of_its_route() -> None:
    """While its client is away as well; its next transport needs no other one."""
    async with (
        backend() as back,
        serving(route_of(back, route_limits={"connections": "1"})) as served,
        clients(served.port(), 2) as (client, other),
    ):
        await opened(client)
        client.cut()
        await served.records.wait("session.detached")
        await other.connect()
        await other.until(lambda: other.ended)
        assert other.end == (4013, "rate_limited")
        await client.resume()
        await client.leave(1000)
        await served.records.wait("session.closed")
        other.lost()
        other.machine.session_id = b""
        await opened(other)


async def test_a_reload_keeps_sessions() -> None:
    """The route may even change; only where it is gone, nobody can come back to its sessions."""
    async with (
        backend() as back,
        backend() as second,
        serving(route_of(back)) as served,
        clients(served.port(), 2) as (client, other),
    ):
        await opened(client)
        await opened(other)
        client.cut()
        await served.records.wait("session.detached")
        await served.server.apply(config_of(route_of(second)))
        await client.resume()
        await client.send(b"old backend")
        await client.until(lambda: client.received == b"old backend")
        assert second.dials == 0
        client.cut()
        await served.records.wait("session.detached", 2)
        gone = written(routes={"else": {"match": "any", "respond": "204", "auth": "none"}})
        await served.server.apply(config_of(gone))
        line = await served.records.wait("session.closed")
        assert line["reason"] == "route_removed"
        await other.send(b"attached")
        await other.until(lambda: other.received == b"attached")
        other.cut()
        await served.records.wait("session.closed", 2, reason="route_removed")
        with trio.fail_after(9):
            while len(served.server.generations) > 1:
                await trio.sleep(0.01)


@pytest.mark.parametrize("policy", ["close", "drain"])
async def test_on_remove_ends_sessions(policy: str) -> None:
    """Attached or not."""
    async with backend() as back:
        text = json.loads(route_of(back))
        text["routes"]["app"]["on_remove"] = policy
        async with serving(json.dumps(text)) as served, session(served.port()) as one, session(served.port()) as two:
            await opened(one)
            await opened(two)
            one.cut()
            await served.records.wait("session.detached")
            text["routes"]["app"]["timeouts"] = {"idle": "1h"}
            await served.server.apply(config_of(json.dumps(text)))
            await served.records.wait("session.closed", 2, reason="route_removed")
            await two.until(lambda: two.ended)
            assert two.end == (4009, "route_removed")


async def test_shutdown_ends_sessions() -> None:
    """Those that are attached get 4014, after GOAWAY; the backends of others are closed."""
    async with backend() as back, serving(route_of(back)) as served, clients(served.port(), 2) as (one, two):
        await opened(one)
        await opened(two)
        one.cut()
        await served.records.wait("session.detached")
        served.server.stop(Reason.DRAINING)
        await two.until(lambda: two.ended)
        assert two.end == (4014, "draining")
        assert two.going_away is not None
        await served.returned.wait()
        reasons = {line["reason"] for line in served.records.of("session.closed")}
        assert reasons == {"draining"}
        await back.until(open=0)


async def test_a_client_that_comes_before_its_session_waits() -> None:
    """While another process hands its sessions over, but not for long; when that has ended, its session is lost."""
    known, late = b"k" * 16, b"l" * 16
    async with serving(written(route={"backend": "tcp://127.0.0.1:9", "resume": {"first_frame": "200ms"}})) as served:
        sessions = served.server.services.sessions
        sessions.expect(7, [known, late])
        with await served.upgraded("/", OFFER) as other:
            await other.send(resume_of(7, late))
            assert await refused(other) == (4014, "draining")
        with await served.upgraded("/", OFFER) as other, await served.upgraded("/", OFFER) as stranger:
            await other.send(resume_of(7, known))
            await stranger.send(resume_of(7, b"s" * 16))
            assert await refused(stranger) == REJECTED
            assert sessions.expect_no_more() == 2
            assert await refused(other) == (4004, "session_lost")
