"""Targets: what clients may choose, where a route's backend is theirs to choose.

Lives here: the section `targets:` and the forms of its values. Must not live here: the judgement of any one target
(`wsbridge.targets.allowed`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from wsbridge.config.address import HOST_NAME, read_port
from wsbridge.config.choice import filled
from wsbridge.config.idn import ascii_authority
from wsbridge.config.network import Network
from wsbridge.config.path import PlacePath
from wsbridge.config.scalars import Flag
from wsbridge.config.section import Fault, Section
from wsbridge.config.text import as_text

LISTS = ("networks", "names", "ports", "unix")


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that follow each other. `str()` gives the written form.

    Attributes:
        first: From 1.
        last: To 65535, not below the first.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def read_ports(value: object) -> Ports:
    """Read a port, or `first-last`."""
    if isinstance(value, Ports):
        return value
    text = as_text(value)
    first, dash, last = (part.strip() for part in text.partition("-"))
    ports = Ports(read_port(first), read_port(last if dash else first))
    if not 1 <= ports.first <= ports.last:
        raise ValueError(f'"{text}" are no ports: write one such as 22, or the first and the last such as 5900-5999')
    return ports


def read_name(value: object) -> str:
    """Read the name of a host, or `*.` and what the names end with: lower-case ASCII, no trailing dot."""
    text = as_text(value)
    name = ascii_authority(text.removeprefix("*.")).rstrip(".").lower()
    if text == "*":
        raise ValueError('"*" would take every name: leave names out, and write the networks that they may lead to')
    if not HOST_NAME.fullmatch(name) or len(name) > 253:
        raise ValueError(f'"{text}" is no name of a host: write db.example.org, or *.example.org for all that end so')
    if re.search(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\Z", name):
        raise ValueError(f'"{text}" is an address, not a name: write it under networks')
    return ("*." if text.startswith("*.") else "") + name


PortRange = Annotated[
    Ports,
    PlainValidator(read_ports),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": 65535,
            "pattern": "^[0-9]{1,5}( *- *[0-9]{1,5})?$",
        }
    ),
]
NamePattern = Annotated[
    str, PlainValidator(read_name), WithJsonSchema({"type": "string", "pattern": r"^(\*\.)?[^\s/:*]+$"})
]


class Targets(Section):
    """What clients may choose; all else is refused."""

    networks: Annotated[tuple[Network, ...], AfterValidator(filled)] | None = None
    """Networks whose addresses may be dialled, such as 10.0.0.0/8. Left out: only those that names leads to."""
    names: Annotated[tuple[NamePattern, ...], AfterValidator(filled)] | None = None
    """Names that may be looked up, such as db.example.org or *.example.org. Left out: every name, at those of
    its addresses that networks has."""
    ports: Annotated[tuple[PortRange, ...], AfterValidator(filled)] | None = None
    """Ports that may be dialled, such as 22 or 5900-5999. Left out: none."""
    unix: Annotated[tuple[PlacePath, ...], AfterValidator(filled)] | None = None
    """Folders whose Unix sockets may be dialled, and those of folders inside. Left out: none."""
    own_listeners: Flag = False
    """true lets clients choose wsbridge's own listeners, too."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for what makes something reachable."""
        if not written.keys() <= cls.model_fields.keys():
            return
        if not written.keys() & set(LISTS):
            yield Fault((), "lets nobody reach anything: write ports with networks or names, or unix", "E013")
        elif "ports" in written and not written.keys() & {"networks", "names"}:
            yield Fault(("ports",), "need networks or names beside them: without, no address may be dialled", "E013")
        elif "ports" not in written:
            for key in ("networks", "names"):
                if key in written:
                    yield Fault((key,), "needs ports beside it: without, none may be dialled", "E013", at_key=True)
