"""What a kernel does rarely: urgent data, a descriptor passed along."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from tests.contract.sides import between


@pytest.mark.parametrize("back", ["raw", "ws"])
@pytest.mark.parametrize("who", ["client", "backend"])
async def test_urgent_data_and_what_comes_behind_it(engine, back, who):
    """Telnet's SYNCH: the urgent byte is data, and what follows it does not wait for the next byte."""
    if who == "backend" and back == "ws":
        back = "raw"
    async with between(engine, "raw", back) as relay:
        src, dst = (relay.front, relay.back) if who == "client" else (relay.back, relay.front)
        sock = src.transport.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.send(b"before")
        sock.send(b"!", socket.MSG_OOB)
        sock.send(b"behind")
        with trio.fail_after(9):
            assert await dst.take(13) == b"before!behind"
        for word in (b"x" * 100, b"y"):
            sock.send(b"!", socket.MSG_OOB)
            sock.send(word)
            with trio.fail_after(9):
                assert await dst.take(len(word) + 1) == b"!" + word


async def test_bytes_behind_a_passed_descriptor(engine):
    """On a Unix socket a read stops at it; the descriptor itself is dropped."""
    async with between(engine, "raw", "raw", "unix") as relay:
        sock = relay.front.transport.sock
        reader, writer = os.pipe()
        sock.send(b"before")
        socket.send_fds(sock, [b"with"], [reader])
        sock.send(b"behind")
        os.close(reader)
        os.close(writer)
        with trio.fail_after(9):
            assert await relay.back.take(16) == b"beforewithbehind"
