"""Shares: buckets that several connections draw from.

Lives here: which buckets there are now. Must not live here: who shares one (`quota`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from wsbridge.limits.bucket import Bucket


@dataclass(slots=True)
class Share:
    """One bucket each way.

    Attributes:
        to_back: For what accepted sides send.
        to_front: For what dialled sides send.
        users: Connections that draw from it.
    """

    to_back: Bucket
    to_front: Bucket
    users: int = 0


class Shares:
    """Buckets by key; those that no connection draws from take no room."""

    __slots__ = ("_shares",)

    def __init__(self) -> None:
        self._shares: dict[Hashable, Share] = {}

    def enter(self, key: Hashable, rate: int) -> Share:
        """Give the share of a key to one more connection."""
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share(Bucket(rate), Bucket(rate))
        share.users += 1
        return share

    def leave(self, key: Hashable) -> None:
        """Tell that a connection draws no more."""
        share = self._shares[key]
        share.users -= 1
        if not share.users:
            del self._shares[key]

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._shares)
