"""Backends whose kind is known only when a client has chosen: by a list of tokens, or by what goes with his identity.

Lives here: the two sections and the class. Must not live here: the choice (`wsbridge.targets`), any one kind of
backend.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from wsbridge.backends.backend import Backend, Dialled, Offer, Services
from wsbridge.backends.tcp import TcpBackend, TcpBackendConfig
from wsbridge.backends.tls import TlsBackend, TlsBackendConfig
from wsbridge.backends.unix import UnixBackend, UnixBackendConfig
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config.address import Scheme
from wsbridge.config.backend import AnyBackendSection
from wsbridge.config.choice import filled, unique
from wsbridge.config.path import AnyPath
from wsbridge.config.section import Context, Fault
from wsbridge.config.template import TOLD, Template
from wsbridge.config.template import Field as FieldName
from wsbridge.reasons import End
from wsbridge.targets.tokens import read_tokens


class TokensBackendConfig(AnyBackendSection):
    """A list of tokens, each with the server that it leads to, in the formats of websockify."""

    tokens: AnyPath
    """A file of lines "token: host:port" (or unix_socket:/path), or a folder of such files."""
    field: FieldName = Field("query.token", alias="from")
    """Where a client has his token: query.NAME, NAME of a segment of match.path, claims.NAME or identity."""
    form: Literal["lines", "names"] = "lines"
    """lines: a token a line. names: a folder of files that are named by their token and hold host:port alone."""

    @property
    def kind(self) -> str:
        """See `AnyBackendSection.kind`."""
        return "tokens"

    @property
    def text(self) -> str:
        """See `AnyBackendSection.text`."""
        return f"tokens of {self.tokens}"

    @property
    def fields(self) -> tuple[str, ...]:
        """See `AnyBackendSection.fields`."""
        return (self.field,)

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell whether the list can be used."""
        if context.files:
            try:
                read_tokens(self.tokens, self.form)
            except (ValueError, OSError) as error:
                text = f"{self.tokens}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
                yield Fault(("tokens",), text, "E033")

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of a list that others can read."""
        with contextlib.suppress(OSError):  # it may be gone again
            if context.files and self.tokens.stat().st_mode & stat.S_IROTH:
                yield Fault(("tokens",), f"every user of this host can read the tokens in {self.tokens}", "W012")


class ToldBackendConfig(AnyBackendSection):
    """The server that goes with the identity of a client."""

    url: Annotated[Literal["{target}"], PlainValidator(lambda _: TOLD), WithJsonSchema({"const": TOLD})] = TOLD
    """{target}: the URL that the answer of forward or a ticket names."""
    schemes: Annotated[tuple[Scheme, ...], AfterValidator(filled), AfterValidator(unique)] = (
        "tcp",
        "tls",
        "unix",
        "ws",
        "wss",
    )
    """What may be spoken there; a URL of another scheme is refused."""

    @property
    def kind(self) -> str:
        """See `AnyBackendSection.kind`."""
        return "target"

    @property
    def text(self) -> str:
        """See `AnyBackendSection.text`."""
        return TOLD

    @property
    def fields(self) -> tuple[str, ...]:
        """See `AnyBackendSection.fields`."""
        return ("target",)


class ChosenBackend:
    """See `Backend`. It has one of each kind that may be chosen, and dials by the one of the target.

    Raises:
        TlsError: The authorities of the system cannot be used.
    """

    def __init__(self, config: TokensBackendConfig | ToldBackendConfig, services: Services) -> None:
        self.name = config.text
        schemes = config.schemes if isinstance(config, ToldBackendConfig) else ("tcp", "unix")
        self._by_scheme = {scheme: _build(scheme, services) for scheme in schemes}

    def at_once(self, offer: Offer) -> Dialled | None:
        """See `Backend.at_once`."""
        return self._of(offer).at_once(offer)

    async def dial(self, offer: Offer) -> Dialled | End:
        """See `Backend.dial`."""
        return await self._of(offer).dial(offer)

    def _of(self, offer: Offer) -> Backend:
        assert offer.chosen is not None  # noqa: S101 (the spine dials such a backend with a target alone)
        return self._by_scheme[offer.chosen.target.scheme]


def _build(scheme: Scheme, services: Services) -> Backend:
    url = Template(scheme, TOLD, 0, "", TOLD)
    if scheme == "tcp":
        return TcpBackend(TcpBackendConfig(url=url), services)
    if scheme == "tls":
        return TlsBackend(TlsBackendConfig(url=url), services)
    if scheme == "unix":
        return UnixBackend(UnixBackendConfig(url=url), services)
    return WebSocketBackend(WebSocketBackendConfig(url=url), services)
