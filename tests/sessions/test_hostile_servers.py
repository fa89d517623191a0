"""Servers that break the rules of resumable sessions, and what TCP clients and the Python client make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.scripted_peer import OPENED, Close, Peer, Ping, Script, resumed, scripted_server, wire
from tests.serving import serving
from tests.sessions.test_backend_sessions import near_side
from wsbridge.client import (
    ConnectError,
    SessionExpired,
    SessionLost,
    SessionRefused,
    open_resumable,
)
from wsbridge.protocol.reconnect import ReconnectSchedule
from wsbridge.protocol.resume_frames import Ack, Failure, Fin, GoAway, Keepalive, Open, Resume, ResumeCode
from wsbridge.sessions import backend_session


async def opens_and_drops(peer: Peer) -> None:
    """Open a session, and lose the transport."""
    await peer.next()
    await peer.send(OPENED)


async def resumes_and_drops(peer: Peer) -> None:
    """Resume the session, and lose the transport."""
    await peer.next()
    await peer.send(resumed())


async def test_resuming_and_dropping_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """It is dialed less and less often, as one that is down: not once a second."""
    async with (
        scripted_server(opens_and_drops, resumes_and_drops) as server,
        open_resumable(server.url, ping_interval=None, close_timeout=0),
    ):
        await trio.sleep(600)
        assert 20 < server.dials < 200


async def test_dropping_a_tcp_client_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do plain clients of a WebSocket backend; here with pauses of a hundredth."""
    monkeypatch.setattr(backend_session, "ReconnectSchedule", partial(ReconnectSchedule, lambda: 0.01))
    async with scripted_server(opens_and_drops, resumes_and_drops) as server, serving(near_side(server.url)) as near:
        with await near.connect("old"):
            await trio.sleep(0.5)
            assert 1 < server.dials < 12


SMALL = replace(OPENED, window=4096)
GAP, PROTOCOL = ResumeCode.GAP, ResumeCode.PROTOCOL

VIOLATIONS: dict[str, tuple[bytes, int, str]] = {
    "ACK of more than was sent": (wire(Ack(6)), GAP, "ACK of position 6, not 0 to 5"),
    "ACK of everything": (wire(Ack(2**64 - 1)), GAP, "ACK of position 18446744073709551615"),
    "ACK that goes back": (wire(Ack(5), Ack(4)), GAP, "ACK of position 4, not 5 to 5"),
    "ACK of our FIN": (wire(Ack(5), Ack(6)), GAP, "ACK of position 6, not "),
    "FIN too early": (wire(b"abc", Fin(4)), GAP, "FIN at position 4, not 3"),
    "FIN that goes back": (wire(b"abc", Fin(2)), GAP, "FIN at position 2, not 3"),
    "FIN twice": (wire(Fin(0), Fin(0)), PROTOCOL, "FIN after FIN"),
    "DATA after FIN": (wire(Fin(0), b"more"), PROTOCOL, "DATA after FIN"),
    "DATA beyond the window": (wire(bytes(4097)), PROTOCOL, "DATA beyond the window of 4096 bytes"),
    "OPENED again": (wire(SMALL), PROTOCOL, "OPENED while the session is attached"),
    "RESUMED without RESUME": (wire(resumed()), PROTOCOL, "RESUMED while the session is attached"),
    "OPEN": (wire(Open(0)), PROTOCOL, "OPEN while the session is attached"),
    "an empty message": (b"\x82\x00", PROTOCOL, "empty message"),
    "DATA without payload": (b"\x82\x01\x05", PROTOCOL, "DATA with 0 bytes"),
    "an unknown type": (b"\x82\x01\x7f", PROTOCOL, "frame of unknown type 0x7f"),
    "a short ACK": (b"\x82\x02\x06\x00", PROTOCOL, "ACK with 2 bytes"),
    "an ERROR of RFC 6455": (b"\x82\x03\x08\x03\xe8", PROTOCOL, "ERROR with code 1000, not 4000 to 4999"),
    "an ERROR that is no UTF-8": (b"\x82\x04\x08\x0f\xa1\xff", PROTOCOL, "ERROR with a text that is not UTF-8"),
    "a text message": (b"\x81\x01x", PROTOCOL, "text message"),
    "a long control frame": (b"\x82\x7e\x02\x01\x09" + bytes(512), PROTOCOL, "frame of type 0x09 with 513 bytes"),
    "ERROR within DATA": (b"\x02\x02\x05a" + wire(Failure(4009, "now")), PROTOCOL, "inside a fragmented one"),
    "a masked frame": (b"\x82\x82\x00\x00\x00\x00\x05a", PROTOCOL, "frame from the server is masked"),
    "a close frame of one byte": (b"\x88\x01\x03", PROTOCOL, "close"),
}


