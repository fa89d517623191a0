"""The server's half of a resumable session: OPEN, RESUME, tokens, takeover, keepalive, its state as plain values."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from tests.protocol.resume_peers import EPOCH, SESSION_ID, Peers, Tokens, opened, payload, taken
from wsbridge.protocol.resume import Ended, Received, SessionState
from wsbridge.protocol.resume_frames import (
    REJECTED_TEXT,
    Ack,
    Data,
    Failure,
    Fin,
    Frame,
    GoAway,
    Keepalive,
    Opened,
    Resume,
    ResumeCode,
    Resumed,
)
from wsbridge.protocol.resume_server import ServerSession, SessionTerms, hash_token, reject_resume

SMALL = SessionTerms(window=8192)
T1, T2, T3, T4 = (bytes([number]) * 32 for number in range(1, 5))


def resume(token: bytes = T1, attempt: int = 1, received: int = 0, first: int = 0) -> Resume:
    """Give a RESUME of the one session."""
    return Resume(EPOCH, SESSION_ID, token, attempt, received, first)


def test_opened() -> None:
    """It says what is granted, once the backend is connected."""
    peers = Peers(SessionTerms(131072, 90, 100, 15, "web2"), window=16384)
    assert peers.server.state is SessionState.OPENING
    assert (peers.server.room, peers.server.wants_to_send, peers.server.deadline) == (0, False, None)
    peers.server.opened(0.0)
    assert taken(peers.server) == [Opened(EPOCH, SESSION_ID, T1, 90, 131072, 2048, 100, 15, "web2")]
    with pytest.raises(ValueError, match="the session is attached"):
        peers.server.opened(0.0)


def test_an_open_can_be_refused() -> None:
    """With the reason."""
    peers = Peers()
    peers.server.end(ResumeCode.BACKEND_REFUSED, "backend refused", 0.0)
    (ended,) = peers.to_client()
    assert ended == Ended(4010, "backend refused", "peer")
    assert peers.server.closing == (4010, "backend refused")


def test_a_client_that_is_lost_before_opened() -> None:
    """It has no token: there is nothing to resume."""
    peers = Peers()
    assert peers.server.resume(resume(b"\0" * 32), 0.0).refusal == (4001, REJECTED_TEXT)
    assert peers.server.transport_lost(0.0) == [Ended(None, "", "peer")]


def test_resumed() -> None:
    """It says what was received, and a new token."""
    peers = opened()
    peers.client.send(b"abc")
    peers.to_server()
    peers.cut()
    peers.server.ttl = 30
    peers.reconnect()
    assert taken(peers.server) == [Resumed(3, T2, 30), Ack(0)]


def test_a_transport_that_looks_alive_is_replaced() -> None:
    """The newest has the session; the caller closes the other."""
    peers = opened()
    peers.server.send(b"abc")
    taken(peers.server)
    peers.client.transport_lost(0.0)
    resumption = peers.reconnect()
    assert (resumption.replaced, resumption.replayed, resumption.refusal) == (True, 3, None)
    assert payload(peers.to_client()) == b"abc"


def test_only_hashes_of_tokens_are_kept() -> None:
    """SHA-256; no token is anywhere in the state."""
    peers = opened()
    peers.cut()
    peers.reconnect()
    state = peers.server.export_state(0.0)
    assert (state["token_hash"], state["previous_token_hash"]) == (hash_token(T2), hash_token(T1))
    assert hash_token(T1) == hashlib.sha256(T1).digest()
    assert T1 not in repr(state).encode()


@pytest.mark.parametrize("confirmation", [Ack(0), Data(b"x"), Fin(0)])
def test_the_old_token_is_valid_until_the_client_confirms(confirmation: Frame) -> None:
    """The first ACK, DATA or FIN on the new transport does it."""
    peers = opened()
    peers.cut()
    peers.reconnect()
    peers.server.receive([Keepalive()], 0.0)
    peers.server.transport_lost(0.0)  # RESUMED is lost
    assert peers.server.resume(resume(T1, 2), 0.0).refusal is None
    peers.server.receive([confirmation], 0.0)
    peers.server.transport_lost(0.0)

    for token in (T1, T2):  # T2 was never confirmed, and replaced by T3
        rejected = peers.server.resume(resume(token, 3), 0.0)
        assert (rejected.refusal, rejected.bad_token) == ((4001, REJECTED_TEXT), True)
    assert peers.server.resume(resume(T3, 3), 0.0).refusal is None


def test_the_new_token_is_valid_before_it_is_confirmed() -> None:
    """A client that has RESUMED and loses its transport at once comes with it."""
    peers = opened()
    peers.cut()
    peers.reconnect()
    peers.to_client()
    peers.cut()
    assert peers.reconnect().refusal is None
    assert peers.server.resume(resume(T1, 9), 0.0).bad_token
    assert peers.server.resume(resume(T2, 9), 0.0).refusal is None


def test_resumed_lost_again_and_again() -> None:
    """The client always has a valid token."""
    peers = opened()
    for _ in range(5):
        peers.cut()
        assert peers.reconnect().refusal is None
        taken(peers.server)
    peers.to_client()
    peers.cut()
    assert peers.reconnect().refusal is None
    peers.to_client()
    assert peers.client.state is SessionState.ATTACHED


@pytest.mark.parametrize("token", [bytes(32), T2, T1[:31] + b"\0"])
def test_a_wrong_token_changes_nothing(token: bytes) -> None:
    """Neither for the session nor for its transport; it is the same answer as for an unknown session."""
    peers = opened()
    peers.server.send(b"abc")
    before = peers.server.export_state(0.0)
    rejected = peers.server.resume(resume(token, 5, 2**60, 2**60), 0.0)

    assert rejected == reject_resume(resume(token))
    assert rejected.refusal == (4001, REJECTED_TEXT)
    assert peers.server.export_state(0.0) == before
    assert payload(peers.to_client()) == b"abc"


def test_a_late_resume_cannot_take_over() -> None:
    """An attempt that is not newer than the last is superseded, though its token is valid."""
    peers = opened()
    peers.cut()
    assert peers.server.resume(resume(T1, 3), 0.0).refusal is None
    for attempt in (1, 2, 3):
        late = peers.server.resume(resume(T1, attempt), 0.0)
        assert late.refusal == (4003, f"attempt {attempt} after attempt 3")
        assert not late.bad_token
    assert peers.server.state is SessionState.ATTACHED
    assert peers.server.transports == 2
    assert peers.tokens.count == 2
    assert peers.server.resume(resume(T1, 4), 0.0).refusal is None


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (resume(received=1), "received 1, not 2 to 5"),
        (resume(received=6), "received 6, not 2 to 5"),
        (resume(received=5, first=4), "available from 4 on, and needed from 3"),
    ],
)
def test_positions_that_leave_a_gap(frame: Resume, text: str) -> None:
    """The session cannot go on: it ends, and says so on both transports."""
    peers = opened()
    peers.server.send(b"abcdefg")
    taken(peers.server, max_bytes=5)
    peers.server.receive([Data(b"xyz"), Ack(2)], 0.0)
    assert peers.server.resume(frame, 0.0).refusal == (4002, text)
    assert peers.server.ended == Ended(4002, text, "us")
    assert taken(peers.server) == [Failure(4002, text)]


@pytest.mark.parametrize("received", [2, 3, 5])
def test_positions_that_fit(received: int) -> None:
    """From the acknowledged to the sent one."""
    peers = opened()
    peers.server.send(b"abcdefg")
    taken(peers.server, max_bytes=5)
    peers.server.receive([Data(b"xyz"), Ack(2)], 0.0)
    assert peers.server.resume(resume(received=received, first=3), 0.0).replayed == 5 - received
    assert taken(peers.server) == [Resumed(3, T2, 120), Ack(0), Data(b"abcdefg"[received:])]


def test_a_session_that_a_rule_has_ended_says_why() -> None:
    """To a valid token alone."""
    peers = opened()
    peers.cut()
    peers.server.end(ResumeCode.ENDED_BY_RULE, "max_lifetime", 0.0)
    assert peers.server.wants_to_send is False
    assert peers.server.resume(resume(), 0.0).refusal == (4009, "max_lifetime")
    assert peers.server.resume(resume(T4), 0.0).refusal == (4001, REJECTED_TEXT)


def test_a_session_that_has_expired_or_ended_in_order_is_unknown() -> None:
    """The one text."""
    peers = opened()
    peers.cut()
    peers.server.on_deadline(999.0)
    assert peers.server.resume(resume(), 999.0).refusal == (4001, REJECTED_TEXT)
    peers = opened()
    peers.server.transport_lost(0.0, 1000)
    assert peers.server.resume(resume(), 999.0).refusal == (4001, REJECTED_TEXT)


def test_go_away() -> None:
    """Announced to a client that is there."""
    peers = opened()
    peers.server.send(b"abc")
    peers.server.go_away(2000, 5000)
    assert taken(peers.server) == [GoAway(2000, 5000), Data(b"abc")]
    peers.cut()
    peers.server.go_away(2000, 5000)
    assert peers.reconnect().refusal is None
    assert GoAway(2000, 5000) not in taken(peers.server)


def test_keepalive() -> None:
    """After so many seconds in which nothing was sent."""
    peers = opened()
    assert peers.server.deadline == 20.0
    peers.server.send(b"abc")
    peers.to_client(15.0)
    assert peers.server.deadline == 35.0
    assert peers.server.on_deadline(34.0) == []
    assert not peers.server.wants_to_send
    peers.server.on_deadline(35.0)
    assert peers.server.wants_to_send
    assert peers.server.deadline is None
    assert taken(peers.server, 35.5) == [Keepalive()]
    assert peers.server.deadline == 55.5

    peers.server.on_deadline(56.0)
    peers.server.send(b"abc")
    assert taken(peers.server, 56.0) == [Data(b"abc")]  # no need for it
    assert not peers.server.wants_to_send


def test_no_keepalive_without_a_transport() -> None:
    """Nor when it is off."""
    peers = opened()
    peers.server.on_deadline(20.0)
    peers.server.transport_lost(20.0)
    assert not peers.server.wants_to_send
    assert peers.server.deadline == 140.0
    assert opened(SessionTerms(keepalive=0)).server.deadline is None
    peers.reconnect(100.0)
    assert Keepalive() not in taken(peers.server, 100.0)
    assert peers.server.deadline == 120.0


def test_the_next_deadline_is_the_earliest() -> None:
    """Of ACK and KEEPALIVE."""
    peers = opened()
    peers.client.send(b"ab")
    peers.to_server()
    peers.server.consumed(1, 19.9)
    assert peers.server.deadline == 20.0
    peers.server.on_deadline(20.0)
    assert peers.server.deadline == 20.15
    assert taken(peers.server, 20.0) == [Keepalive()]
    peers.server.on_deadline(20.15)
    assert taken(peers.server, 20.15) == [Ack(1)]
    peers.server.consumed(1, 30.0)
    assert peers.server.deadline == 30.25


# ---------------------------------------------------------------------- hand-over to another process


def handed_over(peers: Peers, now: float = 1000.0, then: float = 50.0) -> None:
    """Replace the server by one that was built from its state, in a process with another clock."""
    state = peers.server.export_state(now)
    assert all(type(value) in (int, float, bytes, str, bool, list, type(None)) for value in state.values())
    peers.server = ServerSession.restore(state, then, peers.tokens)


def test_a_session_goes_on_in_another_process() -> None:
    """Bytes held are sent there, tokens and attempts hold there, the ttl runs on."""
    peers = opened(SMALL, window=5000)
    peers.cut()
    peers.reconnect()
    peers.to_client()
    peers.to_server()
    peers.client.send(b"abc")
    peers.server.send(b"x" * 3000 + b"y" * 100)
    peers.to_client()
    peers.client.consumed(2500, 0.0)
    peers.to_server()
    peers.cut(900.0)
    handed_over(peers, 1000.0, 50.0)
    server = peers.server

    assert (server.state, server.session_id, server.epoch, server.ttl) == (
        SessionState.DETACHED,
        SESSION_ID,
        EPOCH,
        120,
    )
    assert (server.room, server.replay_bytes, server.transports, server.deadline) == (4400, 600, 2, 70.0)
    assert server.resume(resume(T2, 1), 0.0).refusal == (4003, "attempt 1 after attempt 1")
    assert peers.reconnect(60.0).refusal is None
    peers.to_client(60.0)
    assert peers.client.acked_position == 0
    assert payload(peers.to_server(60.0)) == b"abc"


def test_bytes_that_were_not_consumed_are_sent_again_to_the_other_process() -> None:
    """They were not acknowledged, so the client has them; a FIN too."""
    peers = opened()
    peers.client.send(b"abcdef")
    peers.client.finish()
    peers.to_server()
    peers.server.consumed(2, 0.0)
    peers.client.transport_lost(0.0)
    handed_over(peers)
    assert (peers.server.received_position, peers.server.unconsumed_bytes) == (2, 0)
    peers.reconnect()
    peers.to_client()
    received, finished = peers.to_server()
    assert payload([received]) == b"cdef"
    assert peers.server.peer_finished
    peers.server.consumed(4, 0.0)
    peers.server.consumed_fin()
    peers.client.transport_lost(0.0)
    handed_over(peers)
    assert peers.server.peer_finished
    peers.reconnect()
    peers.to_client()
    assert peers.client.fin_acked
    assert peers.to_server() == []
    assert finished is not None


def test_endings_are_handed_over() -> None:
    """One that waits behind the data, and one that has happened."""
    peers = opened()
    peers.server.send(b"tail")
    peers.server.end_after_data(4012, "backend reset")
    taken(peers.server)
    peers.client.transport_lost(0.0)
    handed_over(peers)
    peers.reconnect()
    _, received, ended = peers.to_client()
    assert received == Received([b"tail"])
    assert ended == Ended(4012, "backend reset", "peer")

    peers = opened()
    peers.server.send(b"tail")
    peers.server.end(4009, "max_lifetime", 0.0)
    handed_over(peers)
    assert peers.server.ended == Ended(4009, "max_lifetime", "us")
    assert peers.server.resume(resume(), 0.0).refusal == (4009, "max_lifetime")


def test_a_large_buffer_is_handed_over() -> None:
    """And dropped bit by bit as it is acknowledged."""
    peers = opened()
    data = bytes(range(256)) * 2000
    peers.server.send(data)
    handed_over(peers)
    peers.client.transport_lost(0.0)
    peers.reconnect()
    assert payload(peers.to_client()) == data
    peers.client.consumed(500000, 0.0)
    peers.to_server()
    assert peers.server.replay_bytes == 12000


def test_an_opening_session_is_not_handed_over() -> None:
    """Its client has no token."""
    with pytest.raises(ValueError, match="still opening"):
        Peers().server.export_state(0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"acked": 4},
        {"buffer_start": 1},
        {"sent": 9},
        {"ack_sent": 1},
        {"buffer": b"x" * 9000},
        {"window": None},
        {"failure": 7},
    ],
    ids=repr,
)
def test_a_state_that_contradicts_itself(change: dict[str, Any]) -> None:
    """It is refused, with what is wrong."""
    peers = opened(SMALL)
    peers.server.send(b"abc")
    taken(peers.server)
    state = peers.server.export_state(0.0)
    ServerSession.restore(state, 0.0, Tokens())
    with pytest.raises(ValueError, match="state of a session"):
        ServerSession.restore(state | change, 0.0, Tokens())
    missing = dict(state)
    del missing["sent"]
    with pytest.raises(ValueError, match="KeyError"):
        ServerSession.restore(missing, 0.0, Tokens())


def test_terms_have_defaults() -> None:
    """Those of the documentation."""
    assert dataclasses.astuple(SessionTerms()) == (1048576, 120, 250, 20, "")
