"""By certificate: who holds the key of a certificate that an authority of ours has signed comes in.

Lives here: the section behind `auth: {kind: certificate, …}` and the class. Must not live here: verifying, which the
TLS handshake has done by the listener's `client_ca`; what a certificate says (`distinguished`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, PlainSerializer, PlainValidator, Tag, WithJsonSchema

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.distinguished import KINDS, NAMED_BY, Owner, Rule, owner_of, read_attribute, read_rule
from wsbridge.auth.identity import Denied, Identity
from wsbridge.config.choice import filled, list_form
from wsbridge.config.section import TAG, AuthSection
from wsbridge.config.text import as_text


def _read_allowed(value: object) -> Rule:
    return value if isinstance(value, Rule) else read_rule(as_text(value))


def _read_any(value: object) -> Literal["any"]:
    if value != "any":
        raise ValueError(f'"{value}" is neither any nor a list of rules such as ["CN=alice,O=Example"]')
    return "any"


def _read_named_by(value: object) -> str:
    text = as_text(value)
    return text if text in KINDS else read_attribute(text)


AllowedRule = Annotated[
    Rule,
    PlainValidator(_read_allowed),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"[=:]"}),
]
AnyOwner = Annotated[Literal["any"], PlainValidator(_read_any), WithJsonSchema({"const": "any"})]
Allowed = Annotated[
    Annotated[AnyOwner, Tag(f"{TAG}text")]
    | Annotated[tuple[AllowedRule, ...], AfterValidator(filled), Tag(f"{TAG}list")],
    Discriminator(list_form),
]


class CertificateConfig(AuthSection):
    """Whose certificates are taken."""

    kind: Literal["certificate"] = "certificate"
    """certificate: by the certificate of a TLS client."""
    allow: Allowed
    """any that client_ca vouches for; or rules, of which one must fit: "CN=alice,O=Example", DNS:…, URI:…, email:…."""
    name: Annotated[str, PlainValidator(_read_named_by), WithJsonSchema({"type": "string"})] | None = None
    """What names the client: CN or another attribute, DNS, URI or email. Left out: what the rule fits, else the CN."""

    def needs_request(self) -> bool:
        """See `AuthSection.needs_request`: the handshake is enough."""
        return False

    def needs_certificate(self) -> bool:
        """See `AuthSection.needs_certificate`."""
        return True


class CertificateAuth:
    """See `wsbridge.auth.auth.Auth`. A certificate that ends takes its connections with it."""

    def __init__(self, config: CertificateConfig, lent: Lent) -> None:
        self._rules = None if config.allow == "any" else config.allow
        self._name = config.name
        self._wall = lent.wall

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Hold what the handshake verified against the rules."""
        if caller.peer.certificate is None:
            return Denied("no client certificate")
        if not caller.peer.certificate:
            return Denied("a client certificate that cannot be read", tried=True)
        owner = owner_of(caller.peer.certificate)
        shown = _shown(owner)
        rule = next((rule for rule in self._rules or () if rule.fits(owner)), None)
        if self._rules is not None and rule is None:
            return Denied(f"no rule of allow fits the certificate of {shown}", tried=True)
        if owner.expires is None or owner.expires <= self._wall():
            return Denied(f"the certificate of {shown} has expired", tried=True)
        name = self._named(owner, rule)
        if name is None:
            wanted = self._name or " or ".join(NAMED_BY)
            return Denied(f"the certificate of {shown} has not exactly one {wanted} to name the client by", tried=True)
        return Identity(name, "certificate", owner.all_once(), owner.expires)

    def _named(self, owner: Owner, rule: Rule | None) -> str | None:
        if self._name is not None:
            return owner.once(self._name)
        if rule is not None and rule.beside:
            return rule.wanted[0][1]
        return next((name for key in NAMED_BY if (name := owner.once(key)) is not None), None)


def _shown(owner: Owner) -> str:
    """Show whom a certificate is for in the log."""
    parts = [f"{key}={value!a}" for key, values in owner.values.items() for value in values]
    text = ", ".join(parts)
    return (text[:200] + "..." if len(text) > 200 else text) or "nobody"