def breaking(sent: bytes, ends: list[Any], before: Any = None) -> Any:
    """Give the script of a server that breaks a rule once the client has sent five bytes."""

    async def run(peer: Peer) -> None:
        await peer.next()
        await peer.send(SMALL)
        while (frame := await peer.next()) is not None and not hasattr(frame, "payload"):
            pass
        await peer.stream.send_all(sent)
        while (frame := await peer.next()) is not None:
            if isinstance(frame, Failure):
                ends.append(frame)
        ends.append(peer.closed)

    return run


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_the_session(name: str) -> None:
    """The program learns why, and the server is told the code and the text, once."""
    sent, code, text = VIOLATIONS[name]
    ends: list[Any] = []
    async with scripted_server(breaking(sent, ends)) as server:
        with trio.fail_after(9):
            async with open_resumable(server.url, close_timeout=0.5) as stream:
                await stream.send_all(b"hello")
                with pytest.raises(SessionLost, match=text) as lost:
                    while True:
                        await stream.receive_some()
                        await stream.send_all(b"")
        assert lost.value.code == code
        assert [type(end) for end in ends] == [Failure, tuple]
        assert ends[0].code == ends[1][0] == code
        assert text in ends[0].text
        assert server.dials == 1


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_resets_the_tcp_client(name: str) -> None:
    """Half of something does not look like all of it; the log has the reason, and the server is told."""
    sent, code, text = VIOLATIONS[name]
    ends: list[Any] = []
    async with scripted_server(breaking(sent, ends)) as server, serving(near_side(server.url)) as near:
        with trio.fail_after(9), await near.connect("old") as client:
            await client.send(b"hello")
            with pytest.raises(trio.BrokenResourceError):
                while await client.more():
                    pass
                while True:
                    await client.send(b"x")
                    await trio.sleep(0.005)
            closed = await near.records.wait("connection.closed")
            while len(ends) < 2:
                await trio.sleep(0.002)
        assert (closed["reason"], closed["initiator"]) == ("resume_gap" if code == GAP else "protocol_error", "backend")
        assert text in closed["detail"]
        assert ends[0].code == ends[1][0]
        assert server.dials == 1


async def opens_and_takes_five(peer: Peer) -> None:
    """Open a session, acknowledge three of five bytes, and lose the transport."""
    await peer.next()
    await peer.send(SMALL)
    taken = 0
    while taken < 5:
        frame = await peer.next()
        taken += len(getattr(frame, "payload", b""))
    await peer.send(Ack(3))
    await peer.stream.send_eof()


