"""Pickers: the ways from a client to the target that he chooses.

Lives here: one class a way, and which of them a route has. Must not live here: whether the target may be dialled
(`allowed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from wsbridge.auth.identity import Identity
from wsbridge.backends.chosen import TokensBackendConfig, ToldBackendConfig
from wsbridge.config.address import Target, read_target
from wsbridge.config.backend import AnyBackendSection, BackendSection
from wsbridge.config.template import Template
from wsbridge.protocol.head import Request
from wsbridge.protocol.target import PathPattern
from wsbridge.reread import Reread
from wsbridge.targets.host_port import read_host
from wsbridge.targets.request import hidden, value_of
from wsbridge.targets.template import at_host, at_path, fill
from wsbridge.targets.tokens import read_tokens

LONGEST: Final = 2048
"""Characters of the URL that goes with an identity."""


class Picker(Protocol):
    """One way from a client to a target.

    Attributes:
        names_sockets: Whether clients name Unix sockets, so that one that is not there is no trouble of the backend.
    """

    names_sockets: bool

    async def pick(self, request: Request | None, identity: Identity) -> Target:
        """Give his target.

        Raises:
            ValueError: He has none; one sentence for the log that quotes nothing of his.
        """

    def hidden(self, target: str) -> str:
        """Give the target of a request without a token that it may carry."""

    def token(self, request: Request | None, identity: Identity) -> str | None:
        """Give the token of a list that the client has, if it is one."""


class TemplatePicker:
    """A target made of the fields of a client."""

    def __init__(self, template: Template, path: PathPattern | None) -> None:
        self._template = template
        self._path = path
        self.names_sockets = template.scheme == "unix"

    async def pick(self, request: Request | None, identity: Identity) -> Target:
        """See `Picker.pick`."""
        values = {field: value_of(field, request, self._path, identity) for field in self._template.fields}
        return fill(self._template, values)

    def hidden(self, target: str) -> str:
        """See `Picker.hidden`: where sockets are named, a name may be meant as a token."""
        for field in self._template.fields if self.names_sockets else ():
            target = hidden(target, self._path, field)
        return target

    def token(self, request: Request | None, identity: Identity) -> None:
        """See `Picker.token`: there is no list."""


class TokenPicker:
    """A target that a list has for the token of a client.

    Raises:
        ValueError: The list cannot be read.
    """

    def __init__(self, config: TokensBackendConfig, path: PathPattern | None) -> None:
        self._field = config.field
        self._path = path
        self._list: Reread[Mapping[str, Target]] = Reread(config.tokens, partial(read_tokens, form=config.form))
        self.names_sockets = False

    async def pick(self, request: Request | None, identity: Identity) -> Target:
        """See `Picker.pick`."""
        token = value_of(self._field, request, self._path, identity)
        found = (await self._list.get()).get(token)
        if found is None:
            raise ValueError("the token is not in the list")
        return found

    def hidden(self, target: str) -> str:
        """See `Picker.hidden`."""
        return hidden(target, self._path, self._field)

    def token(self, request: Request | None, identity: Identity) -> str | None:
        """See `Picker.token`: by the list as it was last read."""
        try:
            token = value_of(self._field, request, self._path, identity)
        except ValueError:
            return None
        return token if token in self._list.last else None


class ToldPicker:
    """The target that goes with the identity of a client."""

    names_sockets = False

    def __init__(self, config: ToldBackendConfig) -> None:
        self._schemes = config.schemes

    async def pick(self, request: Request | None, identity: Identity) -> Target:
        """See `Picker.pick`."""
        if identity.target is None:
            raise ValueError("no target goes with the identity")
        target = told(identity.target)
        if target.scheme not in self._schemes:
            raise ValueError(f"{target.scheme} is none of the schemes of the backend")
        return target

    def hidden(self, target: str) -> str:
        """See `Picker.hidden`: it is chosen by who the client is."""
        return target

    def token(self, request: Request | None, identity: Identity) -> None:
        """See `Picker.token`: there is no list."""


def picker_of(backend: AnyBackendSection, path: PathPattern | None) -> Picker:
    """Build the picker of a backend that is the client's to choose.

    Raises:
        ValueError: Its list of tokens cannot be read.
    """
    if isinstance(backend, TokensBackendConfig):
        return TokenPicker(backend, path)
    if isinstance(backend, ToldBackendConfig):
        return ToldPicker(backend)
    assert isinstance(backend, BackendSection) and isinstance(backend.url, Template)  # noqa: S101 (no other has fields)
    return TemplatePicker(backend.url, path)


def told(url: str) -> Target:
    """Read the URL that goes with an identity.

    Raises:
        ValueError: It cannot be dialled; one sentence that does not quote it.
    """
    if len(url) > LONGEST:
        raise ValueError(f"the identity's target has {len(url)} characters, and {LONGEST} are the most")
    try:
        target = read_target(url)
    except ValueError:
        raise ValueError("the identity's target is no URL of tcp, tls, unix, ws or wss") from None
    if target.scheme == "unix":
        return at_path(target.path)
    return at_host(target.scheme, read_host(target.host), target.port, target.path)
