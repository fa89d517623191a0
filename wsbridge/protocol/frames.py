"""Frames (RFC 6455 sections 5.2, 5.5 and 7.4): the numbers, and how a header and a close body are written.

Lives here: constants, headers, close bodies. Must not live here: state between frames (`websocket`).
"""

from __future__ import annotations

import struct

FIN = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
BINARY_MESSAGE = FIN | BINARY
"""First byte of a frame that is a whole binary message."""

MAX_CONTROL = 125
"""Largest body of a control frame, in bytes."""

MAX_CLOSE_TEXT = MAX_CONTROL - 2

_medium = struct.Struct("!BBH").pack
_large = struct.Struct("!BBQ").pack
SHORT_BINARY = tuple(bytes((BINARY_MESSAGE, size)) for size in range(126))
"""Headers of unmasked binary messages of 0 to 125 bytes."""


def header(first: int, size: int, mask_bit: int = 0) -> bytes:
    """Write a frame header without its masking key.

    Args:
        first: FIN and opcode.
        size: Payload bytes.
        mask_bit: 0x80 if a masking key follows.
    """
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return _medium(first, mask_bit | 126, size)
    return _large(first, mask_bit | 127, size)


def valid_close_code(code: int) -> bool:
    """Tell whether a peer may send this close code (RFC 6455 section 7.4 and the IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def close_body(code: int | None, text: str = "") -> bytes:
    """Write the body of a close frame; no code gives an empty one.

    The text is cut at 123 bytes, on a character boundary.
    """
    if code is None:
        return b""
    raw = text.encode("utf-8", "replace")[:MAX_CLOSE_TEXT]
    return code.to_bytes(2, "big") + raw.decode("utf-8", "ignore").encode()


def read_close_body(body: bytes) -> tuple[int | None, str]:
    """Give code and text of a close body that `close_problem` let pass."""
    if not body:
        return None, ""
    return int.from_bytes(body[:2], "big"), body[2:].decode("utf-8", "replace")


def close_problem(body: bytes) -> tuple[bool, str] | None:
    """Say what is wrong with a close body: whether it is its text, and the sentence. None if nothing is."""
    if not body:
        return None
    if len(body) == 1:
        return False, "close frame with a body of 1 byte"
    code = int.from_bytes(body[:2], "big")
    if not valid_close_code(code):
        return False, f"close code {code} may not be sent"
    try:
        body[2:].decode("utf-8")
    except UnicodeDecodeError:
        return True, "close reason is not UTF-8"
    return None
