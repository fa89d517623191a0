"""PROXY protocol headers on a socket: consumed to the byte, awaited without spinning."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.rejections import async_outcome
from wsbridge.protocol.proxy import (
    ProxyHeader,
    ProxyHeaderParser,
    SockEndpoint,
    encode_proxy_v1,
    encode_proxy_v2,
)
from wsbridge.real_ip import receive_proxy_header
from wsbridge.reasons import EMPTY_CONNECTION, Reason

ENDS = (SockEndpoint("203.0.113.7", 5), SockEndpoint("192.0.2.1", 443))
LONG = encode_proxy_v2(*ENDS, identity="x" * 1000)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A proxy's end and ours, which does not block."""
    one, other = socket.socketpair()
    other.setblocking(False)
    with one, other:
        yield one, other


class Counting(ProxyHeaderParser):
    """Counts how often it is fed."""

    fed = 0

    def feed(self, chunk: bytes) -> int:
        """Count."""
        Counting.fed += 1
        return super().feed(chunk)


@pytest.mark.parametrize("header", [encode_proxy_v1(*ENDS), encode_proxy_v2(*ENDS), LONG])
async def test_no_byte_past_the_header_is_consumed(pair: tuple[socket.socket, socket.socket], header: bytes) -> None:
    """What came with the header in one segment is still in the kernel."""
    pair[0].sendall(header + b"\x16\x03\x01hello")
    outcome = await async_outcome(receive_proxy_header(pair[1], ProxyHeaderParser()))
    assert isinstance(outcome, ProxyHeader)
    assert (outcome.source, outcome.destination) == ENDS
    assert pair[1].recv(100) == b"\x16\x03\x01hello"


@pytest.mark.parametrize("header", [encode_proxy_v1(*ENDS), encode_proxy_v2(*ENDS), LONG])
async def test_a_header_in_pieces_wakes_nobody_in_vain(
    pair: tuple[socket.socket, socket.socket], header: bytes
) -> None:
    """Byte by byte, the reader is fed once a byte and sleeps in between."""
    Counting.fed = 0
    reader = Counting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_proxy_header, pair[1], reader)
        for sent, byte in enumerate(header, 1):
            pair[0].send(bytes((byte,)))
            while reader.consumed_bytes < sent:
                await trio.lowlevel.checkpoint()
            assert Counting.fed == sent
    assert isinstance(reader.result, ProxyHeader)


async def test_how_it_can_end(pair: tuple[socket.socket, socket.socket]) -> None:
    """A peer that closes at once is an empty connection; one that closes within the header has sent a bad one."""
    pair[0].send(b"PROXY TC")
    pair[0].shutdown(socket.SHUT_WR)
    outcome = await async_outcome(receive_proxy_header(pair[1], ProxyHeaderParser()))
    assert outcome.detail == "closed after 8 bytes of a PROXY header"
    gone = await async_outcome(receive_proxy_header(pair[1], ProxyHeaderParser()))
    assert (gone.reason, gone.detail) == (Reason.CLIENT_LOST, EMPTY_CONNECTION)
