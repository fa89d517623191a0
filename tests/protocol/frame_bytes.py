"""Frames as bytes, and all that a framing makes of bytes; for the tests of WebSocket framing."""

import pytest

from wsbridge.protocol.websocket import apply_mask_in_python, encode_header

KEY = b"\x01\x22\x83\xf4"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80


def frame(first, payload=b"", *, to="server"):
    """One frame as the peer of a `to` writes it."""
    if to == "client":
        return encode_header(first, len(payload)) + payload
    return encode_header(first, len(payload), 0x80) + KEY + apply_mask_in_python(payload, KEY)


def decoded(framing, data, **bounds):
    """All that a framing gives for `data`, as one message of (mark, payload) and controls, and the violation."""
    pieces, controls = [], []
    while data:
        used, chunks, marks, more, violation = framing.decode(data, **bounds)
        pieces += zip(marks or [], chunks, strict=True)
        controls += more or []
        if violation:
            return pieces, controls, violation
        data = data[used:]
        assert used or not data
    return pieces, controls, None


@pytest.fixture(params=["server", "client"])
def role(request):
    """Our role on the wire."""
    return request.param


def of(role, *frames):
    """Frames one behind the other."""
    return b"".join(frame(first, payload, to=role) for first, payload in frames)
