"""What both halves of a resumable session share: streams, windows, ACK, FIN, replay, endings."""

from __future__ import annotations

import pytest

from tests.protocol.resume_peers import PLENTY, Peers, joined, opened, payload, taken
from wsbridge.protocol.resume import (
    SEND_BYTES,
    Ended,
    PeerFinished,
    Received,
    Session,
    SessionResumed,
    SessionState,
)
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import (
    Ack,
    Data,
    Failure,
    Fin,
    Frame,
    Ignored,
    Keepalive,
    Malformed,
    Open,
    Opened,
    Resume,
    Resumed,
)
from wsbridge.protocol.resume_server import SessionTerms

SMALL = SessionTerms(window=8192)
ENDED, DETACHED, ATTACHED = SessionState.ENDED, SessionState.DETACHED, SessionState.ATTACHED


def test_bytes_go_both_ways() -> None:
    """In order, each direction for itself."""
    peers = opened()
    peers.client.send(b"hello ")
    peers.client.send(b"server")
    peers.server.send(b"hello client")

    assert payload(peers.to_server()) == b"hello server"
    assert payload(peers.to_client()) == b"hello client"
    assert not peers.client.wants_to_send
    assert taken(peers.client) == []


def test_payload_of_one_read_is_one_event() -> None:
    """As views of the messages."""
    peers = opened()
    events = peers.server.receive([Data(b"a"), Data(b"b"), Ack(0), Data(b"c")], 0.0)
    assert events == [Received([b"a", b"b", b"c"])]


def test_large_payload_is_sent_in_pieces_without_a_copy() -> None:
    """Each message has a type byte and at most `SEND_BYTES` of payload; `max_bytes` paces them."""
    peers = opened()
    chunk = bytes(range(256)) * 600
    peers.server.send(chunk)
    messages = peers.server.take(60000, 0.0)

    assert [(head, len(body)) for head, body in messages] == [(b"\x05", 60000)]
    assert all(isinstance(body, memoryview) and body.obj is chunk for _, body in messages)
    assert peers.server.take(0, 0.0) == []
    assert peers.server.wants_to_send
    messages += peers.server.take(PLENTY, 0.0)
    assert b"".join(bytes(body) for _, body in messages) == chunk
    assert max(len(joined(message)) for message in messages) <= 1 + SEND_BYTES
    assert not peers.server.wants_to_send


def test_a_sender_holds_at_most_its_window() -> None:
    """Then there is no room until the peer acknowledges; more is refused."""
    peers = opened(SMALL)
    assert peers.client.room == peers.server.room == 8192
    peers.client.send(bytes(8000))
    assert peers.client.room == 192
    with pytest.raises(ValueError, match="193 bytes given to a session with room for 192"):
        peers.client.send(bytes(193))
    peers.client.send(bytes(192))
    peers.client.send(b"")
    assert (peers.client.room, peers.client.replay_bytes) == (0, 8192)

    peers.to_server()
    peers.server.consumed(5000, 0.0)
    peers.to_client()
    assert (peers.client.room, peers.client.replay_bytes, peers.client.acked_position) == (5000, 3192, 5000)


@pytest.mark.parametrize(
    ("wanted", "granted"), [(0, 1048576), (65536, 65536), (1, 4096), (2**31, 1048576), (1048576, 1048576)]
)
def test_a_client_can_ask_for_a_smaller_window(wanted: int, granted: int) -> None:
    """For what the server sends; what it sends itself is bounded by the server's."""
    peers = opened(window=wanted)
    assert peers.server.room == granted
    assert peers.client.room == 1048576
    for _ in range(2):  # the client counts the same
        peers.server.send(bytes(granted))
        assert len(payload(peers.to_client())) == granted
        peers.client.consumed(granted, 0.0)
        peers.to_server()


def test_more_than_the_window_is_a_violation() -> None:
    """A receiver holds no more than that."""
    peers = opened(SMALL)
    peers.server.receive([Data(bytes(8192))], 0.0)
    assert peers.server.unconsumed_bytes == 8192
    peers.server.consumed(8192, 0.0)  # no ACK has been taken yet
    (ended,) = peers.server.receive([Data(b"x")], 0.0)

    assert ended == Ended(4008, "DATA beyond the window of 8192 bytes", "us")
    assert peers.server.closing == (4008, ended.text)
    assert taken(peers.server) == [Failure(4008, ended.text)]
    assert peers.server.receive([Data(b"x"), Ack(0)], 0.0) == []


