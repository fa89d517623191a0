"""Raw connections: nothing is heard, the listener names the route.

Lives here: the exchange of a listener that speaks tcp. Must not live here: what the bytes mean.
"""

from __future__ import annotations

from typing import Literal

from wsbridge.net.wire import Wire
from wsbridge.reasons import End
from wsbridge.relay.endpoint import RawEndpoint


class RawExchange:
    """A raw connection; see `Exchange`."""

    request: None = None

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def refuse(self, end: End, retry_after: int) -> None:
        """Reset: the client must not take an empty answer for a whole one."""
        self._wire.abort()

    async def accept(self, subprotocol: str | None, text: Literal["accept", "refuse"], frame: int) -> RawEndpoint:
        """See `Exchange.accept`."""
        return RawEndpoint(self._wire)
