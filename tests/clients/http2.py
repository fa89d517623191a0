"""A WebSocket over HTTP/2 (RFC 8441), as browsers open one where the server announces that it can."""

from __future__ import annotations

import ssl
import struct
from typing import Self

from tests.authority import folder
from tests.client import BINARY, CLOSE, frame
from tests.clients.fronts import HOST, Front

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENABLE_CONNECT_PROTOCOL = 8
STATUS_200 = 0x88
"""First byte of a header block with that status: a reference to the static table (RFC 7541 appendix A)."""


class Http2WebSocket:
    """One connection with one WebSocket on it; use it as a context manager.

    Attributes:
        offered: Whether the server announces extended CONNECT (SETTINGS_ENABLE_CONNECT_PROTOCOL).
    """

    def __init__(self, front: Front) -> None:
        context = ssl.create_default_context(cafile=str(folder() / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        self._sock = context.wrap_socket(front.socket(), server_hostname=HOST)
        assert self._sock.selected_alpn_protocol() == "h2"
        self._stream = self._sock.makefile("rb")
        self._authority = f"{HOST}:{front.port}"
        self._sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(SETTINGS, 0, 0)
        _, settings = self._wait(SETTINGS, 0)
        self.offered = struct.pack("!HI", ENABLE_CONNECT_PROTOCOL, 1) in [
            settings[at : at + 6] for at in range(0, len(settings), 6)
        ]
        self._send(SETTINGS, ACK, 0)

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._sock.sendall(struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload)

    def _wait(self, kind: int, stream: int) -> tuple[int, bytes]:
        """Read up to a frame of that type; give its flags and its payload."""
        while True:
            head = self._stream.read(9)
            assert len(head) == 9, "the connection was closed"
            payload = self._stream.read(int.from_bytes(head[:3], "big"))
            if (head[3], int.from_bytes(head[5:], "big")) == (kind, stream):
                return head[4], payload

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._sock.close()

    def upgrade(self) -> None:
        """Open the WebSocket; it must be granted."""
        headers = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "https",
            ":path": "/vnc",
            ":authority": self._authority,
            "sec-websocket-version": "13",
            "sec-websocket-protocol": "binary",
            "origin": f"https://{self._authority}",
        }
        block = b"".join(  # literals without Huffman codes and without indexing (RFC 7541 section 6.2.2)
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        self._send(HEADERS, END_HEADERS, 1, block)
        _, response = self._wait(HEADERS, 1)
        assert response[0] == STATUS_200

    def echoed(self, payload: bytes) -> None:
        """Send a short message to an echo and read it back."""
        self._send(DATA, 0, 1, frame(BINARY, payload))
        got = b""
        while len(got) < len(payload) + 2:
            got += self._wait(DATA, 1)[1]
        assert got == bytes([0x80 | BINARY, len(payload)]) + payload

    def close(self) -> None:
        """Close the WebSocket."""
        self._send(DATA, END_STREAM, 1, frame(CLOSE, b"\x03\xe8"))
        while not self._wait(DATA, 1)[0] & END_STREAM:
            pass
