"""Clients that break RFC 6455 after the 101: the close code they get, and the reset that the backend sees."""

import struct
import time
import zlib

import pytest
import trio

from tests.client import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.serving import accept_upgrade, backend, serving, written


def raw_head(first, second, extra=b""):
    """Write the head of a frame byte by byte, with a mask of zeros."""
    return bytes([first, second]) + extra + bytes(4)


VIOLATIONS = {
    "RSV1": frame(BINARY, b"x", rsv=4),
    "RSV2": frame(BINARY, b"x", rsv=2),
    "RSV3": frame(BINARY, b"x", rsv=1),
    "RSV1 on a ping": frame(PING, b"", rsv=4),
    **{f"opcode {code}": frame(code, b"x") for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": frame(PING, b"", fin=False),
    "fragmented close": frame(CLOSE, b"\x03\xe8", fin=False),
    "ping of 126": raw_head(0x89, 0x80 | 126, struct.pack("!H", 126)) + bytes(126),
    "close of 126": raw_head(0x88, 0x80 | 126, struct.pack("!H", 126)) + b"\x03\xe8" + bytes(124),
    "unmasked": frame(BINARY, b"x", masked=False),
    "unmasked close": frame(CLOSE, b"\x03\xe8", masked=False),
    "16-bit length of 125": raw_head(0x82, 0x80 | 126, struct.pack("!H", 125)) + bytes(125),
    "64-bit length of 65535": raw_head(0x82, 0x80 | 127, struct.pack("!Q", 65535)) + bytes(100),
    "length 2^63": raw_head(0x82, 0x80 | 127, struct.pack("!Q", 2**63)),
    "length 2^64-1": raw_head(0x82, 0x80 | 127, struct.pack("!Q", 2**64 - 1)),
    "continuation of nothing": frame(0, b"x"),
    "message in a message": frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"),
    "text in a message": frame(BINARY, b"x", fin=False) + frame(TEXT, b"y"),
    "close of one byte": frame(CLOSE, b"\x03"),
    **{
        f"close code {code}": frame(CLOSE, struct.pack("!H", code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}
"""Each with what it is."""

OTHERS = {
    "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007, "invalid_utf8"),
    "text cut in a character": (frame(TEXT, b"\xe2\x82"), 1007, "invalid_utf8"),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007, "invalid_utf8"),
    "text wrong over fragments": (
        frame(TEXT, b"\xe2", fin=False) + frame(0, b"\x82", fin=False) + frame(0, b"\x28"),
        1007,
        "invalid_utf8",
    ),
}


def resetting():
    """Give a handler that notes what it read and how the stream ended, and the note."""
    seen = {"data": b"", "end": None}

    async def handler(stream):
        try:
            while data := await stream.receive_some(65536):
                seen["data"] += data
            seen["end"] = "fin"
        except trio.BrokenResourceError:
            seen["end"] = "reset"
            raise

    return handler, seen


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("data", VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_is_1002_and_the_backend_is_reset(data, tls):
    """The client gets 1002, the backend sees a reset and not an end, and what came before has arrived."""
    handler, seen = resetting()
    async with backend(handler) as back, serving(written(route={"backend": back.url}, tls=tls)) as served:
        client = await served.upgraded(tls=tls)
        await client.send(frame(BINARY, b"before"))
        while seen["data"] != b"before":
            await trio.sleep(0.002)
        await client.send(data + frame(BINARY, b"after"))
        assert await client.closing() == (1002, "protocol_error")
        await client.send(frame(CLOSE, struct.pack("!H", 1002)))
        assert not await client.everything()
        client.drop()
        line = await served.records.wait("connection.closed")
        assert (line["reason"], line["initiator"], line["level"]) == ("protocol_error", "client", "warning")
        assert line["detail"]
        await back.until(open=0)
        assert seen["end"] == "reset"
        assert b"after" not in seen["data"]


@pytest.mark.parametrize(("data", "code", "reason"), OTHERS.values(), ids=OTHERS)
async def test_bad_text_is_1007(data, code, reason):
    """Text is checked as it streams; bytes of a bad character end with 1007 and a reset backend."""
    handler, seen = resetting()
    async with backend(handler) as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        await client.send(data)
        assert await client.closing() == (code, reason)
        client.drop()
        assert (await served.records.wait("connection.closed"))["reason"] == reason
        await back.until(open=0)
        assert seen["end"] == "reset"


async def test_text_on_a_binary_route_is_1003():
    """`text_messages: reject` ends a text frame with 1003."""
    handler, seen = resetting()
    async with (
        backend(handler) as back,
        serving(written(route={"backend": back.url, "text_messages": "reject"})) as served,
    ):
        client = await served.upgraded()
        await client.send(frame(TEXT, b"hello"))
        assert await client.closing() == (1003, "unsupported_data")
        client.drop()
        await back.until(open=0)
        assert seen == {"data": b"", "end": "reset"}


async def test_a_frame_of_nearly_2_63_bytes_streams():
    """A huge length is legal and costs nothing: its payload is passed on as it comes."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        await client.send(raw_head(0x82, 0x80 | 127, struct.pack("!Q", 2**63 - 1)) + b"streamed")
        assert await client.payload(8) == b"streamed"
        client.drop()


FLOODS = {
    "pings": frame(PING, b"x" * 20) * 400,
    "unasked pongs": frame(PONG) * 1000,
    "empty messages": frame(BINARY) * 1000,
    "empty fragments": frame(BINARY, fin=False) + frame(0, fin=False) * 1000,
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_nothing_is_1008(kind, tls):
    """Control and empty frames beyond the rate end with `control_flood`; another connection keeps its pace."""
    block = FLOODS[kind]
    handler, seen = resetting()
    routes = {
        "app": {"match": {"path": "/flood"}, "backend": "", "auth": "none"},
        "echo": {"match": {"path": "/echo"}, "backend": "", "auth": "none"},
    }
    async with backend(handler) as back, backend() as other:
        routes["app"]["backend"], routes["echo"]["backend"] = back.url, other.url
        async with serving(written(routes=routes, limits={"control_frame_rate": "2000"}, tls=tls)) as served:
            client = await served.upgraded("/flood", tls=tls)
            canary = await served.upgraded("/echo", tls=tls)
            slowest = 0.0

            async def flood():
                continuation = frame(0, fin=False) * 1000
                data = block
                try:
                    for _ in range(60):
                        await client.send(data)
                        data = continuation if kind == "empty fragments" else block
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)

                async def drain():
                    await client.everything()

                nursery.start_soon(drain)
                while not served.records.of("connection.closed"):
                    began = time.process_time()  # other processes may hold this one up
                    await canary.echoed()
                    slowest = max(slowest, time.process_time() - began)
                nursery.cancel_scope.cancel()
            line = await served.records.wait("connection.closed")
            assert (line["reason"], line["initiator"]) == ("control_flood", "client")
            assert slowest < 0.5
            await back.until(open=0)
            assert seen == {"data": b"", "end": "reset"}
            client.drop()
            canary.drop()


async def test_one_byte_fragments_are_payload():
    """A message in thousands of one-byte fragments with pings between them arrives, and is no flood."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        client = await served.upgraded()
        data = frame(BINARY, b"a", fin=False) + (frame(PING) + frame(0, b"b", fin=False)) * 3000 + frame(0, b"c")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data)
            assert await client.payload(3002) == b"a" + b"b" * 3000 + b"c"
        client.drop()


UPSTREAM = {
    "masked": (frame(BINARY, b"x"), 1011),
    "RSV1": (frame(BINARY, b"x", masked=False, rsv=4), 1011),
    "opcode 3": (frame(3, b"", masked=False), 1011),
    "continuation of nothing": (frame(0, b"", masked=False), 1011),
    "bad close": (frame(CLOSE, b"\x03\xee", masked=False), 1011),
}


@pytest.mark.parametrize("glued", [False, True])
@pytest.mark.parametrize(("data", "code"), UPSTREAM.values(), ids=UPSTREAM)
async def test_an_upstream_that_breaks_the_protocol(data, code, glued):
    """A WebSocket backend's violation is its doing: it gets 1002, the client 1011."""
    received = []

    async def bad(stream):
        await accept_upgrade(stream, glued=data if glued else b"")
        if not glued:
            await stream.send_all(data)
        got = b""
        while part := await stream.receive_some(100):
            got += part
        received.append(got)

    async with backend(bad) as back, serving(written(route={"backend": f"ws://127.0.0.1:{back.port}/"})) as served:
        client = await served.upgraded()
        assert (await client.closing())[0] == code
        await client.send(frame(CLOSE, struct.pack("!H", code)))
        client.drop()
        line = await served.records.wait("connection.closed")
        assert (line["reason"], line["initiator"]) == ("protocol_error", "backend")
        await back.until(open=0)
        (got,) = received
        mask = got[2:6]
        assert got[0] == 0x88
        assert bytes(b ^ m for b, m in zip(got[6:8], mask, strict=False)) == struct.pack("!H", 1002)


async def test_compression_is_never_agreed_on():
    """A client that offers it gets a 101 without it, and what it compresses all the same is refused before it grows."""
    async with backend() as back, serving(written(route={"backend": back.url})) as served:
        with await served.connect() as client:
            offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
            assert "extensions" not in (await client.upgrade("/", offer)).lower()
            deflate = zlib.compressobj(wbits=-15)
            bomb = deflate.compress(bytes(2**26)) + deflate.flush(zlib.Z_SYNC_FLUSH)
            await client.send(frame(BINARY, bomb[:-4], rsv=4))
            assert await client.closing() == (1002, "protocol_error")
        line = await served.records.wait("connection.closed")
        assert line["bytes_to_backend"] == 0
