"""The client's half of a resumable session: OPEN and RESUME on each transport, silence, what a server answers."""

from __future__ import annotations

import pytest

from tests.protocol.resume_peers import EPOCH, SESSION_ID, Peers, opened, payload, taken
from wsbridge.protocol.resume import (
    Ended,
    GoingAway,
    SessionOpened,
    SessionResumed,
    SessionState,
    TransportUseless,
)
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import (
    Ack,
    Data,
    Failure,
    GoAway,
    Keepalive,
    Open,
    Opened,
    Resume,
    Resumed,
)
from wsbridge.protocol.resume_server import SessionTerms

T1, T2, T3 = (bytes([number]) * 32 for number in range(1, 4))
OPENED = Opened(EPOCH, SESSION_ID, T1, 90, 131072, 2048, 100, 15, "web2")


def test_open() -> None:
    """The first frame of the first transport; nothing else before the answer."""
    session = ClientSession(window=65536)
    assert (session.room, session.deadline, session.state) == (0, None, SessionState.DETACHED)
    session.connect(0.0)
    assert taken(session) == [Open(65536)]
    assert not session.wants_to_send
    assert session.receive([OPENED], 0.0) == [SessionOpened()]
    assert (session.room, session.ttl, session.node, session.epoch) == (131072, 90, "web2", EPOCH)


def test_acks_as_the_server_wants_them() -> None:
    """After its bytes or its milliseconds."""
    session = ClientSession()
    session.connect(0.0)
    taken(session)
    session.receive([OPENED, Data(bytes(3000))], 0.0)
    session.consumed(2047, 1.0)
    assert session.deadline == 1.1
    assert not session.wants_to_send
    session.consumed(1, 1.0)
    assert taken(session) == [Ack(2048)]


def test_resume() -> None:
    """The first frame of each later transport; attempts are counted, the token is the newest."""
    peers = opened()
    client = peers.client
    client.send(b"abcd")
    peers.server.send(b"xyz")
    peers.to_client()
    taken(client)
    client.receive([Ack(1)], 0.0)
    client.transport_lost(0.0)
    client.connect(0.0)
    assert client.state is SessionState.RESUMING
    assert taken(client) == [Resume(EPOCH, SESSION_ID, T1, 1, 3, 1)]
    client.transport_lost(0.0)
    client.connect(0.0)
    assert taken(client) == [Resume(EPOCH, SESSION_ID, T1, 2, 3, 1)]
    assert client.receive([Resumed(2, T2, 60)], 0.0) == [SessionResumed(2)]
    assert client.ttl == 60
    client.connect(0.0)  # the caller gives the transport up
    assert taken(client) == [Resume(EPOCH, SESSION_ID, T2, 3, 3, 1)]


def test_bytes_wait_while_it_resumes() -> None:
    """They may be given, and follow its ACK."""
    peers = opened()
    peers.cut()
    peers.client.send(b"ab")
    peers.client.connect(0.0)
    peers.client.send(b"cd")
    (frame,) = taken(peers.client)
    assert isinstance(frame, Resume)
    peers.server.resume(frame, 0.0)
    peers.to_client()
    assert taken(peers.client) == [Ack(0), Data(b"abcd")]


@pytest.mark.parametrize("received", [1, 5])
def test_a_server_that_resumes_elsewhere(received: int) -> None:
    """It wants what is not held any more, or has what was never sent."""
    peers = opened()
    client = peers.client
    client.send(b"abcd")
    taken(client)
    client.receive([Ack(2)], 0.0)
    client.connect(0.0)
    text = f"RESUMED from position {received}, not 2 to 4"
    assert client.receive([Resumed(received, T2, 60)], 0.0) == [Ended(4002, text, "us")]
    assert taken(client) == [Failure(4002, text)]


def test_a_transport_that_is_lost_before_opened() -> None:
    """There is no session yet: the next transport gets OPEN, and nothing expires."""
    session = ClientSession()
    session.connect(0.0)
    assert session.transport_lost(1.0) == []
    assert session.deadline is None
    assert session.on_deadline(1e9) == []
    session.connect(2.0)
    assert taken(session) == [Open(0)]


