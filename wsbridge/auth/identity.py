"""Identity: who a client turned out to be; and Denied: why he is nobody.

Lives here: the two values, and one identity made of several. Must not live here: finding out (the ways of
authentication), or what a denied client is told (`access`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsbridge.reasons import Reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client turned out to be.

    Attributes:
        name: For logs, limits and backends; empty where nobody was asked.
        method: How he proved it: the kinds of authentication, joined by `+`.
        claims: What else is known of him, by name; for the choice of a target and for headers.
        expires: When it no longer holds, in seconds since 1970; the connection ends then. None for never.
        target: URL of the one target that he may reach; None where the route decides.
        by_cookie: Whether a cookie proved it, which any page can make a browser send.
    """

    name: str = ""
    method: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    expires: float | None = None
    target: str | None = None
    by_cookie: bool = False


ANONYMOUS = Identity()
"""The identity of those who were not asked."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a client is not let in. He learns the reason's name and nothing else.

    Attributes:
        detail: One sentence for the log; never a secret.
        reason: `unauthenticated`, `forbidden`, `auth_unavailable` where the one to ask could not be asked, or
            `overload` where too many ask.
        failed_login: Whether a credential was shown, so that it counts as a failed login.
        challenges: Values of WWW-Authenticate that say how to ask again (RFC 9110 section 11.6.1).
    """

    detail: str
    reason: Reason = Reason.UNAUTHENTICATED
    failed_login: bool = False
    challenges: tuple[str, ...] = ()


def merge_identities(identities: Sequence[Identity]) -> Identity:
    """Make one identity of several that all hold: the first name and target, all claims, the earliest end."""
    claims: dict[str, str] = {}
    for identity in reversed(identities):
        claims.update(identity.claims)
    ends = [identity.expires for identity in identities if identity.expires is not None]
    return Identity(
        name=next((identity.name for identity in identities if identity.name), ""),
        method="+".join(identity.method for identity in identities),
        claims=claims,
        expires=min(ends, default=None),
        target=next((identity.target for identity in identities if identity.target is not None), None),
        by_cookie=any(identity.by_cookie for identity in identities),
    )
