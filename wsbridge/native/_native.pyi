"""What the extension has; see src/python.rs and src/tls_python.rs."""

from collections.abc import Callable, Sequence
from typing import Any

from wsbridge.protocol.websocket import Buffer

__version__: str

Framing = tuple[int, bytes, int, bytes, bool, int, bytes, int, bool, bytes]
Unsent = tuple[bytes, float]
GivenSide = tuple[int, int, int, bool, int, int, float, int, Framing | None, TlsStream | None, bytes, Unsent | None]
LentPair = tuple[int, bool, GivenSide, GivenSide, bool]
ReturnedSide = tuple[
    int,
    int,
    float,
    float,
    int,
    bool,
    bytes | None,
    bytes | None,
    bytes,
    tuple[float, int],
    Framing | None,
    tuple[TlsStream | None, int],
]
Returned = tuple[int, str, str, bytes, float, float, ReturnedSide | int, ReturnedSide | int]
Order = tuple[int, bool, GivenSide, bytes, int, bytes]
Bridged = tuple[int, int, float, Returned | None]
Live = tuple[tuple[int, int], float, tuple[float, float], tuple[float, float], tuple[float, float]]

class Lane:
    def __new__(cls, threads: int) -> Lane: ...
    def fileno(self) -> int: ...
    def add(self, pairs: list[LentPair]) -> list[int]: ...
    def bridge(self, orders: list[Order]) -> list[Bridged]: ...
    def recall(self, thread: int, tag: int) -> Returned | None: ...
    def take(self, most: int) -> tuple[list[Returned], int]: ...
    def figures(self, thread: int, tag: int) -> Live | None: ...
    def fail(self, thread: int) -> None: ...
    def close(self) -> None: ...

class MemberWriter:
    def __new__(
        cls, describe: Callable[[str], tuple[str, bool, bool]], write: Callable[[str, object], str]
    ) -> MemberWriter: ...
    def members(self, fields: dict[str, Any]) -> str: ...

GivenPair = tuple[list[bytes], bytes]
GivenCertificate = tuple[list[bytes], bytes, list[str]]
Judge = Callable[[list[bytes], str], Exception | None]

class ServerTls:
    def __new__(
        cls,
        certificates: list[GivenCertificate],
        only_tls13: bool,
        client_certificate: bool | None,
        judge_clients: Judge | None,
    ) -> ServerTls: ...

class ClientTls:
    def __new__(cls, judge_servers: Judge | None, certificate: GivenPair | None, alpn: list[bytes]) -> ClientTls: ...

class TlsStream:
    sent_bytes: int
    fault: tuple[str, str, str] | None
    unprocessed: bytes
    version: str
    cipher: str
    alpn: str
    server_name: str
    @staticmethod
    def server(fd: int, tls: ServerTls) -> TlsStream: ...
    @staticmethod
    def client(fd: int, tls: ClientTls, name: str) -> TlsStream: ...
    def handshake(self) -> int: ...
    def take_verdict(self) -> Exception | None: ...
    def read(self, until_empty: bool) -> tuple[bytes, int]: ...
    def write(self, parts: Sequence[Buffer]) -> int: ...
    def flush(self) -> int: ...
    def close_notify(self) -> int: ...
    def has_buffered(self) -> bool: ...
    def close(self) -> None: ...
    def peer_certificates(self) -> list[bytes]: ...
