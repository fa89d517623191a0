"""By network: where a client comes from is what lets him in, or keeps him out.

Lives here: the section behind `auth: {kind: network, …}` and the class. Must not live here: which address a client
behind a proxy has (the connection knows it by then).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity
from wsbridge.config.choice import filled
from wsbridge.config.network import NetworkOrUnix
from wsbridge.config.section import AuthSection, Fault
from wsbridge.net.networks import Networks
from wsbridge.reasons import Reason


class NetworkConfig(AuthSection):
    """Where clients may come from."""

    kind: Literal["network"] = "network"
    """network: by the client's address."""
    allow: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(filled)] | None = None
    """Networks such as 10.0.0.0/8, or unix for Unix sockets; all others are refused. Left out: every network."""
    deny: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(filled)] | None = None
    """Networks that are refused, even if allow has them."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for one of the two lists."""
        if not written.keys() & {"allow", "deny"} and written.keys() <= cls.model_fields.keys():
            yield Fault((), "needs allow or deny", "E013")

    def names_clients(self) -> bool:
        """See `AuthSection.names_clients`: many come from one network."""
        return False

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: the address is enough."""
        return False


class NetworkAuth:
    """See `wsbridge.auth.auth.Auth`. The identity has no name: many come from one network."""

    def __init__(self, config: NetworkConfig, lent: Lent) -> None:
        self._allow = None if config.allow is None else Networks(config.allow)
        self._deny = Networks(config.deny or ())

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Look at the address."""
        host = caller.peer.host
        shown = host or "a Unix socket"
        if self._deny.holds(host):
            return Denied(f"{shown} is in a network of deny", Reason.FORBIDDEN)
        if self._allow is not None and not self._allow.holds(host):
            return Denied(f"{shown} is in no network of allow", Reason.FORBIDDEN)
        return Identity(method="network")
