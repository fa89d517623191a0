"""Exchange: one request for a relay, whoever asks and in whatever form.

Lives here: the interface that the spine takes, and how a refused transport is let go. Must not live here: any spoken
form.
"""

from __future__ import annotations

from typing import Literal, Protocol

import trio

from wsbridge.net.wire import Wire
from wsbridge.protocol.head import Request
from wsbridge.reasons import End
from wsbridge.relay.endpoint import Endpoint


class Exchange(Protocol):
    """One request.

    Attributes:
        request: What was asked for; None where nothing can be said before the payload.
    """

    @property
    def request(self) -> Request | None: ...  # noqa: D102 (see above)

    async def refuse(self, end: End, retry_after: int) -> None:
        """Say no, with the status of the reason where the form has one, and close.

        Args:
            end: Why.
            retry_after: Seconds to tell in an overload, where the end does not carry its own.
        """

    async def accept(self, subprotocol: str | None, text: Literal["accept", "refuse"], frame: int) -> Endpoint | End:
        """Say yes; what was read past the request belongs to the endpoint.

        Returns:
            The front endpoint, or the end if the peer has gone meanwhile.
        """


class Lingering:
    """Lets sockets go whose peer may still be sending, so that no reset destroys what it has not read.

    Args:
        limit: Sockets at a time; beyond it they are closed at once.
        seconds: Time for each.
        size: Bytes read from each.
    """

    def __init__(self, limit: int, seconds: float, size: int) -> None:
        self._limit = limit
        self._seconds = seconds
        self._size = size
        self._now = 0

    async def close(self, wire: Wire) -> None:
        """End what we send, read and drop what still comes, and close."""
        try:
            if not wire.finish() or wire.ended is not None or self._now >= self._limit:
                return
            self._now += 1
            try:
                left = self._size
                with trio.move_on_after(self._seconds):
                    while wire.ended is None and left > 0:
                        dropped = wire.discard()
                        left -= dropped
                        if not dropped and wire.ended is None:
                            await trio.lowlevel.wait_readable(wire.fd)
            finally:
                self._now -= 1
        finally:
            wire.close()