@pytest.mark.parametrize("code", [4010, 4011, 4013, 4014])
def test_an_open_that_is_refused(code: int) -> None:
    """By ERROR or by a close frame alone."""
    session = ClientSession()
    session.connect(0.0)
    assert session.receive([Failure(code, "no")], 0.0) == [Ended(code, "no", "peer")]
    assert session.closing == (code, "")
    session = ClientSession()
    session.connect(0.0)
    assert session.transport_lost(0.0, code, "no") == [Ended(code, "no", "peer")]


@pytest.mark.parametrize("code", [4001, 4002, 4003, 4004, 4008, 4009])
def test_a_resume_that_is_refused(code: int) -> None:
    """The session has ended."""
    peers = opened()
    peers.client.connect(0.0)
    assert peers.client.receive([Failure(code, "no")], 0.0) == [Ended(code, "no", "peer")]


@pytest.mark.parametrize("code", [4013, 4014])
def test_a_resume_that_can_be_tried_again(code: int) -> None:
    """The server has no room now, or is another one soon; the session is still there."""
    peers = opened()
    client = peers.client
    client.transport_lost(7.0)
    client.connect(10.0)
    assert client.receive([Failure(code, "later")], 10.0) == [TransportUseless(f"{code} later")]
    assert (client.state, client.closing) == (SessionState.DETACHED, (code, ""))
    assert client.transport_lost(11.0, code) == []
    assert client.closing is None
    assert client.deadline == 127.0
    client.connect(12.0)
    assert client.transport_lost(13.0, code, "later") == []
    assert client.deadline == 127.0

    attached = opened().client
    assert attached.transport_lost(13.0, code, "evicted") == [Ended(code, "evicted", "peer")]


def test_going_away() -> None:
    """What the server announces, in seconds."""
    peers = opened()
    assert peers.client.receive([GoAway(2000, 5500)], 0.0) == [GoingAway(2.0, 5.5)]
    assert peers.client.state is SessionState.ATTACHED


def test_a_silent_transport_is_lost() -> None:
    """Nothing, not even a KEEPALIVE, for twice its time."""
    peers = opened(SessionTerms(keepalive=20))
    client = peers.client
    assert client.deadline == 40.0
    client.receive([Keepalive()], 10.0)
    assert client.deadline == 50.0
    client.note_alive(15.0)
    assert client.deadline == 55.0
    assert client.on_deadline(54.0) == []
    assert client.on_deadline(55.0) == [TransportUseless("nothing received for 40 s")]
    assert (client.state, client.closing) == (SessionState.DETACHED, (4003, ""))
    assert client.deadline == 175.0
    assert peers.reconnect(56.0).replaced
    assert peers.to_client(57.0) == [SessionResumed(0)]
    assert client.deadline == 97.0


def test_no_keepalive_no_silence() -> None:
    """A server that sends none is not waited for."""
    client = opened(SessionTerms(keepalive=0)).client
    assert client.deadline is None
    assert client.on_deadline(1e9) == []


def test_the_earliest_deadline() -> None:
    """Of ACK and silence."""
    peers = opened()
    peers.server.send(b"abc")
    peers.to_client(0.0)
    peers.client.consumed(1, 39.9)
    assert peers.client.deadline == 40.0
    peers.client.note_alive(39.9)
    assert peers.client.deadline == 40.15
    peers.client.on_deadline(40.15)
    assert taken(peers.client) == [Ack(1)]


def test_a_window_of_nothing() -> None:
    """A client could never send."""
    session = ClientSession()
    session.connect(0.0)
    (ended,) = session.receive([Opened(0, SESSION_ID, T1, 1, 0, 1, 1, 1)], 0.0)
    assert ended == Ended(4008, "OPENED with a window of 0 bytes", "us")


def test_a_client_ends_its_session() -> None:
    """By a close frame with 1000 alone."""
    peers = opened()
    peers.client.send(b"bye")
    assert payload(peers.to_server()) == b"bye"
    peers.client.end(1000, "", 0.0)
    assert taken(peers.client) == []
    assert peers.client.closing == (1000, "")
    assert peers.server.transport_lost(0.0, 1000) == [Ended(1000, "", "peer")]


def test_a_client_gives_up_before_the_answer() -> None:
    """ERROR is all that it may send then."""
    peers = Peers()
    peers.client.end(4000, "not wanted any more", 0.0)
    assert peers.to_server() == [Ended(4000, "not wanted any more", "peer")]
