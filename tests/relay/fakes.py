"""A transport without a socket and a scheduler without a loop, for what is decided by state and clock alone."""

from __future__ import annotations

from collections import deque

from wsbridge.protocol.websocket import WebSocketFraming
from wsbridge.relay.endpoint import RawEndpoint, WebSocketEndpoint
from wsbridge.relay.relay import Relay, RelayOptions


class FakeTransport:
    """A transport whose kernel is simulated by the test.

    Attributes:
        incoming: What reads give, one item each.
        out: What was written.
        room: Bytes that the kernel still accepts; None for any number.
        kept: Bytes written that the peer has not acknowledged.
        log: Calls that end something, in order.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.readable = False
        self.peer_hung_up = False
        self.read_until_empty = False
        self.read_state = None
        self.error = ""
        self.fault = None
        self.incoming = deque()
        self.out = b""
        self.room = None
        self.kept = self.sent_bytes = 0
        self.silent = False
        self.log = []
        self.dropped = 0
        self.slow = False

    def comes(self, *data):
        """Have bytes arrive."""
        self.incoming.extend(data)
        self.readable = True

    def ends(self, how):
        """Have the peer end, behind what has come."""
        self.ended_soon = how
        self.incoming.append(None)
        self.readable = True

    def read(self, max_bytes=65536):
        """See `Transport.read`."""
        if not self.incoming:
            self.readable = False
            return b""
        data = self.incoming.popleft()
        if data is None:
            self.readable = False
            self.read_state = self.ended_soon
            return b""
        return data

    read_bulk = read

    def shrink_read_buffer(self):
        """See `Transport.shrink_read_buffer`."""
        self.slow = True

    def write(self, parts):
        """See `Transport.write`."""
        data = b"".join(bytes(part) for part in parts)
        taken = len(data) if self.room is None else min(self.room, len(data))
        self.out += data[:taken]
        self.kept += taken
        self.sent_bytes += taken
        if self.room is not None:
            self.room -= taken
        return [data[taken:]] if taken < len(data) else None

    def acknowledge(self, count=None):
        """The peer's kernel has received so many bytes; None for all."""
        self.kept -= self.kept if count is None else count

    def acked_bytes(self):
        """See `Transport.acked_bytes`."""
        return len(self.out) - self.kept

    def unacked_bytes(self):
        """See `Transport.unacked_bytes`."""
        return self.kept

    def retransmitting(self):
        """See `Transport.retransmitting`."""
        return self.silent

    def has_buffered(self):
        """See `Transport.has_buffered`."""
        return False

    def send_eof(self):
        """See `Transport.send_eof`."""
        self.log.append("fin")
        return True

    def discard(self):
        """See `Transport.discard`."""
        count = sum(len(data or b"") for data in self.incoming)
        self.incoming.clear()
        self.dropped += count
        return count

    def abort(self):
        """See `Transport.abort`."""
        self.log.append("reset")

    def close(self):
        """See `Transport.close`."""
        self.log.append("close")


class FakeLoop:
    """What a pair asks of its loop.

    Attributes:
        now: The clock.
        looks: When pairs are to be looked at.
        done: Pairs that have finished.
    """

    def __init__(self, now=1000.0, places=256):
        self.now = now
        self.lingering = 0
        self.places = places
        self.looks = []
        self.later_pairs = []
        self.done = []

    def mark_ready(self, relay):
        """See `RelayLoop.mark_ready`."""
        self.later_pairs.append(relay)

    def schedule(self, relay, deadline):
        """See `RelayLoop.schedule`."""
        self.looks.append(deadline)

    def may_linger(self):
        """See `RelayLoop.may_linger`."""
        return self.lingering < self.places

    def unregister(self, side):
        """See `RelayLoop.unregister`."""

    def finished(self, relay):
        """See `RelayLoop.finished`."""
        self.done.append(relay)


def a_pair(front="ws", back="raw", **terms):
    """A pair over fake transports."""

    def side(speaks, role):
        return (
            WebSocketEndpoint(FakeTransport(), WebSocketFraming(role))
            if speaks == "ws"
            else RawEndpoint(FakeTransport())
        )

    return Relay(side(front, "server"), side(back, "client"), RelayOptions(**terms), FakeLoop())