ANSWERS: dict[str, tuple[bytes, int, str, type[SessionLost]]] = {
    "less than acknowledged": (wire(resumed(2)), GAP, "RESUMED from position 2, not 3 to 5", SessionLost),
    "more than sent": (wire(resumed(6)), GAP, "RESUMED from position 6, not 3 to 5", SessionLost),
    "everything": (wire(resumed(2**64 - 1)), GAP, "RESUMED from position 18446744073709551615", SessionLost),
    "RESUMED twice": (wire(resumed(5), resumed(5)), PROTOCOL, "RESUMED while the session is attached", SessionLost),
    "DATA before RESUMED": (wire(b"x", resumed(5)), PROTOCOL, "DATA while the session is resuming", SessionLost),
    "ACK before RESUMED": (wire(Ack(5)), PROTOCOL, "ACK while the session is resuming", SessionLost),
    "OPENED": (wire(SMALL), PROTOCOL, "OPENED while the session is resuming", SessionLost),
    "a short RESUMED": (b"\x82\x02\x04\x00", PROTOCOL, "RESUMED with 2 bytes", SessionLost),
    "an ACK that goes back": (wire(resumed(5), Ack(2)), GAP, "ACK of position 2, not 3 to 5", SessionLost),
    "4001 after success": (wire(resumed(5), Failure(4001, "rejected"), Close(4001)), 4001, "rejected", SessionRefused),
    "4003 after success": (wire(resumed(5), Close(4003, "superseded")), 4003, "superseded", SessionLost),
    "4013 after success": (wire(resumed(5), Failure(4013, "evicted"), Close(4013)), 4013, "evicted", SessionLost),
}


def answering(sent: bytes) -> Script:
    """Give the script of a connection whose first frame gets this answer."""

    async def run(peer: Peer) -> None:
        await peer.next()
        await peer.stream.send_all(sent)
        await peer.until_closed()

    return run


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_to_resume_that_cannot_be(name: str) -> None:
    """It ends the session, for the program and for a TCP client; nothing is dialed any more."""
    sent, code, text, error = ANSWERS[name]
    async with scripted_server(opens_and_takes_five, answering(sent)) as server:
        with trio.fail_after(9):
            async with open_resumable(server.url, close_timeout=0.1) as stream:
                await stream.send_all(b"hello")
                with pytest.raises(error, match=text) as lost:
                    await stream.receive_some()
        assert (lost.value.code, server.dials) == (code, 2)
    async with scripted_server(opens_and_takes_five, answering(sent)) as server, serving(near_side(server.url)) as near:
        with trio.fail_after(9), await near.connect("old") as client:
            await client.send(b"hello")
            with pytest.raises(trio.BrokenResourceError):
                await client.more()
        closed = await near.records.wait("connection.closed")
        assert f"ended with {code}: {text}" in closed["detail"]
        assert server.dials == 2


OPENINGS = {
    "no window": (wire(replace(OPENED, window=0)), "OPENED with a window of 0 bytes"),
    "too short": (b"\x82\x02\x02\x00", "OPENED with 2 bytes"),
    "another node hint than it says": (wire(replace(OPENED, node="ab"))[:-1] + b"\xff", "OPENED with a node hint"),
    "RESUMED": (wire(resumed()), "RESUMED while the session is opening"),
    "DATA first": (wire(b"x", OPENED), "DATA while the session is opening"),
    "FIN first": (wire(Fin(0), OPENED), "FIN while the session is opening"),
    "a text message": (b"\x81\x01x", "text message"),
    "a close frame with 1001": (wire(Close(1001, "away")), "closed with 1001: away"),
    "a masked frame": (b"\x82\x81\x00\x00\x00\x00\x02", "frame from the server is masked"),
}


@pytest.mark.parametrize("name", OPENINGS)
async def test_an_answer_to_open_that_cannot_be(name: str) -> None:
    """No session is opened, and the error says why."""
    sent, text = OPENINGS[name]
    async with scripted_server(answering(sent)) as server:
        with trio.fail_after(9), pytest.raises(ConnectError, match=text):
            async with open_resumable(server.url):
                pass
        async with serving(near_side(server.url)) as near:
            with await near.connect("old") as client:
                assert await client.everything() == b""
            rejected = await near.records.wait("connection.rejected")
            assert text in rejected["detail"]


