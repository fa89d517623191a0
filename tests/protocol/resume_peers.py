"""A server and a client of a resumable session, joined by messages that a test delivers, or loses."""

from __future__ import annotations

from collections.abc import Iterable

from wsbridge.protocol.resume import Event, Received, ResumeMessage, Session
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import Frame, Open, Resume, decode_message
from wsbridge.protocol.resume_server import Resumption, ServerSession, SessionTerms

EPOCH = 7
SESSION_ID = bytes(range(16))
PLENTY = 1 << 30


class Tokens:
    """Gives a different token each time: 32 bytes of 1, then of 2, and so on."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        """Give the next token."""
        self.count += 1
        return bytes([self.count % 256]) * 32


def joined(message: ResumeMessage) -> bytes:
    """Give a message in one piece."""
    return b"".join((bytes(message[0]), bytes(message[1])))


def taken(session: Session, now: float = 0.0, max_bytes: int = PLENTY) -> list[Frame]:
    """Give what a session wants to send, as frames."""
    return [decode_message(joined(message)) for message in session.take(max_bytes, now)]


def payload(events: Iterable[Event]) -> bytes:
    """Give the bytes of the peer's stream among events."""
    return b"".join(bytes(one) for event in events if isinstance(event, Received) for one in event.payloads)


class Peers:
    """Both ends. Each test moves frames between them as it likes.

    Attributes:
        client: The client.
        server: The server.
        tokens: Where the server's tokens come from.
    """

    def __init__(self, terms: SessionTerms | None = None, window: int = 0) -> None:
        self.client = ClientSession(window)
        self.tokens = Tokens()
        self.client.connect(0.0)
        (opening,) = taken(self.client)
        assert isinstance(opening, Open)
        self.server = ServerSession(
            opening, epoch=EPOCH, session_id=SESSION_ID, terms=terms or SessionTerms(), new_token=self.tokens
        )

    def to_client(self, now: float = 0.0) -> list[Event]:
        """Deliver what the server wants to send."""
        return self.client.receive(taken(self.server, now), now)

    def to_server(self, now: float = 0.0) -> list[Event]:
        """Deliver what the client wants to send."""
        return self.server.receive(taken(self.client, now), now)

    def cut(self, now: float = 0.0) -> None:
        """Lose the transport on both sides."""
        self.client.transport_lost(now)
        self.server.transport_lost(now)

    def reconnect(self, now: float = 0.0) -> Resumption:
        """Let the client send RESUME on a new transport, and the server judge it."""
        self.client.connect(now)
        (frame,) = taken(self.client)
        assert isinstance(frame, Resume)
        return self.server.resume(frame, now)


def opened(terms: SessionTerms | None = None, window: int = 0) -> Peers:
    """Give two peers with an open session."""
    peers = Peers(terms, window)
    peers.server.opened(0.0)
    peers.to_client()
    return peers
