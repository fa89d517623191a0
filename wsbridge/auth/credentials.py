"""Find the token of a request: in Authorization, a subprotocol or a cookie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from wsbridge.auth.identity import unauthenticated
from wsbridge.config.base import AuthSection, Credential
from wsbridge.config.types import TOKEN_REGEX, as_text
from wsbridge.config.unions import check_unique, non_empty
from wsbridge.context import ConnectionContext
from wsbridge.protocol.credentials import cookie_values
from wsbridge.protocol.handshake import TOKEN_SUBPROTOCOL_PREFIX
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.uri import decode_base64url
from wsbridge.reasons import Rejected

MAX_TOKEN_BYTES: Final = 8192
"""Bytes of a token."""
BEARER_CHALLENGE: Final = 'Bearer realm="wsbridge"'
"""WWW-Authenticate of methods with tokens (RFC 6750 section 3), the same for every error."""

AUTHORIZATION: Final = "authorization"
SUBPROTOCOL: Final = "subprotocol"
COOKIE_PREFIX: Final = "cookie:"

_TOKEN = re.compile(rb"[!-~]+")
_KNOWN_SCHEMES: Final = {
    name.lower().encode(): name for name in ("Basic", "Bearer", "Digest", "Negotiate", "NTLM", "Token")
}
"""Schemes that the log names: others may be a token that was sent without one."""


def read_token_source(value: object) -> str:
    """Read a token source: `authorization`, `subprotocol` or `cookie:NAME`."""
    text = as_text(value)
    if text not in (AUTHORIZATION, SUBPROTOCOL) and not re.fullmatch(COOKIE_PREFIX + TOKEN_REGEX, text):
        raise ValueError(f'"{text}" is none of authorization, subprotocol and "cookie:NAME"')
    return text


TokenSource = Annotated[
    str,
    PlainValidator(read_token_source),
    WithJsonSchema({"type": "string", "pattern": f"^({AUTHORIZATION}|{SUBPROTOCOL}|{COOKIE_PREFIX}{TOKEN_REGEX})$"}),
]


class TokenSection(AuthSection):
    """The base of the sections of all methods with tokens."""

    sources: Annotated[tuple[TokenSource, ...], AfterValidator(non_empty), AfterValidator(check_unique)] = (
        AUTHORIZATION,
        SUBPROTOCOL,
    )
    """Where the token is read from: authorization, subprotocol and cookie:NAME."""

    def accepts_cookies(self) -> bool:
        """See `AuthSection.accepts_cookies`: if a source is one."""
        return any(source.startswith(COOKIE_PREFIX) for source in self.sources)

    def credentials(self) -> Iterable[Credential]:
        """See `AuthSection.credentials`; subprotocols with a token are never passed on."""
        for source in self.sources:
            if source.startswith(COOKIE_PREFIX):
                yield "cookie", source.removeprefix(COOKIE_PREFIX)
            elif source == AUTHORIZATION:
                yield "header", AUTHORIZATION


@dataclass(frozen=True, slots=True)
class TokenFound:
    """A token of a request.

    Attributes:
        token: Printable ASCII without spaces, at most `MAX_TOKEN_BYTES` bytes.
        source: Where it was found, as in `TokenSection.sources`.
    """

    token: str = field(repr=False)
    source: str

    @property
    def by_cookie(self) -> bool:
        """Whether it was found in a cookie only."""
        return self.source.startswith(COOKIE_PREFIX)


def token_denied(detail: str, *, failed_login: bool = True, genuine: bool = False) -> Rejected:
    """Return the rejection of a client whose token is missing, malformed or not valid; a genuine one is no guess."""
    return unauthenticated(
        detail, failed_login=failed_login and not genuine, genuine=genuine, challenges=(BEARER_CHALLENGE,)
    )


def find_token(context: ConnectionContext, sources: Sequence[str]) -> TokenFound:
    """Find the token of a request.

    Args:
        context: The connection.
        sources: Where to look.

    Returns:
        The token; if it is in several sources, with the first that is not a cookie.

    Raises:
        Rejected: No source has one, one is malformed, or two differ.
    """
    if context.request is None:
        raise token_denied("plain TCP shows no token", failed_login=False)
    found: list[TokenFound] = []
    for source in sources:
        shown = _find_in(context, source)
        if shown is not None:
            found.append(shown)
    if not found:
        scheme = describe_other_scheme(context.request, "Bearer") if AUTHORIZATION in sources else ""
        raise token_denied(f"no token in {', '.join(sources)}{scheme}", failed_login=False)
    if any(shown.token != found[0].token for shown in found):
        text = f"the tokens in {' and '.join(shown.source for shown in found)} differ"
        raise token_denied(text, failed_login=not any(shown.by_cookie for shown in found))
    return next((shown for shown in found if not shown.by_cookie), found[0])


def _find_in(context: ConnectionContext, source: str) -> TokenFound | None:
    """Look in one source; None if it has no token."""
    if source == AUTHORIZATION:
        raw = _in_authorization(context)
    elif source == SUBPROTOCOL:
        raw = _in_subprotocols(context)
    else:
        raw = _in_cookie(context, source.removeprefix(COOKIE_PREFIX))
    if raw is None:
        return None
    if len(raw) > MAX_TOKEN_BYTES:
        raise token_denied(f"the token in {source} has {len(raw)} bytes, and the limit is {MAX_TOKEN_BYTES}")
    if not _TOKEN.fullmatch(raw):
        raise token_denied(f"the token in {source} is empty or has characters that no token has")
    return TokenFound(raw.decode("ascii"), source)


def _in_authorization(context: ConnectionContext) -> bytes | None:
    """Parse the header (RFC 6750 section 2.1); credentials of other schemes are ignored."""
    assert context.request is not None  # noqa: S101 (`find_token` asks)
    values = context.request.headers.get_all(b"authorization")
    if len(values) > 1:
        raise token_denied(f"the request has {len(values)} Authorization headers")
    for value in values:
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            return rest.strip(b" ")
    return None


def describe_other_scheme(request: Request, required: str) -> str:
    """Say which other method the Authorization header is for; not its text, where it is none of those known."""
    shown = request.headers.get(b"authorization")
    if shown is None:
        return ""
    scheme = _KNOWN_SCHEMES.get(shown.partition(b" ")[0].lower())
    if scheme is None:
        return f"; Authorization has another scheme than {required}"
    return f"; Authorization has the scheme {scheme}, not {required}"


def _in_subprotocols(context: ConnectionContext) -> bytes | None:
    """Find the subprotocol with the token, which is base64url without padding."""
    carriers = [name for name in context.subprotocols if name.startswith(TOKEN_SUBPROTOCOL_PREFIX)]
    if len(carriers) > 1:
        raise token_denied(f"the request offers {len(carriers)} subprotocols with a token")
    for carrier in carriers:
        try:
            raw = decode_base64url(carrier.removeprefix(TOKEN_SUBPROTOCOL_PREFIX))
        except ValueError:
            raw = b""
        if not raw:
            raise token_denied("the token in subprotocol is not base64url without padding")
        return raw
    return None


def _in_cookie(context: ConnectionContext, name: str) -> bytes | None:
    """Find the cookie; an empty one counts as missing, since pages delete cookies this way.

    Two are no failed login, and none is verified: pages of a sibling domain can add one to those of their visitors.
    """
    assert context.request is not None  # noqa: S101 (`find_token` asks)
    values = cookie_values(context.request.headers, name)
    if len(values) > 1:
        raise token_denied(f"the request has {len(values)} cookies {name}", failed_login=False)
    return values[0] if values and values[0] else None
