"""Ledger: plain counters of a route that outlive a generation of the configuration; metrics read them.

Lives here: the counters. Must not live here: their names elsewhere (metrics), or anything that decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wsbridge.reasons import Reason


@dataclass(slots=True)
class Ledger:
    """What happened on one route since the process started.

    Attributes:
        active: Connections being relayed now.
        relayed: Connections that were relayed, the active ones among them.
        refused: Requests and dials that ended before the relay.
        to_back: Payload bytes carried from accepted sides to dialled ones, counted when a connection ends.
        to_front: Payload bytes the other way.
        endings: How often each reason ended a connection.
    """

    active: int = 0
    relayed: int = 0
    refused: int = 0
    to_back: int = 0
    to_front: int = 0
    endings: Counter[Reason] = field(default_factory=Counter)