def test_bytes_before_a_violation_are_passed_on() -> None:
    """Then the end."""
    peers = opened()
    received, ended = peers.server.receive([Data(b"abc"), Malformed("bad"), Data(b"def")], 0.0)
    assert received == Received([b"abc"])
    assert ended == Ended(4008, "bad", "us")


def test_acks_by_bytes() -> None:
    """One once an eighth of the window has been consumed, at most 64 KiB, and not before."""
    peers = opened(SMALL)
    peers.client.send(bytes(2000))
    peers.to_server()
    peers.server.consumed(1023, 0.0)
    assert not peers.server.wants_to_send
    peers.server.consumed(1, 0.0)
    assert taken(peers.server) == [Ack(1024)]
    peers.server.consumed(976, 0.0)
    assert taken(peers.server) == []

    large = opened(SessionTerms(window=16777216))
    large.server.send(bytes(200000))
    large.to_client()
    large.client.consumed(131071, 0.0)
    assert taken(large.client) == []
    large.client.consumed(1, 0.0)
    assert taken(large.client) == [Ack(131072)]


def test_acks_by_time() -> None:
    """250 ms after the first byte that is not acknowledged."""
    peers = opened(SessionTerms(keepalive=0))
    peers.client.send(b"abc")
    peers.to_server()
    peers.server.consumed(1, 10.0)
    peers.server.consumed(2, 10.2)

    assert peers.server.deadline == 10.25
    assert peers.server.on_deadline(10.2) == []
    assert not peers.server.wants_to_send
    assert peers.server.on_deadline(10.25) == []
    assert peers.server.deadline is None
    assert taken(peers.server) == [Ack(3)]
    assert peers.server.on_deadline(99.0) == []
    assert not peers.server.wants_to_send


def test_an_ack_by_bytes_may_wait() -> None:
    """For payload that it can go with, or for its time; not once it is for twice as many bytes."""
    peers = opened(SessionTerms(window=8192, keepalive=0))
    peers.client.send(bytes(3000))
    peers.to_server()
    peers.server.consumed(1, 1.0)
    peers.server.consumed(2000, 1.1)
    assert peers.server.wants_to_send
    assert peers.server.can_wait
    assert peers.server.deadline == 1.25
    peers.server.send(b"payload")
    assert not peers.server.can_wait
    assert taken(peers.server) == [Ack(2001), Data(b"payload")]
    peers.server.consumed(1, 2.0)
    assert (peers.server.deadline, peers.server.can_wait) == (2.25, True)
    assert peers.server.on_deadline(2.25) == []
    assert not peers.server.can_wait
    assert taken(peers.server) == [Ack(2002)]
    peers.client.send(bytes(5000))
    peers.to_server()
    peers.server.consumed(2048, 3.0)
    assert not peers.server.can_wait


def test_only_what_was_received_can_be_consumed() -> None:
    """A caller's error."""
    peers = opened()
    peers.client.send(b"abc")
    peers.client.finish()
    peers.to_server()
    with pytest.raises(ValueError, match="4 bytes consumed, and 3 were received"):
        peers.server.consumed(4, 0.0)
    with pytest.raises(ValueError, match="or 3 bytes before it left"):
        peers.server.consumed_fin()
    with pytest.raises(ValueError, match="was not received"):
        peers.client.consumed_fin()


# ---------------------------------------------------------------------- interruptions


def test_lost_bytes_are_sent_again() -> None:
    """From where the peer has received; nothing is missing and nothing arrives twice."""
    peers = opened()
    peers.client.send(b"abc")
    peers.server.send(b"xyz")
    got_server = payload(peers.to_server())
    peers.client.send(b"def")
    taken(peers.client)
    taken(peers.server)  # both lost
    peers.cut()
    peers.client.send(b"ghi")
    peers.server.send(b"uvw")
    resumption = peers.reconnect()
    first, second = peers.to_client()

    assert (resumption.refusal, resumption.replaced, resumption.replayed) == (None, False, 3)
    assert first == SessionResumed(3)
    assert payload([second]) == b"xyzuvw"
    got_server += payload(peers.to_server())
    assert got_server == b"abcdefghi"
    assert (peers.client.replayed_bytes, peers.server.replayed_bytes) == (3, 3)
    assert (peers.client.transports, peers.server.transports) == (2, 2)


