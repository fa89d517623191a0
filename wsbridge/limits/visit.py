"""Visit: one connection's place in the table of addresses, from its first address to its end.

Lives here: entering, leaving, and what becomes of a connection that is one too many. Must not live here: the table
(`addresses`), where on its way a connection is asked (the spine).
"""

from __future__ import annotations

import math

from wsbridge.limits.addresses import Addresses, key_of
from wsbridge.log import log
from wsbridge.reasons import End, Reason

HINT = "if that is a proxy, name it in trusted_proxies of the listener or in limits.address.exempt"
"""What to write where a proxy was taken for a client."""


class Visit:
    """One connection; call `leave` whatever became of it.

    Args:
        addresses: The table.
    """

    __slots__ = ("_addresses", "_host", "_key")

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._host: str | None = None
        self._key: bytes | None = None  # None: not counted

    def comes_from(self, host: str) -> End | None:
        """Count the connection under an address, in place of the one before.

        Args:
            host: IP address as text; empty on a Unix socket.

        Returns:
            The end of the connection if that address is banned or has too many; it is not counted then.
        """
        if host == self._host:
            return None
        self.leave()
        self._host = host
        addresses = self._addresses
        if addresses.exempt(host):
            return None
        if addresses.bans and (seconds := addresses.banned(host)):
            return End(
                Reason.BANNED,
                "front",
                f"{host or 'unix'} is banned for {math.ceil(seconds)} s more",
                headers=(("Retry-After", str(math.ceil(seconds))),),
            )
        key = key_of(host)
        if not addresses.enter(key):
            most = addresses.limits.connections
            return End(
                Reason.RATE,
                "front",
                f"{most} connections from {_shown(host)}, and limits.address.connections is {most}; {HINT}",
            )
        self._key = key
        return None

    def shake_hands(self) -> End | None:
        """Take one of the handshakes that the address may do; the end if it has none now."""
        if self._key is None:
            return None
        wait = self._addresses.shake_hands(self._key)
        if not wait:
            return None
        limits = self._addresses.limits
        seconds = math.ceil(wait)
        return End(
            Reason.RATE,
            "front",
            f"more than limits.address.handshakes, {limits.handshakes} a second, after {limits.burst} at once, "
            f"from {_shown(self._host or '')}; {HINT}",
            headers=(("Retry-After", str(seconds)),),
        )

    def fail(self) -> None:
        """Count a failed login; too many ban the address, which is told in the log."""
        if self._key is None:
            return
        failures = self._addresses.fail(self._key)
        if failures:
            log.warning(
                "address.banned",
                address=self._host or "unix",
                failures=failures,
                seconds=self._addresses.limits.ban,
            )

    def leave(self) -> None:
        """Count the connection out."""
        key, self._key, self._host = self._key, None, None
        if key is not None:
            self._addresses.leave(key)


def _shown(host: str) -> str:
    """Name what an address counts under."""
    if not host:
        return "unix"
    return f"the /64 of {host}" if ":" in host else host
