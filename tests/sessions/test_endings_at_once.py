"""Servers that open or resume a session and end its transport with the same write: nothing is lost, nothing hangs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Self

import pytest
import trio
import trio.testing

from tests.scripted_peer import OPENED, Close, Part, Peer, Ping, Script, resumed, scripted_server, wire
from tests.serving import serving
from tests.sessions.test_backend_sessions import near_side
from wsbridge.backends.base import Connected
from wsbridge.backends.resumption import SessionTransport, open_session
from wsbridge.client import SessionLost, SessionReset, open_resumable
from wsbridge.net.transport import SocketTransport
from wsbridge.protocol.resume import Ended, Event, Received, SessionOpened
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL, Ack, Failure, Fin, Resume, ResumeCode
from wsbridge.relay.endpoint import Side

BANNER = b"220 busy\r\n"
ERROR = Failure(ResumeCode.BACKEND_RESET, "backend_reset")


@dataclass
class Ending:
    """What a server sends behind OPENED or RESUMED, and what comes of it.

    Attributes:
        parts: What it sends at once; bytes are payload.
        then: What it does with the connection: waits for its end, ends it by FIN, or by a reset.
        received: What the application gets.
        error: What the program gets behind that, where the session does not go on; None for the end of the stream.
        goes_on: Whether the session is resumed.
        reason: Of the connection of a TCP client; where the session does not go on.
    """

    parts: tuple[Part, ...]
    then: str = "wait"
    received: bytes = BANNER
    error: type[SessionLost] | None = SessionReset
    goes_on: bool = False
    reason: str = "backend_reset"


ENDINGS = {
    "ERROR and close": Ending((BANNER, ERROR, Close(4012, "backend_reset"))),
    "ERROR alone": Ending((BANNER, ERROR)),
    "ERROR, FIN of TCP": Ending((BANNER, ERROR), "fin"),
    "ERROR and close, reset": Ending((BANNER, ERROR, Close(4012)), "reset"),
    "close with a code of the protocol": Ending((BANNER, Close(4012, "backend_reset"))),
    "a rule": Ending((BANNER, Failure(4009, "max_lifetime"), Close(4009)), error=SessionLost),
    "no byte and ERROR": Ending((ERROR, Close(4012)), received=b""),
    "FIN, then ERROR": Ending((BANNER, Fin(len(BANNER)), ERROR, Close(4012)), error=None),
    "close 1000": Ending((BANNER, Close(1000)), error=None, reason="backend_closed"),
    "close 1001": Ending((BANNER, Close(1001)), goes_on=True),
    "close 1012": Ending((Close(1012),), goes_on=True, received=b""),
    "close without a code": Ending((BANNER, Close(None)), goes_on=True),
    "FIN of TCP": Ending((BANNER,), "fin", goes_on=True),
    "reset of TCP": Ending((BANNER,), "reset", goes_on=True),
    "a second answer": Ending((BANNER, OPENED), error=SessionLost, reason="protocol_error"),
}


SLOW = {"close 1012", "close without a code", "reset of TCP"}
"""Resumed twice: what the second time needs a random pause, two others show."""

CASES = [(name, phase) for name in ENDINGS for phase in ("opened", "resumed") if phase == "opened" or name not in SLOW]


def answering(answer: Part, ending: Ending, *, bytewise: bool) -> Script:
    """Give the script of a connection that is answered, and ends with that."""

    async def run(peer: Peer) -> None:
        await peer.next()
        data = wire(answer, *ending.parts)
        for at in range(0, len(data), 1 if bytewise else len(data)):
            await peer.stream.send_all(data[at : at + 1] if bytewise else data)
        if ending.then == "reset":
            peer.reset()
            return
        if ending.then == "fin":
            await peer.stream.send_eof()
        await peer.until_closed()

    return run


async def opening(peer: Peer) -> None:
    """Open a session, and lose the transport."""
    await peer.next()
    await peer.send(OPENED)
    await peer.stream.send_eof()
    await peer.until_closed()


async def going_on(peer: Peer) -> None:
    """Resume the session, send four more bytes and the end, and take the end of the client."""
    frame = await peer.next()
    assert isinstance(frame, Resume)
    await peer.send(resumed(), b"more", Fin(frame.received + 4))
    await peer.until(Ack(frame.received + 5), Fin(0))
    await peer.send(Ack(1))
    assert await peer.until_closed() == (1000, "")


def scripts_for(ending: Ending, phase: str, *, bytewise: bool) -> list[Script]:
    """Give what the server does with one connection after the other."""
    answered = OPENED if phase == "opened" else resumed()
    before = [] if phase == "opened" else [opening]
    return [*before, answering(answered, ending, bytewise=bytewise), going_on]


@pytest.mark.parametrize(("name", "phase"), CASES)
async def test_the_python_client(name: str, phase: str) -> None:
    """The stream is there; what came is received, and then the end with its reason."""
    ending = ENDINGS[name]
    async with scripted_server(*scripts_for(ending, phase, bytewise=name == "ERROR and close")) as server:
        with trio.fail_after(9):
            async with open_resumable(server.url, close_timeout=0.1) as stream:
                data = b""
                try:
                    while part := await stream.receive_some():
                        data += part
                except SessionLost as error:
                    assert type(error) is ending.error
                else:
                    assert ending.error is None or ending.goes_on
                if ending.goes_on:
                    await stream.send_eof()
    assert data == ending.received + (b"more" if ending.goes_on else b"")
    assert server.dials == 1 + (phase == "resumed") + ending.goes_on


@pytest.mark.parametrize(("name", "phase"), CASES)
async def test_a_tcp_client(name: str, phase: str) -> None:
    """It gets the bytes and then the end; the log has the reason."""
    ending = ENDINGS[name]
    scripts = scripts_for(ending, phase, bytewise=name == "ERROR and close")
    async with scripted_server(*scripts) as server, serving(near_side(server.url)) as near:
        with trio.fail_after(9), await near.connect("old") as client:
            data, is_reset = b"", False
            try:
                while part := await client.more():
                    data += part
            except trio.BrokenResourceError:
                is_reset = True
            if ending.goes_on:
                await client.stream.send_eof()
            closed = await near.records.wait("connection.closed")
        assert data == ending.received + (b"more" if ending.goes_on else b"")
        assert is_reset == (not ending.goes_on and ending.reason != "backend_closed")
        assert closed["reason"] == ("backend_closed" if ending.goes_on else ending.reason)
        assert closed["bytes_to_client"] == len(data)
        assert server.dials == 1 + (phase == "resumed") + ending.goes_on


class Pair:
    """A transport over a pair of sockets, of which the test has the other end.

    Attributes:
        server: That end.
        side: What the client has.
    """

    def __init__(self) -> None:
        self.server, client = socket.socketpair()
        client.setblocking(False)
        self.server.setblocking(False)
        self.side = Side(SocketTransport(client), "client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self.side.transport.close()

    async def comes(self, data: bytes, cut: int) -> None:
        """Have the first bytes come, and the rest once they have been read."""
        self.server.sendall(data[:cut])
        await trio.testing.wait_all_tasks_blocked()
        self.server.sendall(data[cut:])


async def test_every_cut() -> None:
    """Wherever the answer is cut, the events are the same, and in the same order."""
    data = wire(Ping(b"1"), OPENED, BANNER, Ping(b"2"), Fin(len(BANNER)), ERROR, Close(4012))
    for cut in range(1, len(data) + 1):
        session, events = ClientSession(), list[Event]()
        with Pair() as pair:
            carried = SessionTransport(pair.side, session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.comes, data, cut)
                await carried.open("here")
                assert session.session_id == OPENED.session_id
                while not carried.lost:
                    events += await carried.receive()
        payload = b"".join(bytes(part) for event in events if isinstance(event, Received) for part in event.payloads)
        assert (payload, session.peer_finished) == (BANNER, True)
        assert not any(isinstance(event, SessionOpened) for event in events)
        assert events[-1] == Ended(4012, "backend_reset", "peer")


async def test_pings_are_answered_while_it_opens() -> None:
    """A server, or a proxy, that sends one while it connects its backend waits for the pong."""
    with Pair() as pair:
        connected = Connected(pair.side, RESUME_SUBPROTOCOL, "here")
        pair.server.sendall(wire(Ping(b"1")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_session, connected)
            await trio.testing.wait_all_tasks_blocked()
            sent = pair.server.recv(100)
            pair.server.sendall(wire(OPENED))
        assert b"\x8a\x81" in sent  # a masked pong of one byte
        assert connected.session is not None