def test_lost_acks_are_sent_again() -> None:
    """Both sides begin with their ACK after RESUMED, even if it has not changed."""
    peers = opened(SMALL)
    peers.client.send(bytes(8192))
    peers.to_server()
    peers.server.consumed(8192, 0.0)
    assert taken(peers.server) == [Ack(8192)]  # lost
    peers.cut()
    peers.reconnect()
    frames = taken(peers.server)
    assert [type(frame) for frame in frames] == [Resumed, Ack]
    peers.client.receive(frames, 0.0)
    assert (peers.client.room, peers.client.replay_bytes) == (8192, 0)
    assert taken(peers.client) == [Ack(0)]


def test_resumed_does_not_open_the_window() -> None:
    """What the peer has received, it may still have to hold: only ACK makes room."""
    peers = opened(SMALL)
    peers.client.send(bytes(8192))
    peers.server.send(bytes(8192))
    peers.to_server()
    peers.to_client()
    peers.cut()
    peers.reconnect()
    peers.to_client()
    peers.to_server()

    assert (peers.client.room, peers.server.room) == (0, 0)
    assert (peers.client.replay_bytes, peers.server.replay_bytes) == (8192, 8192)
    assert (peers.client.replayed_bytes, peers.server.replayed_bytes) == (0, 0)


def test_a_detached_session_is_read_until_its_window_is_full() -> None:
    """And consumes what it has received; the ACK follows with the next transport."""
    peers = opened(SMALL)
    peers.client.send(b"abc")
    peers.to_server()
    peers.cut()
    peers.server.send(bytes(8192))
    peers.server.consumed(3, 1.0)

    assert peers.server.room == 0
    assert not peers.server.wants_to_send
    assert peers.server.take(PLENTY, 0.0) == []
    peers.reconnect()
    assert len(payload(peers.to_client())) == 8192
    assert peers.client.acked_position == 3


def test_a_transport_that_is_cut_in_the_middle_of_a_message() -> None:
    """Parts of DATA count as they arrive."""
    peers = opened()
    peers.client.send(b"abcdef")
    taken(peers.client)
    peers.server.receive([Data(b"ab")], 0.0)
    peers.cut()
    peers.reconnect()
    peers.to_client()
    assert payload(peers.to_server()) == b"cdef"


def test_what_is_replayed_can_be_lost_again() -> None:
    """Any number of times, each byte counted as often as it is sent again."""
    peers = opened()
    peers.client.send(b"abcd")
    taken(peers.client)
    for attempt in range(1, 4):
        peers.cut()
        peers.reconnect()
        peers.to_client()
        taken(peers.client)
        assert peers.client.replayed_bytes == 4 * attempt
    peers.cut()
    peers.reconnect()
    peers.to_client()
    assert payload(peers.to_server()) == b"abcd"


# ---------------------------------------------------------------------- FIN


def test_half_close() -> None:
    """One side ends its stream, the other goes on; then both have ended, and the client closes."""
    peers = opened()
    peers.client.send(b"abc")
    peers.client.finish()
    peers.client.finish()
    assert peers.client.room == 0
    received, finished = peers.to_server()
    assert (received, finished) == (Received([b"abc"]), PeerFinished())
    peers.server.consumed(3, 0.0)
    peers.server.consumed_fin()
    peers.to_client()
    assert peers.client.fin_acked
    assert not peers.client.complete

    peers.server.send(b"xyz")
    peers.server.finish()
    events = peers.to_client()
    assert (payload(events), events[-1]) == (b"xyz", PeerFinished())
    peers.client.consumed(3, 0.0)
    peers.client.consumed_fin()
    assert peers.client.closing is None
    frames = taken(peers.client)
    assert frames == [Ack(4)]
    assert peers.client.complete
    assert peers.client.closing == (1000, "")
    peers.server.receive(frames, 0.0)
    assert peers.server.complete
    assert peers.server.closing is None
    assert peers.server.transport_lost(0.0, 1000) == [Ended(1000, "", "peer", complete=True)]
    assert peers.client.transport_lost(0.0) == [Ended(1000, "", "us", complete=True)]


@pytest.mark.parametrize("lost", [True, False])
def test_fin_is_replayed(lost: bool) -> None:
    """If it was lost; and if it arrived, it is not sent again."""
    peers = opened()
    peers.client.send(b"abc")
    peers.client.finish()
    frames = taken(peers.client)
    assert frames[-1] == Fin(3)
    peers.server.receive(frames[:-1] if lost else frames, 0.0)
    peers.cut()
    peers.reconnect()
    peers.to_client()
    assert taken(peers.client) == ([Ack(0), Fin(3)] if lost else [Ack(0)])


