"""Bulk reads of the transport: how they grow, and how long what they give stays."""

import socket

from tests.net.ends import arrived, connected, reset
from wsbridge.net.transport import EOF, MAX_BULK_READ_SIZE, READ_SIZE, RESET, SocketTransport, own_buffers


class Plenty:
    """A socket whose reads are full, but for the last."""

    family = socket.AF_INET

    def __init__(self, count):
        self.count = count
        self.filler = 0

    def fileno(self):
        return 0

    def send(self, data):
        return len(data)

    def recv(self, size):
        taken = min(size, self.count)
        self.count -= taken
        return bytes(taken)

    def recv_into(self, buffer, size):
        taken = min(size, self.count)
        self.count -= taken
        self.filler += 1
        buffer[:taken] = bytes([self.filler]) * taken
        return taken


def test_bytes_that_were_put_back_come_first():
    """However much the last bulk read has asked for."""
    wire = SocketTransport(Plenty(READ_SIZE * 8))
    for _ in range(2):
        wire.read_bulk()
    wire.unread(b"before")
    assert bytes(wire.read_bulk()) == b"before"
    assert len(wire.read_bulk()) == READ_SIZE


def test_bulk_reads_grow_while_they_are_full():
    """Each full one asks for twice as much, up to the limit; a short one ends the reading, a small one begins again."""
    sock = Plenty(READ_SIZE * 15 + MAX_BULK_READ_SIZE + READ_SIZE)
    wire = SocketTransport(sock)
    sizes = [len(wire.read_bulk()) for _ in range(5)]

    assert sizes == [READ_SIZE, READ_SIZE * 2, READ_SIZE * 4, MAX_BULK_READ_SIZE, MAX_BULK_READ_SIZE]
    assert wire.readable
    assert len(wire.read_bulk()) == READ_SIZE
    assert not wire.readable

    sock.count = MAX_BULK_READ_SIZE + 1
    assert [len(wire.read_bulk()) for _ in range(2)] == [MAX_BULK_READ_SIZE, 1]
    sock.count = MAX_BULK_READ_SIZE
    assert len(wire.read_bulk()) == READ_SIZE


def test_bulk_reads_begin_again_when_the_other_side_does_not_keep_up():
    """What is held back for it stays small."""
    wire = SocketTransport(Plenty(MAX_BULK_READ_SIZE * 8))
    for _ in range(3):
        wire.read_bulk()
    wire.shrink_read_buffer()

    assert [len(wire.read_bulk()) for _ in range(2)] == [READ_SIZE, READ_SIZE * 2]


def test_what_a_bulk_read_gave_lasts_when_asked_to():
    """The next one on any transport overwrites it; a copy and bytes of other places stay."""
    one, other = SocketTransport(Plenty(MAX_BULK_READ_SIZE * 8)), SocketTransport(Plenty(MAX_BULK_READ_SIZE * 8))
    one.read_bulk()
    other.read_bulk()
    data = one.read_bulk()
    own = memoryview(b"own")
    kept = own_buffers([b"head", data, data[3:5], own])
    assert other.read_bulk()

    assert kept == [b"head", bytes([1]) * READ_SIZE * 2, bytes([1, 1]), b"own"]
    assert kept[3] is own
    other.read_bulk()
    assert bytes(data[:2]) == bytes([2, 2])


def test_the_end_is_met_by_a_bulk_read_too():
    """Nothing at the end of the stream, and a reset with its words."""
    for how, ended in ((lambda peer: peer.close(), EOF), (reset, RESET)):
        ours, theirs = connected("tcp")
        with ours, theirs:
            wire = SocketTransport(ours)
            wire._bulk_read_size = MAX_BULK_READ_SIZE
            assert wire.read_bulk() == b""
            assert wire.read_state is None
            how(theirs)
            arrived(wire)
            assert wire.read_bulk() == b""
            assert (wire.read_state, wire.readable) == (ended, False)