def dropping(sent: bytes) -> Script:
    """Give the script of a connection whose first frame gets this answer and the end of the connection."""

    async def run(peer: Peer) -> None:
        await peer.next()
        await peer.stream.send_all(sent)
        await peer.stream.send_eof()
        await peer.until_closed()

    return run


@pytest.mark.parametrize("then", [dropping, answering])
async def test_an_error_before_resumed_that_may_pass(then: Callable[[bytes], Script]) -> None:
    """Also where no close frame follows, and where the server waits for ours."""
    scripts = (opens_and_takes_five, then(wire(Failure(4013, "later"))), answering(wire(resumed(5), b"ok")))
    async with (
        scripted_server(*scripts, *scripts) as server,
        open_resumable(server.url, close_timeout=0.1) as stream,
        serving(near_side(server.url)) as near,
    ):
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"ok"
        await stream.abort()
        with await near.connect("old") as client:
            await client.send(b"hello")
            assert await client.take(2) == b"ok"
        if then is answering:
            assert server.peers[1].closed == server.peers[4].closed == (4013, "")


LATER = {
    "429": b"HTTP/1.1 429 X\r\nRetry-After: 100000\r\nContent-Length: 0\r\n\r\n",
    "GOAWAY": wire(GoAway(2**32 - 1, 2**32 - 1)),
}


@pytest.mark.parametrize("how", LATER)
async def test_much_later_is_never(how: str, autojump_clock: trio.testing.MockClock) -> None:
    """A server that wants to be asked again in a day is not asked before: the session expires after its ttl."""
    first = opens_and_drops if how == "429" else dropping(wire(OPENED) + LATER[how])
    async with scripted_server(first, LATER["429"]) as server:
        async with open_resumable(server.url, ping_interval=None, close_timeout=0) as stream:
            began = trio.current_time()
            with pytest.raises(SessionExpired, match="expired after 30 s without a transport"):
                await stream.receive_some()
            assert 29 < trio.current_time() - began < 32
        assert server.dials == (2 if how == "429" else 1)


async def test_a_session_that_is_not_kept() -> None:
    """With a ttl of nothing a lost transport is the end, and nothing is dialed."""
    async with scripted_server(dropping(wire(replace(OPENED, ttl=0), b"bytes"))) as server:
        async with open_resumable(server.url, close_timeout=0) as stream:
            assert await stream.receive_some() == b"bytes"
            with pytest.raises(SessionExpired):
                await stream.receive_some()
        assert server.dials == 1


async def acknowledging_nothing(peer: Peer) -> None:
    """Open a session, read all, and say nothing."""
    await peer.next()
    await peer.send(SMALL)
    await peer.until_closed()


async def reading_nothing(peer: Peer) -> None:
    """Open a session, and read nothing."""
    await peer.next()
    await peer.send(replace(OPENED, window=2**32 - 1))
    await trio.sleep_forever()


@pytest.mark.parametrize("script", [acknowledging_nothing, reading_nothing])
async def test_a_server_that_acknowledges_nothing_is_stalled(script: Script) -> None:
    """What a TCP client may have under way is bounded, and after `write` that is the end of it."""
    timeouts = {"write": "300ms"}
    async with scripted_server(script) as server, serving(near_side(server.url, timeouts=timeouts)) as near:
        with trio.fail_after(10), await near.connect("old") as client:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(bytes(1 << 20))
            closed = await near.records.wait("connection.closed")
        assert (closed["reason"], closed["initiator"]) == ("write_stalled", "backend")


async def test_a_program_waits_for_acknowledgements_as_long_as_it_likes() -> None:
    """`send_all` accepts the window and waits; the end of the block takes `close_timeout`, and the server is told."""
    async with scripted_server(acknowledging_nothing) as server:
        async with open_resumable(server.url, close_timeout=0.1) as stream:
            with trio.move_on_after(0.1) as waiting:
                await stream.send_all(bytes(5000))
            assert waiting.cancelled_caught
            assert stream.unacknowledged_bytes == 4096
            began = trio.current_time()
        assert trio.current_time() - began < 2
        with trio.fail_after(9):
            while server.peers[0].closed is None:
                await trio.sleep(0.002)
        assert server.peers[0].closed == (4012, "given up by the client")


