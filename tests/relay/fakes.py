"""A wire without a socket and a pump without a loop, for what is decided by state and clock alone."""

from __future__ import annotations

from collections import deque

from wsbridge.relay.endpoint import RawEndpoint, WebSocketEndpoint
from wsbridge.relay.pair import Pair
from wsbridge.relay.terms import Terms


class FakeWire:
    """A transport whose kernel is played by the test.

    Attributes:
        incoming: What reads give, one item each.
        out: What was written.
        room: Bytes that the kernel still takes; None for any number.
        kept: Bytes written that the peer has not acknowledged.
        log: Calls that end something, in order.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.readable = False
        self.hup = False
        self.ended = None
        self.error = ""
        self.incoming = deque()
        self.out = b""
        self.room = None
        self.kept = 0
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

    def read(self, most=65536):
        """See `Wire.read`."""
        if not self.incoming:
            self.readable = False
            return b""
        data = self.incoming.popleft()
        if data is None:
            self.readable = False
            self.ended = self.ended_soon
            return b""
        return data

    read_bulk = read

    def read_less(self):
        """See `Wire.read_less`."""
        self.slow = True

    def write(self, parts):
        """See `Wire.write`."""
        data = b"".join(bytes(part) for part in parts)
        taken = len(data) if self.room is None else min(self.room, len(data))
        self.out += data[:taken]
        self.kept += taken
        if self.room is not None:
            self.room -= taken
        return [data[taken:]] if taken < len(data) else None

    def acknowledge(self, count=None):
        """The peer's kernel has taken so many bytes; None for all."""
        self.kept -= self.kept if count is None else count

    def acked(self):
        """See `Wire.acked`."""
        return len(self.out) - self.kept

    def unacked(self):
        """See `Wire.unacked`."""
        return self.kept

    def unanswered(self):
        """See `Wire.unanswered`."""
        return self.silent

    def holds(self):
        """See `Wire.holds`."""
        return False

    def finish(self):
        """See `Wire.finish`."""
        self.log.append("fin")
        return True

    def discard(self):
        """See `Wire.discard`."""
        count = sum(len(data or b"") for data in self.incoming)
        self.incoming.clear()
        self.dropped += count
        return count

    def abort(self):
        """See `Wire.abort`."""
        self.log.append("reset")

    def close(self):
        """See `Wire.close`."""
        self.log.append("close")


class FakePump:
    """What a pair asks of its pump.

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

    def later(self, pair):
        """See `Pump.later`."""
        self.later_pairs.append(pair)

    def look_at(self, pair, when):
        """See `Pump.look_at`."""
        self.looks.append(when)

    def may_linger(self):
        """See `Pump.may_linger`."""
        return self.lingering < self.places

    def forget(self, side):
        """See `Pump.forget`."""

    def finished(self, pair):
        """See `Pump.finished`."""
        self.done.append(pair)


def a_pair(front="ws", back="raw", **terms):
    """A pair over fake wires."""

    def side(speaks, role):
        return WebSocketEndpoint(FakeWire(), role) if speaks == "ws" else RawEndpoint(FakeWire())

    return Pair(side(front, "server"), side(back, "client"), Terms(**terms), FakePump())
