"""Ticket: a pass for one connection, as a signed text that fits into a URL.

Lives here: the value, its text form and the signature. Must not live here: clocks and keys (they are given), whether a
ticket was used already (`auth.spent`), who gets one.

The text is `1.PAYLOAD.SIGNATURE`. The payload is JSON, sorted and without blanks, in base64url; the signature is the
HMAC-SHA256 (RFC 2104) of the text before its own dot, in base64url. Both are without padding (RFC 4648 section 5).
Nothing is read of a payload whose signature is wrong, and only what `write` would write is read.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from wsbridge.reasons import Reason, Rejected

MAX_TICKET_CHARS: Final = 4096
"""Characters of a ticket."""
MIN_TICKET_KEY_BYTES: Final = 32
"""Bytes of a key; more than SHA-256 gives out (RFC 2104 section 3) add nothing, fewer could be guessed."""

_TICKET = re.compile(r"(1\.([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]{43})")
TICKET_ID_CHARS: Final = 22
"""Characters of a ticket's id: 128 bits in base64url."""

_TICKET_ID = re.compile(rf"[A-Za-z0-9_-]{{{TICKET_ID_CHARS}}}")
_TIME_FIELDS: Final = ("issued", "expires", "until")
_MAX_TIMESTAMP: Final = 2**53


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says.

    Attributes:
        id: 128 random bits in base64url, by which it is known as used.
        route: Name of the one route that it is good for.
        issued: When it was made, in milliseconds since 1970.
        expires: Until when it can be used, likewise.
        name: Who it lets in; may be empty.
        claims: What else is known of him, by name.
        address: The one address that it can be used from; None for any.
        target: URL of the one target that it leads to; None where the route decides.
        until: When who it lets in is to be put out again, in milliseconds since 1970; None for never.
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
    """Make the id of a new ticket."""
    return secrets.token_urlsafe(16)


def encode_ticket(ticket: Ticket, key: bytes) -> str:
    """Write and sign a ticket.

    Raises:
        ValueError: It would be longer than `LONGEST` or is none that could be read; the sentence tells nothing of it.
    """
    try:
        signed = "1." + _base64url(_encode_payload(ticket))
    except UnicodeEncodeError:
        raise ValueError("the ticket holds what is no text") from None
    text = f"{signed}.{_sign(signed, key)}"
    if len(text) > MAX_TICKET_CHARS:
        raise ValueError(f"the ticket would have {len(text)} characters, and {MAX_TICKET_CHARS} are the most")
    if _decode_payload(signed.removeprefix("1.")) != ticket:
        raise ValueError("the ticket holds what no ticket can")
    return text


def decode_ticket(text: str, key: bytes) -> Ticket:
    """Read a ticket.

    Args:
        text: Anything at all.
        key: What it must be signed with.

    Raises:
        Rejected: It is no ticket; the detail quotes nothing of it.
    """
    if len(text) > MAX_TICKET_CHARS:
        raise _invalid(f"the ticket has {len(text)} characters, and {MAX_TICKET_CHARS} are the most")
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
        data = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        ticket = Ticket(**json.loads(data))
        return ticket if _is_valid(ticket) and _encode_payload(ticket) == data else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_valid(ticket: Ticket) -> bool:
    """Tell whether each value is of its kind."""
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
    return _base64url(hmac.digest(key, signed.encode(), "sha256"))


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")
