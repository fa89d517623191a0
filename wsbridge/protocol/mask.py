"""Masking (RFC 6455 section 5.3): the fastest way of XOR that this installation has.

Lives here: the choice between C and Python, and fresh keys. Must not live here: frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable

Mask = Callable[[bytes | memoryview, bytes], bytes]

STRIDE_FROM = 1536
"""Bytes from which four strided translations beat one big-integer XOR."""

_TABLES: dict[int, bytes] = {}


def _table(key: int) -> bytes:
    table = _TABLES.get(key)
    if table is None:
        table = _TABLES[key] = bytes(value ^ key for value in range(256))
    return table


def apply_mask_in_python(data: bytes | memoryview, key: bytes) -> bytes:
    """XOR `data` with the four bytes of `key`, over and over.

    Args:
        data: Payload, masked or not.
        key: Four bytes, beginning with the one for the first byte of `data`.
    """
    size = len(data)
    if size < STRIDE_FROM:
        keys = (key * ((size + 3) // 4))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    out = bytearray(size)
    for offset in range(4):
        out[offset::4] = bytes(data[offset::4]).translate(_table(key[offset]))
    return bytes(out)


apply_mask: Mask = apply_mask_in_python
NATIVE = False
"""Whether masking runs in C."""

try:
    from websockets.speedups import apply_mask as _apply_mask_in_c
except ImportError:
    pass
else:
    apply_mask = _apply_mask_in_c
    NATIVE = True


class KeySource:
    """Fresh masking keys from the system's randomness, drawn 1,024 at a time."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def draw(self) -> bytes:
        """Give four unpredictable bytes (RFC 6455 section 10.3)."""
        at = self._at
        if at >= len(self._pool):
            self._pool = os.urandom(4096)
            at = 0
        self._at = at + 4
        return self._pool[at : at + 4]


draw_key = KeySource().draw
