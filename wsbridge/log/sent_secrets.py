"""Hides the secrets that wsbridge sends to a server or proxy in what that answers, which may repeat them."""

from __future__ import annotations

import contextlib
import html
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from wsbridge.config.secrets import Secret
from wsbridge.log.format import REDACTED

MIN_REDACTED_SECRET_BYTES: Final = 4
"""Shortest secret that is hidden, in bytes: a shorter one would hide parts of ordinary words."""
MIN_REDACTED_TEXT_BYTES: Final = 8
"""The same for header values that are written as text."""

_ESCAPE: Final = re.compile(r"%[0-9A-F]{2}")


class SentSecrets:
    """What must not be logged of an answer: values of headers, their parts, the password in a Basic one.

    Args:
        headers: Header names and values, as configured.
        others: Further secrets.
    """

    __slots__ = ("_values",)

    def __init__(self, headers: Mapping[str, str | Secret], others: Iterable[str] = ()) -> None:
        found = {value for value in others if len(value.encode()) >= MIN_REDACTED_SECRET_BYTES}
        for value in headers.values():
            shortest = MIN_REDACTED_SECRET_BYTES if isinstance(value, Secret) else MIN_REDACTED_TEXT_BYTES
            found |= {part for part in _parts(header_text(value)) if len(part.encode()) >= shortest}
        written = {spelling.encode() for value in found for spelling in _spellings(value)}
        self._values = sorted(written, key=len, reverse=True)

    def including(self, others: Iterable[bytes]) -> SentSecrets:
        """Return these and others, such as those of one request."""
        both = SentSecrets({})
        both._values = sorted({*self._values, *others}, key=len, reverse=True)
        return both

    def hide(self, data: bytes) -> bytes:
        """Return bytes of an answer without the secrets."""
        for secret in self._values:
            data = data.replace(secret, REDACTED.encode())
        return data

    def hide_in_text(self, text: str) -> str:
        """Return a text about an answer without the secrets."""
        return self.hide(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def header_text(value: str | Secret) -> str:
    """Return the value of a header as it is sent."""
    return value.reveal() if isinstance(value, Secret) else value


def _parts(text: str) -> set[str]:
    scheme, _, rest = text.partition(" ")
    parts = {text, rest}
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):  # no base64 of text: no password in it
            parts |= {part for part in b64decode(rest).decode().partition(":") if part != ":"}
    return parts


def _spellings(text: str) -> Iterable[str]:
    """Return a secret as pages, JSON and URLs may write it."""
    escaped = quote(text, safe="")
    yield from (text, html.escape(text), escaped, _ESCAPE.sub(lambda found: found[0].lower(), escaped))
    yield from (json.dumps(text, ensure_ascii=only_ascii)[1:-1] for only_ascii in (True, False))