def test_fin_of_an_empty_stream() -> None:
    """Position 0 is the FIN's own."""
    peers = opened()
    peers.server.finish()
    assert peers.to_client() == [PeerFinished()]
    peers.cut()
    peers.client.consumed_fin()
    peers.reconnect()
    peers.to_client()
    peers.to_server()
    assert peers.server.fin_acked


def test_fin_needs_no_room() -> None:
    """The window bounds bytes."""
    peers = opened(SMALL)
    peers.client.send(bytes(8192))
    peers.client.finish()
    assert peers.to_server()[-1] == PeerFinished()


def test_fin_before_opened_is_sent_behind_it() -> None:
    """A source can end while the backend is dialled."""
    peers = Peers()
    peers.client.finish()
    assert taken(peers.client) == []
    peers.server.opened(0.0)
    peers.to_client()
    assert taken(peers.client) == [Fin(0)]


def complete_peers() -> Peers:
    """Give peers of which the client is complete; its last ACK is not delivered."""
    peers = opened()
    peers.client.finish()
    peers.server.finish()
    peers.to_server()
    peers.server.consumed_fin()
    peers.to_client()
    peers.client.consumed_fin()
    return peers


def test_a_client_that_is_complete_has_ended_without_its_transport() -> None:
    """Whatever became of its close frame."""
    peers = complete_peers()
    taken(peers.client)
    assert peers.client.transport_lost(0.0) == [Ended(1000, "", "us", complete=True)]


def test_a_client_that_has_not_acknowledged_the_end_resumes() -> None:
    """Its ACK is what the server waits for."""
    peers = complete_peers()
    peers.cut()
    assert peers.client.state is peers.server.state is DETACHED
    peers.reconnect()
    peers.to_client()
    peers.to_server()
    assert peers.server.complete
    assert peers.client.closing == (1000, "")


def test_a_server_that_is_complete_still_answers() -> None:
    """Its last ACK may be lost, and the client resumes for it."""
    peers = opened()
    peers.client.finish()
    peers.server.finish()
    peers.to_server()
    peers.to_client()
    peers.client.consumed_fin()
    peers.to_server()
    peers.server.consumed_fin()
    taken(peers.server)  # ACK 1, lost
    assert peers.server.complete
    assert peers.server.transport_lost(0.0) == []
    peers.client.transport_lost(0.0)
    assert peers.reconnect().refusal is None
    peers.to_client()
    taken(peers.client)
    assert peers.client.closing == (1000, "")


# ---------------------------------------------------------------------- violations


@pytest.mark.parametrize(
    ("frames", "code", "text"),
    [
        ([Ack(3)], 4002, "ACK of position 3, not 0 to 2"),
        ([Ack(2), Ack(1)], 4002, "ACK of position 1, not 2 to 2"),
        ([Data(b"abc"), Fin(2)], 4002, "FIN at position 2, not 3"),
        ([Data(b"abc"), Fin(4)], 4002, "FIN at position 4, not 3"),
        ([Fin(0), Fin(0)], 4008, "FIN after FIN"),
        ([Fin(0), Fin(1)], 4008, "FIN after FIN"),
        ([Fin(0), Data(b"x")], 4008, "DATA after FIN"),
        ([Malformed("frame of unknown type 0x10")], 4008, "frame of unknown type 0x10"),
        ([Open(0)], 4008, "OPEN while the session is attached"),
        ([Resume(0, bytes(16), bytes(32), 1, 0, 0)], 4008, "RESUME while the session is attached"),
    ],
)
@pytest.mark.parametrize("role", ["server", "client"])
def test_violations(role: str, frames: list[Frame], code: int, text: str) -> None:
    """The session ends with the code, and ERROR says what was wrong."""
    peers = opened()
    session: Session = peers.server if role == "server" else peers.client
    session.send(b"ab")
    taken(session)
    events = session.receive(frames, 0.0)

    assert events[-1] == session.ended == Ended(code, text, "us")
    assert session.state is ENDED
    assert session.closing == (code, text)
    assert taken(session) == [Failure(code, text)]
    assert session.transport_lost(0.0, code) == []
    assert (session.room, session.replay_bytes, session.deadline) == (0, 0, None)


