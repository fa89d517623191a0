"""All of several ways: each must know the client.

Lives here: the section behind `auth: {all_of: […]}` and the class. Must not live here: the ways it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.identity import Denied, Identity, together
from wsbridge.config.choice import Auth, filled, several
from wsbridge.config.section import AuthSection


class AllOfConfig(AuthSection):
    """Ways of which each is needed."""

    kind: Literal["all_of"] = "all_of"
    """all_of: each of several ways is needed."""
    all_of: Annotated[tuple[Auth, ...], AfterValidator(filled), AfterValidator(several)]
    """Ways of authentication, asked in this order; the first denial is the last question. The name is the first's."""

    def members(self) -> Iterable[AuthSection]:
        """See `AuthSection.members`."""
        return self.all_of

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: if one way does."""
        return any(member.needs_request() for member in self.all_of)

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`: if one way does."""
        return any(member.needs_certificate() for member in self.all_of)


class AllOf:
    """See `wsbridge.auth.auth.Auth`."""

    def __init__(self, config: AllOfConfig, lent: Lent) -> None:
        self._ways = [lent.build(member) for member in config.all_of]

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Ask one way after the other until one denies."""
        found: list[Identity] = []
        for way in self._ways:
            answer = await way.identify(caller)
            if isinstance(answer, Denied):
                return answer
            found.append(answer)
        return together(found)
