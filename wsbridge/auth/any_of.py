"""Any of several ways: the first that knows the client lets him in.

Lives here: the section behind `auth: {any_of: […]}` and the class. Must not live here: the ways it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity
from wsbridge.config.choice import Auth, filled, several
from wsbridge.config.section import AuthSection
from wsbridge.reasons import Reason


class AnyOfConfig(AuthSection):
    """Ways of which one is enough."""

    kind: Literal["any_of"] = "any_of"
    """any_of: one of several ways is enough."""
    any_of: Annotated[tuple[Auth, ...], AfterValidator(filled), AfterValidator(several)]
    """Ways of authentication, asked in this order."""

    def members(self) -> Iterable[AuthSection]:
        """See `AuthSection.members`."""
        return self.any_of

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: not if one way does without."""
        return all(member.needs_request() for member in self.any_of)

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`: not if one way does without."""
        return all(member.needs_certificate() for member in self.any_of)


class AnyOf:
    """See `wsbridge.auth.auth.Auth`."""

    def __init__(self, config: AnyOfConfig, lent: Lent) -> None:
        self._ways = [lent.build(member) for member in config.any_of]

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Ask one way after the other; a denial tells what all of them said."""
        denials: list[Denied] = []
        for way in self._ways:
            found = await way.identify(caller)
            if isinstance(found, Identity):
                return found
            denials.append(found)
        reasons = {denied.reason for denied in denials}
        order = (Reason.AUTH_UNAVAILABLE, Reason.OVERLOAD, Reason.UNAUTHENTICATED, Reason.FORBIDDEN)
        return Denied(
            "; ".join(denied.detail for denied in denials),
            next(reason for reason in order if reason in reasons),
            tried=any(denied.tried for denied in denials),
            challenges=tuple(dict.fromkeys(value for denied in denials for value in denied.challenges)),
        )