def test_an_ack_cannot_be_ahead_of_the_replay() -> None:
    """What was sent on an earlier transport, and not on this one, the peer has not said to have received."""
    peers = opened()
    peers.client.send(b"abcd")
    taken(peers.client)
    peers.cut()
    peers.reconnect()
    peers.client.receive(taken(peers.server)[:1], 0.0)
    (ended,) = peers.client.receive([Ack(4)], 0.0)
    assert isinstance(ended, Ended)
    assert ended.code == 4002


@pytest.mark.parametrize("frame", [Opened(0, bytes(16), bytes(32), 1, 1, 1, 1, 1), Resumed(0, bytes(32), 1)])
def test_answers_that_were_not_asked_for(frame: Frame) -> None:
    """Neither role expects them when it is attached."""
    for session in (opened().server, opened().client):
        assert session.receive([frame], 0.0) == [session.ended]
        assert session.ended is not None
        assert session.ended.code == 4008


@pytest.mark.parametrize("frame", [Data(b"x"), Ack(0), Fin(0)])
def test_nothing_goes_before_the_answer(frame: Frame) -> None:
    """Neither before OPENED nor before RESUMED."""
    peers = Peers()
    assert peers.client.receive([frame], 0.0)[-1] == Ended(4008, f"{name(frame)} while the session is opening", "us")
    peers = Peers()
    assert peers.server.receive([frame], 0.0)[-1] == Ended(4008, f"{name(frame)} while the session is opening", "us")
    peers = opened()
    peers.cut()
    peers.reconnect()
    assert peers.client.receive([frame], 0.0)[-1] == Ended(4008, f"{name(frame)} while the session is resuming", "us")


def name(frame: Frame) -> str:
    """Give the name of a frame in messages."""
    return type(frame).__name__.upper()


def test_unknown_frames_are_ignored() -> None:
    """And a KEEPALIVE, from whomever it comes."""
    peers = opened()
    for session in (peers.client, peers.server):
        assert session.receive([Ignored(0x99), Keepalive()], 0.0) == []
        assert session.state is ATTACHED


# ---------------------------------------------------------------------- endings


@pytest.mark.parametrize("role", ["server", "client"])
def test_an_error_ends_the_session(role: str) -> None:
    """After what came before it."""
    peers = opened()
    ending, other = (peers.server, peers.client) if role == "server" else (peers.client, peers.server)
    ending.send(b"last words")
    frames = taken(ending)
    ending.end(4009, "max_lifetime", 0.0)
    ending.end(4000, "again", 0.0)
    frames += taken(ending)

    assert frames == [Data(b"last words"), Failure(4009, "max_lifetime")]
    received, ended = other.receive(frames, 0.0)
    assert payload([received]) == b"last words"
    assert ended == other.ended == Ended(4009, "max_lifetime", "peer")
    assert other.closing == (4009, "")
    assert other.transport_lost(0.0, 4009, "max_lifetime") == []
    assert other.closing is None
    assert ending.ended == Ended(4009, "max_lifetime", "us")
    ending.consumed(0, 0.0)


def test_1000_is_only_a_close_frame() -> None:
    """It is no error."""
    peers = opened()
    peers.server.end(1000, "", 0.0)
    assert taken(peers.server) == []
    assert peers.server.closing == (1000, "")


def test_texts_are_cut() -> None:
    """To what fits into the close frame as well."""
    peers = opened()
    peers.server.end(4009, "ü" * 100, 0.0)
    assert peers.server.closing == (4009, "ü" * 60)
    assert taken(peers.server) == [Failure(4009, "ü" * 60)]


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1012])
@pytest.mark.parametrize("role", ["server", "client"])
def test_endings_of_a_transport_that_detach(role: str, code: int | None) -> None:
    """The session goes on without a transport."""
    peers = opened()
    session: Session = peers.server if role == "server" else peers.client
    assert session.transport_lost(5.0, code) == []
    assert session.state is DETACHED
    assert session.deadline == 125.0
    assert session.transport_lost(6.0, 1000) == []
    assert session.deadline == 125.0
    assert session.receive([Data(b"late")], 0.0) == []


@pytest.mark.parametrize("code", [1000, 1002, 1008, 1011, 3000, 4000, 4001, 4012])
@pytest.mark.parametrize("role", ["server", "client"])
def test_endings_of_a_transport_that_end_the_session(role: str, code: int) -> None:
    """Any other close code."""
    peers = opened()
    session: Session = peers.server if role == "server" else peers.client
    assert session.transport_lost(0.0, code, "text") == [Ended(code, "text", "peer")]


