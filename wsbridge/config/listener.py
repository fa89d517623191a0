"""Listener: an address that is listened on, and what is spoken there.

Lives here: the section and the rules between its keys. Must not live here: rules between listeners (`check`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator

from wsbridge.config.certificate import Certificate, authorities_problem
from wsbridge.config.choice import filled
from wsbridge.config.network import UNIX, NetworkOrUnix
from wsbridge.config.scalars import Bind, Count, FilePath, Flag, Mode, Name, Owner, at_least, at_most
from wsbridge.config.section import Context, Fault, Section


class ListenerTls(Section):
    """TLS of a listener: version 1.2 at least."""

    certificates: Annotated[tuple[Certificate, ...], AfterValidator(filled)]
    """One or more; the name that the client asks for (SNI) picks one, the first serves all others."""
    client_ca: FilePath | None = None
    """PEM file of the authorities whose client certificates are taken. Left out: clients are asked for none."""
    client_certificate: Literal["required", "optional"] = "required"
    """Whether a client must show a certificate or may; only with client_ca."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for the authorities that certificates are verified by."""
        if "client_certificate" in written and "client_ca" not in written:
            yield Fault(("client_certificate",), "means nothing without client_ca", "E013", at_key=True)

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell whether the authorities can be used."""
        if self.client_ca is not None and context.files:
            problem = authorities_problem(self.client_ca)
            if problem is not None:
                yield Fault(("client_ca",), problem, "E031")


class Listener(Section):
    """An address that is listened on, and what is spoken there."""

    bind: Bind
    """host:port, '[v6]:port' (quoted) or unix:/path. Port 0 picks a free one, which the log tells."""
    speaks: Literal["websocket", "tcp"] = "websocket"
    """What clients speak: websocket (HTTP with an upgrade) or tcp (plain bytes)."""
    route: Name | None = None
    """The route of all connections of a listener that speaks tcp; needed there, wrong elsewhere."""
    tls: ListenerTls | None = None
    """Certificates; without them the listener is plain."""
    trusted_proxies: Annotated[tuple[NetworkOrUnix, ...], AfterValidator(filled)] | None = None
    """Proxies in front whose word on the client's address counts: networks, or unix for those on a Unix socket."""
    real_address: Literal["proxy-protocol", "x-forwarded-for", "forwarded"] | None = None
    """How they say it: by a PROXY header, or by a header of the request. Needed with trusted_proxies, and only then."""
    mode: Mode = 0o660
    """Mode of the socket's file, in octal; only for unix:/path."""
    owner: Owner | None = None
    """Owner of the socket's file, user or user:group; only for unix:/path. Left out: who runs wsbridge."""
    ipv6_only: Flag = False
    """For '[::]:port': true leaves IPv4 to another listener; false takes both."""
    backlog: Annotated[Count, AfterValidator(at_least(1)), AfterValidator(at_most(65535))] = 1024
    """Connections that may wait in the kernel to be accepted."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Hold the keys to what the address and the spoken form can use."""
        if written.get("speaks") == "tcp":
            if "route" not in written and written.keys() <= cls.model_fields.keys():
                yield Fault(("route",), "is missing: a listener that speaks tcp names its route", "E011")
        elif "route" in written and written.get("speaks", "websocket") == "websocket":
            text = "only a listener with speaks: tcp names a route; here the routes pick by their match"
            yield Fault(("route",), text, "E013", at_key=True)
        yield from cls._proxy_faults(written)
        bind = written.get("bind")
        if isinstance(bind, str):
            for key in ("mode", "owner"):
                if key in written and not bind.startswith("unix:"):
                    yield Fault((key,), "is only for a listener on unix:/path", "E013", at_key=True)
            if "ipv6_only" in written and not bind.startswith("["):
                yield Fault(("ipv6_only",), "is only for a listener on an IPv6 address", "E013", at_key=True)

    @classmethod
    def _proxy_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Hold together whose word counts and how it is said."""
        keys = ("trusted_proxies", "real_address")
        for key, other in (keys, keys[::-1]):
            if key in written and other not in written and written.keys() <= cls.model_fields.keys():
                yield Fault((other,), f"is missing: {key} needs it", "E011")
        told = written.get("real_address")
        if written.get("speaks") == "tcp" and told in ("x-forwarded-for", "forwarded"):
            text = "a listener that speaks tcp hears no request; write proxy-protocol"
            yield Fault(("real_address",), text, "E013")

    def faults(self, context: Context) -> Iterable[Fault]:
        """Ask for the one proxy that can come by a Unix socket."""
        if self.bind.kind == "unix" and self.trusted_proxies is not None and UNIX not in self.trusted_proxies:
            yield Fault(("trusted_proxies",), f"has no {UNIX}, and nobody else comes by {self.bind}", "E013")

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn where everybody may say who he is."""
        for at, network in enumerate(self.trusted_proxies or ()):
            if network != UNIX and network.prefixlen == 0:
                text = f"{network} trusts everybody: any client may claim any address"
                yield Fault(("trusted_proxies", at), text, "W015")
