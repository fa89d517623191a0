"""Who a client is: `Identity`, several merged into one, and the rejections of clients that are not authenticated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsbridge.auth.access_list import ListEntry
from wsbridge.reasons import Reason, Rejected


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        name: For logs, limits and backends; empty where the client was not authenticated.
        method: The kinds of authentication that succeeded, joined by `+`.
        claims: What else is known of the client, by name; for the choice of a target and for headers.
        expires: When it is no longer valid, in seconds since 1970; the connection is closed then. None for never.
        target: URL of the only target that the client may reach; None where the route decides.
        by_cookie: Whether a cookie was used, which any page can make a browser send.
        token_name: Name of the bearer token that was used; None for none. Limits per token are counted by it.
        entries: Entries of lists that must all go on to hold (`on_revoke: close`).
    """

    name: str = ""
    method: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    expires: float | None = None
    target: str | None = None
    by_cookie: bool = False
    token_name: str | None = None
    entries: tuple[ListEntry, ...] = ()


ANONYMOUS = Identity()
"""The identity of clients that are not authenticated."""


def unauthenticated(
    detail: str, *, failed_login: bool = False, genuine: bool = False, challenges: Sequence[str] = ()
) -> Rejected:
    """Return the rejection of a client that has not proved who it is; it learns that and nothing else.

    Args:
        detail: One sentence for the log; never a secret.
        failed_login: Whether a wrong credential was presented, so that it counts as a failed login.
        genuine: Whether the credential was issued here, so that it is no guess whatever other methods say of it.
        challenges: Values of WWW-Authenticate (RFC 9110 section 11.6.1).
    """
    headers = tuple(("WWW-Authenticate", value) for value in challenges)
    return Rejected(Reason.UNAUTHENTICATED, detail, headers=headers, failed_login=failed_login, genuine=genuine)


def auth_unavailable(detail: str) -> Rejected:
    """Return the rejection of a client that nobody can authenticate now."""
    return Rejected(Reason.AUTH_UNAVAILABLE, detail, initiator="wsbridge")


def merge_identities(identities: Sequence[Identity]) -> Identity:
    """Make one identity of several that all hold: first name and target, all claims and entries, the earliest end."""
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
        token_name=next((identity.token_name for identity in identities if identity.token_name is not None), None),
        entries=tuple(entry for identity in identities for entry in identity.entries),
    )