def test_4003_detaches_from_a_client_alone() -> None:
    """A page cannot send 1001 or 1012; from a server it means that somebody else has the session."""
    peers = opened()
    assert peers.server.transport_lost(0.0, 4003) == []
    assert peers.server.state is DETACHED
    assert peers.client.transport_lost(0.0, 4003, "superseded") == [Ended(4003, "superseded", "peer")]


def test_a_session_expires() -> None:
    """Its ttl after it was detached; on both sides."""
    peers = opened(SessionTerms(ttl=60))
    peers.server.send(bytes(1000))
    peers.cut(100.0)
    for session in (peers.server, peers.client):
        assert session.deadline == 160.0
        assert session.on_deadline(159.9) == []
        assert session.on_deadline(160.0) == [Ended(None, "expired after 60 s without a transport", "us")]
        assert (session.state, session.replay_bytes, session.closing) == (ENDED, 0, None)
        assert session.on_deadline(161.0) == []


def test_resuming_stops_the_clock_of_expiry() -> None:
    """The ttl begins again with the next loss."""
    peers = opened(SessionTerms(ttl=60, keepalive=0))
    peers.cut(100.0)
    peers.reconnect(150.0)
    peers.to_client(150.0)
    assert peers.client.deadline is peers.server.deadline is None
    peers.cut(300.0)
    assert peers.client.deadline == peers.server.deadline == 360.0


@pytest.mark.parametrize("code", [4012, 1000, 1005])
def test_an_end_after_the_data(code: int) -> None:
    """ERROR follows the last byte; it has ended when the peer has closed."""
    peers = opened()
    peers.server.send(b"tail")
    peers.server.end_after_data(4012, "backend reset")
    peers.server.end_after_data(4011, "again")
    assert peers.server.room == 0
    assert peers.server.wants_to_send
    assert taken(peers.server, max_bytes=2) == [Data(b"ta")]
    assert peers.server.closing is None
    assert taken(peers.server) == [Data(b"il"), Failure(4012, "backend reset")]
    assert peers.server.closing == (4012, "backend reset")
    assert taken(peers.server) == []
    assert not peers.server.wants_to_send
    assert peers.server.receive([Ack(4)], 0.0) == []
    assert peers.server.transport_lost(0.0, code) == [Ended(4012, "backend reset", "us")]


@pytest.mark.parametrize("code", [None, 1001, 4003])
def test_an_end_after_the_data_survives_a_cut(code: int | None) -> None:
    """The next transport gets the bytes, and the ERROR behind them."""
    peers = opened()
    peers.server.send(b"tail")
    peers.server.end_after_data(4012, "backend reset")
    taken(peers.server)
    assert peers.server.transport_lost(0.0, code) == []
    peers.client.transport_lost(0.0)
    peers.reconnect()
    _, received, ended = peers.to_client()
    assert payload([received]) == b"tail"
    assert ended == Ended(4012, "backend reset", "peer")


def test_fin_goes_before_the_end_after_the_data() -> None:
    """A stream that was complete is complete."""
    peers = opened()
    peers.server.send(b"all")
    peers.server.finish()
    peers.server.end_after_data(4012, "backend reset")
    assert taken(peers.server) == [Data(b"all"), Fin(3), Failure(4012, "backend reset")]


def test_figures() -> None:
    """Positions and what is held, at every step."""
    peers = opened()
    client, server = peers.client, peers.server
    client.send(b"abcdef")
    assert (client.replay_bytes, client.sent_position, client.acked_position) == (6, 0, 0)
    taken(client, max_bytes=4)
    assert (client.replay_bytes, client.sent_position) == (6, 4)
    server.receive([Data(b"abcd")], 0.0)
    server.consumed(3, 0.0)
    assert (server.received_position, server.consumed_position, server.unconsumed_bytes) == (4, 3, 1)
    client.receive([Ack(3)], 0.0)
    assert (client.replay_bytes, client.acked_position) == (3, 3)
    client.finish()
    assert not server.peer_finished
    peers.to_server()
    assert (client.sent_position, server.received_position, server.unconsumed_bytes) == (7, 7, 3)
    assert server.peer_finished
    server.consumed(3, 0.0)
    assert server.unconsumed_bytes == 0


def test_an_ended_client_does_not_connect() -> None:
    """A caller's error."""
    session = ClientSession()
    session.end(1000, "", 0.0)
    with pytest.raises(ValueError, match="has ended"):
        session.connect(0.0)
