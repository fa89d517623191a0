"""Tickets: signed single-use tokens in a URL.

The text is `1.PAYLOAD.SIGNATURE`. The payload is JSON, sorted and without spaces, in base64url; the signature is the
HMAC-SHA256 (RFC 2104) of the text before the last dot, in base64url. The payload is parsed only if the signature is
valid, and accepted only in the form that `encode_ticket` writes.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from wsbridge.protocol.uri import decode_base64url, encode_base64url
from wsbridge.reasons import Reason, Rejected

MAX_TICKET_CHARS: Final = 4096
"""Maximum length of a ticket, in characters."""
MIN_TICKET_KEY_BYTES: Final = 32
"""Minimum length of a key, in bytes: the output size of SHA-256 (RFC 2104 section 3)."""

_TICKET = re.compile(r"(1\.([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]{43})")
TICKET_ID_CHARS: Final = 22
"""Characters of a ticket's id: 128 bits in base64url."""

_TICKET_ID = re.compile(rf"[A-Za-z0-9_-]{{{TICKET_ID_CHARS}}}")
_TIME_FIELDS: Final = ("issued", "expires", "until")
_MAX_TIMESTAMP: Final = 2**53


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a ticket.

    Attributes:
        id: 128 random bits in base64url, which identify it in the table of used tickets.
        route: Name of the route that it is valid for.
        issued: Time of issue, in milliseconds since 1970.
        expires: Time until which it can be used, in milliseconds since 1970.
        name: Name of the client; may be empty.
        claims: Claims of the client.
        address: The only client address that may use it; None: any.
        target: URL of the only target; None: the route decides.
        until: Time at which the identity expires and the connection is closed, in milliseconds since 1970; None: never.
    """

    id: str
    route: str
    issued: int
    expires: int
    name: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    target: str | None = None
    until: int | None = None


def new_ticket_id() -> str:
    """Return a new random ticket id."""
    return secrets.token_urlsafe(16)


def encode_ticket(ticket: Ticket, key: bytes) -> str:
    """Encode and sign a ticket.

    Raises:
        ValueError: It would exceed `MAX_TICKET_CHARS` or could not be decoded again; the message quotes nothing of it.
    """
    try:
        signed = "1." + encode_base64url(_encode_payload(ticket))
    except UnicodeEncodeError:
        raise ValueError("a value of the ticket is not valid Unicode") from None
    text = f"{signed}.{_sign(signed, key)}"
    if len(text) > MAX_TICKET_CHARS:
        raise ValueError(f"the ticket would have {len(text)} characters, and the maximum is {MAX_TICKET_CHARS}")
    if _decode_payload(signed.removeprefix("1.")) != ticket:
        raise ValueError("a value of the ticket has the wrong type or is out of range")
    return text


def decode_ticket(text: str, key: bytes) -> Ticket:
    """Verify and decode a ticket.

    Args:
        text: As received; arbitrary text.
        key: Signing key.

    Raises:
        Rejected: It is not valid; the detail quotes nothing of it.
    """
    if len(text) > MAX_TICKET_CHARS:
        raise _invalid(f"the ticket has {len(text)} characters, and the maximum is {MAX_TICKET_CHARS}")
    found = _TICKET.fullmatch(text)
    if found is None:
        raise _invalid("the ticket is malformed")
    signed, payload, signature = found.groups()
    if not hmac.compare_digest(_sign(signed, key), signature):
        raise _invalid("the ticket is not signed with the key of this route")
    ticket = _decode_payload(payload)
    if ticket is None:
        raise _invalid("the ticket is signed, but not one of this version")
    return ticket


def _invalid(detail: str) -> Rejected:
    return Rejected(Reason.UNAUTHENTICATED, detail, failed_login=True)


def _decode_payload(payload: str) -> Ticket | None:
    try:
        data = decode_base64url(payload)
        ticket = Ticket(**json.loads(data))
        return ticket if _is_valid(ticket) and _encode_payload(ticket) == data else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_valid(ticket: Ticket) -> bool:
    """Return whether each value has its type."""
    values: dict[str, Any] = asdict(ticket)
    optional = {name for name in ("address", "target", "until") if values[name] is None}
    times = [values[name] for name in _TIME_FIELDS if name not in optional]
    texts = [values[name] for name in ("id", "route", "name", "address", "target") if name not in optional]
    claims = values["claims"]
    return (
        all(type(time) is int and 0 <= time < _MAX_TIMESTAMP for time in times)
        and isinstance(claims, dict)
        and all(isinstance(text, str) for text in [*texts, *claims, *claims.values()])
        and _TICKET_ID.fullmatch(ticket.id) is not None
    )


def _encode_payload(ticket: Ticket) -> bytes:
    written = {name: value for name, value in asdict(ticket).items() if value not in (None, {})}
    return json.dumps(written, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _sign(signed: str, key: bytes) -> str:
    return encode_base64url(hmac.digest(key, signed.encode(), "sha256"))