FLOODS = {
    "KEEPALIVE": wire(Keepalive()),
    "unknown frames": b"\x82\x01\xff",
    "GOAWAY": wire(GoAway(0, 0)),
    "pings": wire(Ping(b"x")),
    "ACKs of nothing": wire(Ack(0)),
    "empty fragments": b"\x02\x01\x05" + b"\x00\x00" * 100,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_a_tcp_client(name: str) -> None:
    """Work without payload is limited on this side as on the other."""

    async def run(peer: Peer) -> None:
        await peer.next()
        await peer.send(OPENED)
        while True:
            await peer.stream.send_all(FLOODS[name] * 1000 if name != "empty fragments" else FLOODS[name])

    async with scripted_server(run) as server, serving(near_side(server.url)) as near:
        with trio.fail_after(9), await near.connect("old") as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.more()
            closed = await near.records.wait("connection.closed")
        assert closed["reason"] in ("control_flood", "protocol_error")


async def test_the_end_of_the_stream_and_then_of_everything() -> None:
    """FIN, and a close frame with 1000 behind it: the server wants nothing more, and that is no error."""
    async with scripted_server(answering(wire(OPENED, b"all", Fin(3), Close(1000)))) as server:
        async with open_resumable(server.url) as stream:
            assert await stream.receive_some() == b"all"
            assert await stream.receive_some() == b""
        async with serving(near_side(server.url)) as near:
            with await near.connect("old") as client:
                while await client.more():
                    pass
                assert client.buffer == b"all"
            assert (await near.records.wait("connection.closed"))["reason"] == "backend_closed"


@pytest.mark.parametrize("window", [-1, 0, 2**32])
async def test_windows_that_cannot_be(window: int) -> None:
    """An argument that no frame can carry is a ValueError before anything is dialed."""
    async with scripted_server(acknowledging_nothing) as server:
        with pytest.raises(ValueError, match="window"):
            async with open_resumable(server.url, window=window):
                pass
        assert not server.dials


DIGITS = b"0123456789"
OPENING = wire(OPENED)
FIRST = OPENING + wire(DIGITS[:4], Ping(b"?"), Ack(0), DIGITS[4:], Fin(10))


@pytest.mark.parametrize("phase", ["opened", "resumed"])
async def test_a_server_that_is_cut_at_any_byte(phase: str, autojump_clock: trio.testing.MockClock) -> None:
    """After each number of bytes of an answer: what the program gets is whole, whatever has arrived before."""
    answered: list[int] = []

    async def rest(peer: Peer) -> None:
        frame = await peer.next()
        assert isinstance(frame, Resume)
        answered.append(frame.received)
        tail = (DIGITS[frame.received :], Fin(10)) if frame.received < 10 else () if frame.received > 10 else (Fin(10),)
        await peer.send(resumed(), *tail)
        await peer.until(Ack(11))
        await peer.until_closed()

    again = wire(resumed(), DIGITS[:4], Ack(0), DIGITS[4:], Fin(10))
    sent, opens = (FIRST, len(OPENING)) if phase == "opened" else (again, 0)
    for size in range(opens, len(sent) + 1):
        before = [] if phase == "opened" else [dropping(OPENING), dropping(sent[: size // 2][:10]), dropping(b"")]
        async with (
            scripted_server(*before, dropping(sent[:size]), rest) as server,
            open_resumable(server.url, ping_interval=None, close_timeout=1) as stream,
        ):
            data = b""
            while part := await stream.receive_some():
                data += part
            assert data == DIGITS
            await server.until_dialed(len(before) + 2)
            assert stream.transports == len(before) + 2
    assert answered == sorted(answered)
    assert set(answered) == set(range(12))
