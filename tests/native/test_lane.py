"""What the extension spares: segments at the end of a client, and events of sockets that accept what is written."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

from tests.contract.peers import BINARY, FIN, PING
from tests.contract.sides import between, bridged, encrypted, exchange, running, until
from wsbridge import native
from wsbridge.reasons import Reason

if native.load() is None:
    pytest.skip("the native engine is not installed: there is no cargo", allow_module_level=True)

from wsbridge.native.engine import NativeEngine

SEGMENTS_IN = 140
"""Where `struct tcp_info` of linux/tcp.h has tcpi_segs_in."""
EPOLLOUT = 4
TRIES = 5


def one_thread() -> NativeEngine:
    """An engine with one thread, which carries all pairs."""
    return NativeEngine(1)


def segments_in(sock: socket.socket) -> int:
    """Count the segments that a socket has received."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < SEGMENTS_IN + 4:
        pytest.skip("this kernel does not count segments")
    return int(struct.unpack_from("I", info, SEGMENTS_IN)[0])


async def ending_segments(over: str) -> int:
    """Close a client in order; count the segments that it receives for that."""
    async with running(one_thread) as engine, between(engine, "ws", "raw", over) as relay:
        await exchange(relay.front, relay.back, b"hello")
        await exchange(relay.back, relay.front, b"hi")
        assert engine.figures(relay.id).engine == "native"
        before = segments_in(relay.front.transport.sock)
        await relay.front.finish()
        story = await relay.front.to_the_end()
        assert (story.close, story.ending) == ((1000, ""), "fin")
        return segments_in(relay.front.transport.sock) - before


@pytest.mark.parametrize("over", ["tcp", "rustls"])
async def test_the_answer_to_a_close_frame_comes_with_the_end_of_the_connection(over):
    """In one segment, close_notify of TLS included.

    A busy kernel may acknowledge the close frame by a segment of its own; so one of several tries must do with one.
    """
    for _ in range(TRIES):
        segments = await ending_segments(over)
        if segments == 1:
            return
    raise AssertionError(f"the end of a client takes {segments} segments")


@encrypted
async def test_nothing_is_held_back_where_the_client_does_not_accept_its_close(over):
    """The answer is queued behind what waits for the client, who reads all of it, and then the end."""
    async with running(one_thread) as engine, between(engine, "ws", "raw", over, buffer=4096) as relay:
        sent = await relay.fill("front", 10_000)
        await relay.front.finish()
        story = await relay.front.to_the_end()
        assert (len(story.data), story.close, story.ending) == (sent, (1000, ""), "fin")


def watched_events() -> dict[int, int]:
    """Give the events for which epoll sets of this process watch each descriptor of this process."""
    found: dict[int, int] = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if "eventpoll" in str(link.readlink()):
                lines = Path(f"/proc/self/fdinfo/{link.name}").read_text()
                for number, events in re.findall(r"^tfd: +(\d+) events: +([0-9a-f]+)", lines, re.MULTILINE):
                    found[int(number)] = found.get(int(number), 0) | int(events, 16)
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize("slow", ["front", "back"])
async def test_a_socket_is_watched_for_output_once_it_is_blocked(slow):
    """Others never cause an event by accepting bytes; it is served as soon as its peer reads."""
    async with running(one_thread) as engine, between(engine, "ws", "raw", buffer=4096) as relay:
        numbers = {"front": relay.given[0].transport.fd, "back": relay.given[1].transport.fd}
        other = "back" if slow == "front" else "front"
        events = watched_events()
        assert all(events[number] and not events[number] & EPOLLOUT for number in numbers.values())
        src, dst = (relay.back, relay.front) if slow == "front" else (relay.front, relay.back)
        sent = await relay.fill(slow, 10_000)
        assert engine.figures(relay.id).engine == "native"
        events = watched_events()
        assert events[numbers[slow]] & EPOLLOUT
        assert not events[numbers[other]] & EPOLLOUT
        await dst.take(sent)
        await until(lambda: not relay.is_blocked(slow))
        await exchange(src, dst, b"more")
        await exchange(dst, src, b"answer")


async def test_a_backend_that_the_extension_connected_is_watched_for_input_alone():
    """Also its descriptor, of which Python knows nothing."""
    async with running(one_thread) as engine, bridged(engine, "ws") as relay:
        before = set(watched_events())
        await exchange(relay.front, relay.back, b"hello")
        assert relay.pair is None
        assert relay.given[0].transport.fd in before
        assert [events for events in watched_events().values() if events & EPOLLOUT] == []


async def test_a_pong_goes_to_who_sent_the_ping():
    """A client whose message its backend does not accept gets none; nor does the next client of that thread."""

    def lose_backend(front, back):
        back.reset()
        front.transport.sock.send(front.frame(FIN | BINARY, b"lost") + front.frame(FIN | PING, b"secret"))
        return b"", b""

    async with running(one_thread) as engine, between(engine, "ws", "raw") as other:
        async with between(engine, "ws", "raw", glued=lose_backend) as relay:
            await relay.front.to_the_end()
            assert (await relay.ended()).reason is Reason.BACKEND_RESET
        await exchange(other.front, other.back, b"hello")
        await exchange(other.back, other.front, b"hi")
        assert engine.figures(other.id).engine == "native"
        assert other.front.story.pongs == []
