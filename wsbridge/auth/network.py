"""Authenticators by client network, and combinations of authenticators (any_of, all_of)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.base import AuthServices
from wsbridge.auth.identity import Identity, merge_identities
from wsbridge.config.base import AuthSection, Issue
from wsbridge.config.types import UNIX_CLIENTS, NetworkOrUnix, covers_internet
from wsbridge.config.unions import AuthUnion, non_empty, reject_none_in_list
from wsbridge.context import ConnectionContext
from wsbridge.net.address import NetworkSet
from wsbridge.reasons import Reason, Rejected


class AllOfConfig(AuthSection):
    """Authentication methods that must all succeed."""

    kind: Literal["all_of"] = "all_of"
    """all_of: every method must succeed."""
    all_of: Annotated[tuple[AuthUnion, ...], AfterValidator(non_empty), AfterValidator(reject_none_in_list)]
    """Authentication methods, in the order in which they are tried; the first denial ends the check. The identity
    has the first name that a method gives; methods that limit it to different targets deny access."""

    def members(self) -> Iterable[AuthSection]:
        """See `AuthSection.members`."""
        return self.all_of

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: if one method does."""
        return any(member.needs_request() for member in self.all_of)

    def allows_everyone(self) -> bool:
        """See `AuthSection.allows_everyone`: if all methods do."""
        return all(member.allows_everyone() for member in self.all_of)

    def requires_credentials(self) -> bool:
        """See `AuthSection.requires_credentials`: if one method does."""
        return any(member.requires_credentials() for member in self.all_of)

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`: if one method does."""
        return any(member.needs_certificate() for member in self.all_of)


class AllOf:
    """See `wsbridge.auth.base.Authenticator`."""

    def __init__(self, config: AllOfConfig, services: AuthServices) -> None:
        self._authenticators = [services.build(member) for member in config.all_of]

    async def identify(self, context: ConnectionContext) -> Identity:
        """Try one method after the other until one denies; each may limit the client to a target, the same one."""
        identities = [await authenticator.identify(context) for authenticator in self._authenticators]
        if len({identity.target for identity in identities} - {None}) > 1:
            raise Rejected(Reason.FORBIDDEN, "the methods of all_of limit the client to different targets")
        return merge_identities(identities)


class AnyOfConfig(AuthSection):
    """Authentication methods of which one must succeed."""

    kind: Literal["any_of"] = "any_of"
    """any_of: one method must succeed."""
    any_of: Annotated[tuple[AuthUnion, ...], AfterValidator(non_empty), AfterValidator(reject_none_in_list)]
    """Authentication methods, in the order in which they are tried."""

    def members(self) -> Iterable[AuthSection]:
        """See `AuthSection.members`."""
        return self.any_of

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: if all methods do."""
        return all(member.needs_request() for member in self.any_of)

    def allows_everyone(self) -> bool:
        """See `AuthSection.allows_everyone`: if one method does."""
        return any(member.allows_everyone() for member in self.any_of)

    def requires_credentials(self) -> bool:
        """See `AuthSection.requires_credentials`: if all methods do."""
        return all(member.requires_credentials() for member in self.any_of)

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`: if all methods do."""
        return all(member.needs_certificate() for member in self.any_of)


_DENIAL_PRIORITY = (
    Reason.BANNED,
    Reason.AUTH_UNAVAILABLE,
    Reason.OVERLOAD,
    Reason.RATE_LIMITED,
    Reason.UNAUTHENTICATED,
    Reason.FORBIDDEN,
)
"""Which reason is reported if several methods failed."""


class AnyOf:
    """See `wsbridge.auth.base.Authenticator`."""

    def __init__(self, config: AnyOfConfig, services: AuthServices) -> None:
        self._authenticators = [services.build(member) for member in config.any_of]

    async def identify(self, context: ConnectionContext) -> Identity:
        """Try one method after the other; a denial has the details of all of them."""
        denials: list[Rejected] = []
        for authenticator in self._authenticators:
            try:
                return await authenticator.identify(context)
            except Rejected as rejected:
                denials.append(rejected)
        reasons = {rejected.reason for rejected in denials}
        reason = next((reason for reason in _DENIAL_PRIORITY if reason in reasons), denials[0].reason)
        guess = _is_guess(denials)
        raise Rejected(
            reason,
            "; ".join(rejected.detail for rejected in denials),
            initiator=next(rejected.initiator for rejected in denials if rejected.reason is reason),
            headers=tuple(dict.fromkeys(header for rejected in denials for header in rejected.headers)),
            failed_login=guess,
            genuine=not guess and any(rejected.genuine for rejected in denials),
        )


def _is_guess(denials: Sequence[Rejected]) -> bool:
    """Whether all methods together denied a wrong credential: none was unavailable, and none had issued that one.

    A credential that one method has issued excuses no other that came with it: a used ticket no wrong password.
    """
    if any(rejected.initiator == "wsbridge" for rejected in denials):
        return False
    issued = {rejected.credential for rejected in denials if rejected.genuine}
    wrong = {rejected.credential for rejected in denials if rejected.failed_login}
    return any(not issued if one is None else issued.isdisjoint((one, None)) for one in wrong)


class NetworkConfig(AuthSection):
    """Access by client IP address."""

    kind: Literal["network"] = "network"
    """network: client IP address."""
    allow: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(non_empty)] | None = None
    """Networks such as 10.0.0.0/8, or unix for Unix sockets; all others are denied. Default: every network."""
    deny: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(non_empty)] | None = None
    """Networks that are denied, even if they are in allow."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require one of the two lists."""
        if not raw.keys() & {"allow", "deny"} and raw.keys() <= cls.model_fields.keys():
            yield Issue((), "needs allow or deny", "E013")

    def identifies_clients(self) -> bool:
        """See `AuthSection.identifies_clients`: a network has many clients."""
        return False

    def allows_everyone(self) -> bool:
        """See `AuthSection.allows_everyone`: without allow, all clients except those in deny."""
        if self.allow is not None:
            return covers_internet(network for network in self.allow if network != UNIX_CLIENTS)
        return not covers_internet(network for network in self.deny or () if network != UNIX_CLIENTS)

    def requires_credentials(self) -> bool:
        """See `AuthSection.requires_credentials`: a page has its user's address."""
        return False

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: the address is enough."""
        return False


class NetworkAuth:
    """See `wsbridge.auth.base.Authenticator`. The identity has no name, since a network has many clients."""

    def __init__(self, config: NetworkConfig, services: AuthServices) -> None:
        self._allow = None if config.allow is None else NetworkSet(config.allow)
        self._deny = NetworkSet(config.deny or ())

    async def identify(self, context: ConnectionContext) -> Identity:
        """Check the address of the client."""
        host = context.peer.host
        shown = host or "a Unix socket"
        if self._deny.contains(host):
            raise Rejected(Reason.FORBIDDEN, f"{shown} is in a network of deny")
        if self._allow is not None and not self._allow.contains(host):
            raise Rejected(Reason.FORBIDDEN, f"{shown} is in no network of allow")
        return Identity(method="network")
