"""TLS client certificates, subject/SAN rules."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, Discriminator, PlainSerializer, PlainValidator, Tag, WithJsonSchema

from wsbridge.auth.base import AuthServices
from wsbridge.auth.identity import Identity, unauthenticated
from wsbridge.config.base import UNION_TAG, AuthSection
from wsbridge.config.types import as_text
from wsbridge.config.unions import non_empty, text_or_list_tag
from wsbridge.context import ConnectionContext
from wsbridge.reasons import Rejected

ATTRIBUTE_SHORT_NAMES: Final = {
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
ALT_NAME_TYPES: Final = ("DNS", "URI", "email")
"""Kinds of names beside the subject (RFC 5280 section 4.2.1.6)."""
DEFAULT_NAME_SOURCES: Final = ("CN", "URI", "email", "DNS")
"""What names a client by default, if it appears once; the first of them."""

_ATTRIBUTE = re.compile(r"[ \t]*([A-Za-z][A-Za-z0-9]*|[0-9]+(?:\.[0-9]+)+)[ \t]*=((?:\\.|[^\\,+])*)", re.DOTALL)
_OID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_SURROUNDING_SPACE = re.compile(r"^[ \t]+|(?<!\\)[ \t]+$")
_ESCAPED_CHARACTER = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a certificate is for.

    Attributes:
        values: By attribute of the subject (`CN`) or kind of another name (`DNS`): all values, in order. An attribute
            is never joined with another one, so a comma in a value is a comma.
        expires: When it no longer holds, in seconds since 1970.
    """

    values: Mapping[str, Sequence[str]]
    expires: float | None

    def single_value(self, key: str) -> str | None:
        """Return the value of what appears exactly once, and can be shown on one line."""
        values = self.values.get(key, ())
        return values[0] if len(values) == 1 and values[0].isprintable() and 0 < len(values[0]) <= 255 else None

    def single_values(self) -> dict[str, str]:
        """Return all that appears exactly once."""
        return {key: value for key in self.values if (value := self.single_value(key)) is not None}


def parse_subject(certificate: Mapping[str, object]) -> Subject:
    """Read the names and the expiry of a certificate.

    Args:
        certificate: As returned by `ssl.SSLSocket.getpeercert`.
    """
    values: dict[str, list[str]] = {}
    for key, value in _names(cast("Mapping[str, Any]", certificate)):
        values.setdefault(key, []).append(value)
    until = certificate.get("notAfter")
    return Subject(values, float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None)


def _names(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for relative in certificate.get("subject", ()):
        for attribute, value in relative:
            yield ATTRIBUTE_SHORT_NAMES.get(attribute, attribute), value
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ALT_NAME_TYPES:
            yield kind, _normalize_name(kind, value)


def _normalize_name(kind: str, value: str) -> str:
    """Lower the case of DNS names, which have none (RFC 4343); all else is compared as it is."""
    return value.lower().rstrip(".") if kind == "DNS" else value


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """What a certificate must say.

    Attributes:
        text: As written.
        required: Attributes of the subject with their values; or one kind of another name with its value.
        is_alt_name: Whether it is of another name than the subject.
    """

    text: str
    required: tuple[tuple[str, str], ...]
    is_alt_name: bool

    def matches(self, subject: Subject) -> bool:
        """Return whether a certificate matches the rule.

        Of a subject each attribute must appear exactly once with exactly this value; other attributes may be present.
        Of other names one must be exactly this one: a wildcard matches itself alone.
        """
        if self.is_alt_name:
            ((kind, value),) = self.required
            return value in subject.values.get(kind, ())
        return all(list(subject.values.get(key, ())) == [value] for key, value in self.required)

    def __str__(self) -> str:
        return self.text


def parse_subject_rule(text: str) -> SubjectRule:
    r"""Read a rule: `CN=alice,O=Example`, where `\,` is a comma in a value; `DNS:…`, `URI:…` or `email:…`.

    Raises:
        ValueError: It is none.
    """
    kind, colon, value = text.partition(":")
    if colon and kind in ALT_NAME_TYPES and value.strip() == value != "":
        return SubjectRule(text, ((kind, _normalize_name(kind, value)),), is_alt_name=True)
    wanted: dict[str, str] = {}
    at = 0
    while found := _ATTRIBUTE.match(text, at):
        key = parse_attribute_name(found[1])
        value = _ESCAPED_CHARACTER.sub(r"\1", _SURROUNDING_SPACE.sub("", found[2]))
        if key in wanted or not value:
            break
        wanted[key] = value
        at = found.end()
        if at == len(text):
            return SubjectRule(text, tuple(wanted.items()), is_alt_name=False)
        if text[at] != ",":
            break
        at += 1
    raise ValueError(
        f'"{text}" is no rule: write attributes of the subject, each once, such as CN=alice,O=Example, '
        "or DNS:host, URI:…, email:…"
    )


def parse_attribute_name(text: str) -> str:
    """Read the name of an attribute of a subject: short, long or as numbers.

    Raises:
        ValueError: There is none of that name.
    """
    short = ATTRIBUTE_SHORT_NAMES.get(text, text)
    if short in ATTRIBUTE_SHORT_NAMES.values() or _OID.fullmatch(text):
        return short
    raise ValueError(f'"{text}" is no attribute of a subject: {", ".join(ATTRIBUTE_SHORT_NAMES.values())} are')


def _read_subject_rule(value: object) -> SubjectRule:
    return value if isinstance(value, SubjectRule) else parse_subject_rule(as_text(value))


def _read_any(value: object) -> Literal["any"]:
    if value != "any":
        raise ValueError(f'"{value}" is neither any nor a list of rules such as ["CN=alice,O=Example"]')
    return "any"


def _read_name_source(value: object) -> str:
    text = as_text(value)
    return text if text in ALT_NAME_TYPES else parse_attribute_name(text)


AllowedSubject = Annotated[
    SubjectRule,
    PlainValidator(_read_subject_rule),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"[=:]"}),
]
AnySubject = Annotated[Literal["any"], PlainValidator(_read_any), WithJsonSchema({"const": "any"})]
AllowedSubjects = Annotated[
    Annotated[AnySubject, Tag(f"{UNION_TAG}text")]
    | Annotated[tuple[AllowedSubject, ...], AfterValidator(non_empty), Tag(f"{UNION_TAG}list")],
    Discriminator(text_or_list_tag),
]


