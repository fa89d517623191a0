"""What a request says of its target: the values of its fields, each decoded once.

Lives here: finding and decoding. Must not live here: what the values mean. Pure.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from wsbridge.auth.identity import Identity
from wsbridge.config.template import CLAIMS, IDENTITY, QUERY
from wsbridge.protocol.head import Request
from wsbridge.protocol.target import PathPattern

LONGEST: Final = 1024
"""Characters of a value."""
HIDDEN: Final = "***"

_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def value_of(field: str, request: Request | None, path: PathPattern | None, identity: Identity) -> str:
    """Give what one client has for a field.

    Args:
        field: `query.NAME`, `claims.NAME`, `identity`, or a named segment of the path.
        request: The client's; None where he speaks plain TCP.
        path: The pattern that the request matched.
        identity: Who the client is.

    Raises:
        ValueError: He has none, or not one; one sentence for the log that does not quote it.
    """
    if field == IDENTITY:
        value: str | None = identity.name
    elif field.startswith(CLAIMS):
        value = identity.claims.get(field.removeprefix(CLAIMS))
    elif request is None:
        value = None
    elif field.startswith(QUERY):
        value = _parameter(request.target.partition("?")[2], field.removeprefix(QUERY))
    else:
        segment = None if path is None else path.values(request.path).get(field)
        value = None if segment is None else _decoded(segment, field)
    if not value:
        raise ValueError(f"the client has no {field}")
    if len(value) > LONGEST:
        raise ValueError(f"{field} has {len(value)} characters, and {LONGEST} are the most")
    return value


def hidden(target: str, path: PathPattern | None, field: str) -> str:
    """Give the target of a request without the value of a field, which is a secret, for the log.

    A segment is hidden, too, where what follows it is not what the pattern wants: it was meant as one.
    """
    if field.startswith(QUERY):
        name = field.removeprefix(QUERY)
        before, mark, query = target.partition("?")
        parts = [
            f"{part.partition('=')[0]}={HIDDEN}" if _same_name(part.partition("=")[0], name) else part
            for part in query.split("&")
        ]
        return before + mark + "&".join(parts)
    if path is None or field not in path.names:
        return target
    before, mark, query = target.partition("?")
    segments, pattern = before.split("/"), path.text.split("/")
    at = pattern.index(f"{{{field}}}")
    meant = len(segments) > at > 1 and all(
        wanted == found or wanted.startswith("{") for wanted, found in zip(pattern[:at], segments, strict=False)
    )
    if not meant and not path.matches(before):
        return target
    segments[at] = HIDDEN
    return "/".join(segments) + mark + query


def _parameter(query: str, name: str) -> str | None:
    """Find a parameter of a query (application/x-www-form-urlencoded), which must stand there once."""
    found: str | None = None
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if _same_name(key, name):
            if found is not None:
                raise ValueError(f"the parameter {name} stands in the query twice")
            found = _decoded(value.replace("+", " "), name)
    return found


def _same_name(written: str, name: str) -> bool:
    return written == name or unquote_to_bytes(written.replace("+", " ")) == name.encode()


def _decoded(text: str, field: str) -> str:
    """Decode percent escapes, once."""
    if _BROKEN.search(text):
        raise ValueError(f"{field} has a broken percent escape")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{field} is not UTF-8") from None
