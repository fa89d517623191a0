"""RouteLimits: how much the clients of one route may have.

Lives here: the section. Must not live here: counting (`quota`), what is carried (`relay`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from wsbridge.config.scalars import CountOrOff, SizeOrOff
from wsbridge.config.section import Section

SLOWEST = 1024
"""Bytes a second; less would be a few bytes at a time."""


def not_too_slow(rate: int | None) -> int | None:
    """Check that a rate is off or not below the slowest."""
    if rate is not None and rate < SLOWEST:
        raise ValueError(f"{rate} bytes a second are too few: at least {SLOWEST}")
    return rate


Rate = Annotated[SizeOrOff, AfterValidator(not_too_slow)]


class RouteLimits(Section):
    """How much the clients of one route may have."""

    connections: CountOrOff = None
    """Connections at a time through this route; more are answered 429. off: any number."""
    connections_per_identity: CountOrOff = None
    """Connections at a time of one identity through this route. off: any number."""
    connections_per_token: CountOrOff = None
    """Connections at a time with one token through this route. off: any number."""
    bytes_per_second: Rate = None
    """Payload bytes a second of one connection, each way for itself. off: any number."""
    identity_bytes_per_second: Rate = None
    """The same for all connections of one identity through this route together. off: any number."""

    @property
    def count_nothing(self) -> bool:
        """Whether no connection has to be counted."""
        counted = (self.connections, self.connections_per_identity, self.connections_per_token)
        return (*counted, self.identity_bytes_per_second) == (None,) * 4