class CertificateConfig(AuthSection):
    """Authentication by TLS client certificate (mTLS)."""

    kind: Literal["certificate"] = "certificate"
    """certificate: TLS client certificate (mTLS)."""
    allow: AllowedSubjects
    """any: every certificate that client_ca verifies. Or rules, one of which must match: "CN=alice,O=Example",
    DNS:…, URI:…, email:…."""
    name: Annotated[str, PlainValidator(_read_name_source), WithJsonSchema({"type": "string"})] | None = None
    """Source of the identity's name: CN or another attribute, DNS, URI or email. Default: what the rule matched,
    else the CN."""

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: the handshake is enough."""
        return False

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`."""
        return True


class CertificateAuth:
    """See `wsbridge.auth.base.Authenticator`. The identity expires with the certificate.

    A certificate that is denied is no failed login: a CA of the listener has signed it, so it is no guess.
    """

    def __init__(self, config: CertificateConfig, services: AuthServices) -> None:
        self._rules = None if config.allow == "any" else config.allow
        self._name_source = config.name
        self._wall_clock = services.wall_clock

    async def identify(self, context: ConnectionContext) -> Identity:
        """Match the certificate that the TLS handshake verified against the rules."""
        try:
            return self._match(context)
        except Rejected as rejected:
            rejected.credential = hash("certificate")  # different from all credentials of requests
            raise

    def _match(self, context: ConnectionContext) -> Identity:
        if context.peer.certificate is None:
            raise unauthenticated("no client certificate")
        if not context.peer.certificate:
            raise unauthenticated("a client certificate that cannot be read", genuine=True)
        owner = parse_subject(context.peer.certificate)
        shown = _describe_subject(owner)
        rule = next((rule for rule in self._rules or () if rule.matches(owner)), None)
        if self._rules is not None and rule is None:
            raise unauthenticated(f"no rule of allow matches the certificate of {shown}", genuine=True)
        if owner.expires is None or owner.expires <= self._wall_clock():
            raise unauthenticated(f"the certificate of {shown} has expired", genuine=True)
        name = self._client_name(owner, rule)
        if name is None:
            wanted = self._name_source or " or ".join(DEFAULT_NAME_SOURCES)
            raise unauthenticated(
                f"the certificate of {shown} has not exactly one {wanted} to name the client by", genuine=True
            )
        return Identity(name, "certificate", owner.single_values(), owner.expires)

    def _client_name(self, subject: Subject, rule: SubjectRule | None) -> str | None:
        if self._name_source is not None:
            return subject.single_value(self._name_source)
        if rule is not None and rule.is_alt_name:
            return rule.required[0][1]
        return next((name for key in DEFAULT_NAME_SOURCES if (name := subject.single_value(key)) is not None), None)


def _describe_subject(subject: Subject) -> str:
    """Describe the subject of a certificate for the log."""
    parts = [f"{key}={value!a}" for key, values in subject.values.items() for value in values]
    text = ", ".join(parts)
    return (text[:200] + "..." if len(text) > 200 else text) or "nobody"
