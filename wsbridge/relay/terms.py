"""Terms: what a route asks of the relay, as plain data.

Lives here: the numbers. Must not live here: who reads them from the configuration (`generation`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds, None for off.

    Attributes:
        idle: Without payload either way, the connection ends.
        ping: A WebSocket side silent this long in either direction gets a ping.
        pong: Time for life after a ping was acknowledged.
        write: A side that has bytes to take may make no progress this long.
        half_close: After one side has ended, the other direction may be silent this long.
        close: Time for the peer's part of an ending.
        max_age: Longest life of a connection.
        expires: When who the client is no longer holds, by the loop's clock.
        linger: Time in which input is still read and dropped before a socket is closed.
        linger_bytes: Bytes of it.
        chaff_rate: Control and empty frames a second, over 5 s, that a peer may send.
        deliver: After a client's close frame, what the backend still sends is sent on.
        lost_is_fin: A client that vanished ends a raw backend with FIN instead of a reset.
        bytes_per_second: Payload that each direction may carry.
    """

    idle: float | None = None
    ping: float | None = 20.0
    pong: float = 20.0
    write: float | None = 600.0
    half_close: float = 30.0
    close: float = 5.0
    max_age: float | None = None
    expires: float | None = None
    linger: float = 2.0
    linger_bytes: int = 262144
    chaff_rate: int = 2000
    deliver: bool = False
    lost_is_fin: bool = False
    bytes_per_second: int | None = None
