"""What outlives a generation of the configuration: today the counters of each route."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wsbridge.reasons import Reason


@dataclass(slots=True)
class RouteStats:
    """What happened on one route since the process started.

    Attributes:
        active: Connections being relayed now.
        relayed: Connections that were relayed, the active ones among them.
        rejected: Requests and dials that ended before the relay.
        bytes_to_backend: Payload bytes carried from accepted sides to dialled ones, counted when a connection ends.
        bytes_to_client: Payload bytes the other way.
        terminations: How often each reason ended a connection.
    """

    active: int = 0
    relayed: int = 0
    rejected: int = 0
    bytes_to_backend: int = 0
    bytes_to_client: int = 0
    terminations: Counter[Reason] = field(default_factory=Counter)
