"""What a client certificate says of its owner, and the rules that it is held against.

Lives here: reading a rule such as `CN=alice,O=Example` or `DNS:host`, and taking a certificate apart. Must not live
here: asking a client for it (`certificate`).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "domainComponent": "DC",
    "userId": "UID",
    "serialNumber": "serialNumber",
    "emailAddress": "emailAddress",
    "givenName": "GN",
    "surname": "SN",
    "title": "title",
}
"""Attributes of a subject as OpenSSL calls them, and as they are written here (RFC 4514 section 3, and OpenSSL's)."""
KINDS: Final = ("DNS", "URI", "email")
"""Kinds of names beside the subject (RFC 5280 section 4.2.1.6)."""
NAMED_BY: Final = ("CN", "URI", "email", "DNS")
"""What names a client by default, if it stands there once; the first of them."""

_ATTRIBUTE = re.compile(r"[ \t]*([A-Za-z][A-Za-z0-9]*|[0-9]+(?:\.[0-9]+)+)[ \t]*=((?:\\.|[^\\,+])*)", re.DOTALL)
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_BLANKS = re.compile(r"^[ \t]+|(?<!\\)[ \t]+$")
_PAIR = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a certificate is for.

    Attributes:
        values: By attribute of the subject (`CN`) or kind of another name (`DNS`): all values, in order. An attribute
            is never joined with another one, so a comma in a value is a comma.
        expires: When it no longer holds, in seconds since 1970.
    """

    values: Mapping[str, Sequence[str]]
    expires: float | None

    def once(self, key: str) -> str | None:
        """Give the value of what stands there exactly once, and can be shown on one line."""
        values = self.values.get(key, ())
        return values[0] if len(values) == 1 and values[0].isprintable() and 0 < len(values[0]) <= 255 else None

    def all_once(self) -> dict[str, str]:
        """Give all that stands there exactly once."""
        return {key: value for key in self.values if (value := self.once(key)) is not None}


def owner_of(certificate: Mapping[str, object]) -> Owner:
    """Take a certificate apart.

    Args:
        certificate: As `ssl.SSLSocket.getpeercert` tells it.
    """
    values: dict[str, list[str]] = {}
    for key, value in _said(cast("Mapping[str, Any]", certificate)):
        values.setdefault(key, []).append(value)
    until = certificate.get("notAfter")
    return Owner(values, float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None)


def _said(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for relative in certificate.get("subject", ()):
        for attribute, value in relative:
            yield SHORT.get(attribute, attribute), value
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in KINDS:
            yield kind, _comparable(kind, value)


def _comparable(kind: str, value: str) -> str:
    """Lower the case of DNS names, which have none (RFC 4343); all else is compared as it is."""
    return value.lower().rstrip(".") if kind == "DNS" else value


@dataclass(frozen=True, slots=True)
class Rule:
    """What a certificate must say.

    Attributes:
        text: As written.
        wanted: Attributes of the subject with their values; or one kind of another name with its value.
        beside: Whether it is of another name than the subject.
    """

    text: str
    wanted: tuple[tuple[str, str], ...]
    beside: bool

    def fits(self, owner: Owner) -> bool:
        """Tell whether a certificate is for whom the rule names.

        Of a subject each attribute must stand there exactly once with exactly this value, and others may stand beside
        them. Of other names one must be exactly this one: a wildcard fits itself alone.
        """
        if self.beside:
            ((kind, value),) = self.wanted
            return value in owner.values.get(kind, ())
        return all(list(owner.values.get(key, ())) == [value] for key, value in self.wanted)

    def __str__(self) -> str:
        return self.text


def read_rule(text: str) -> Rule:
    r"""Read a rule: `CN=alice,O=Example`, where `\,` is a comma in a value; `DNS:…`, `URI:…` or `email:…`.

    Raises:
        ValueError: It is none.
    """
    kind, colon, value = text.partition(":")
    if colon and kind in KINDS and value.strip() == value != "":
        return Rule(text, ((kind, _comparable(kind, value)),), beside=True)
    wanted: dict[str, str] = {}
    at = 0
    while found := _ATTRIBUTE.match(text, at):
        key = read_attribute(found[1])
        value = _PAIR.sub(r"\1", _BLANKS.sub("", found[2]))
        if key in wanted or not value:
            break
        wanted[key] = value
        at = found.end()
        if at == len(text):
            return Rule(text, tuple(wanted.items()), beside=False)
        if text[at] != ",":
            break
        at += 1
    raise ValueError(
        f'"{text}" is no rule: write attributes of the subject, each once, such as CN=alice,O=Example, '
        "or DNS:host, URI:…, email:…"
    )


def read_attribute(text: str) -> str:
    """Read the name of an attribute of a subject: short, long or as numbers.

    Raises:
        ValueError: There is none of that name.
    """
    short = SHORT.get(text, text)
    if short in SHORT.values() or _NUMBERS.fullmatch(text):
        return short
    raise ValueError(f'"{text}" is no attribute of a subject: {", ".join(SHORT.values())} are')
