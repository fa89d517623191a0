"""Client-chosen targets: template, token file, from identity."""

from __future__ import annotations

import contextlib
import posixpath
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

import trio
from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from wsbridge.auth.identity import Identity
from wsbridge.backends.base import Backend, ChosenTarget, Connected, DialRequest, DialServices
from wsbridge.backends.passed_request import RequestPasser
from wsbridge.backends.target_policy import TargetRules, is_ip_literal, parse_host, resolve_socket_path
from wsbridge.backends.target_template import field_value, fill_template, host_target, redact_field, unix_target
from wsbridge.backends.tcp import (
    TcpBackend,
    TcpBackendConfig,
    TlsBackend,
    TlsBackendConfig,
    UnixBackend,
    UnixBackendConfig,
)
from wsbridge.backends.token_file import TokenFileReader
from wsbridge.backends.websocket import WebSocketBackend, WebSocketBackendConfig
from wsbridge.config import model
from wsbridge.config.backend_urls import COOKIE_FIELD_PREFIX, IDENTITY_TARGET, TargetTokenSource, UrlTemplate
from wsbridge.config.base import Issue, LoadContext
from wsbridge.config.paths import UncheckedPath
from wsbridge.config.unions import BackendSectionBase, UrlBackendSection, check_unique, non_empty
from wsbridge.config.urls import Scheme, Target, read_target
from wsbridge.log.logger import log
from wsbridge.net.address import Address, ListeningAddresses, LocalAddress
from wsbridge.protocol.http1 import Request
from wsbridge.protocol.uri import HostPatterns, PathPattern
from wsbridge.reasons import Reason, Rejected
from wsbridge.reloading_file import ReloadingFile, load_now
from wsbridge.worker_thread import NoThreadError, run_in_thread


class TokensBackendConfig(BackendSectionBase):
    """Target tokens from a file, in websockify's formats."""

    tokens: UncheckedPath
    """Token file with lines "token: host:port" (or unix_socket:/path), or a directory of such files."""
    token_from: TargetTokenSource = "query.token"  # noqa: S105 (a place, no secret)
    """Where the token is read from: query.NAME, cookie.NAME, the NAME of a segment of match.path, claims.NAME or
    identity."""
    format: Literal["lines", "files"] = "lines"
    """lines: one token per line. files: a directory of files named by their token, each with one host:port."""

    @property
    def kind(self) -> str:
        """See `BackendSectionBase.kind`."""
        return "tokens"

    @property
    def text(self) -> str:
        """See `BackendSectionBase.text`."""
        return f"tokens of {self.tokens}"

    @property
    def fields(self) -> tuple[str, ...]:
        """See `BackendSectionBase.fields`."""
        return (self.token_from,)

    @property
    def reads_cookies(self) -> bool:
        """See `BackendSectionBase.reads_cookies`."""
        return self.token_from.startswith(COOKIE_FIELD_PREFIX)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check whether the list can be used."""
        if context.check_files:
            try:
                load_now(self.tokens, TokenFileReader(self.format))
            except (ValueError, OSError) as error:
                text = f"{self.tokens}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
                yield Issue(("tokens",), text, "E033")

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of a list that others can read, and of bad files in a directory."""
        if not context.check_files:
            return
        with contextlib.suppress(OSError):  # it may be gone again
            if self.tokens.stat().st_mode & stat.S_IROTH:
                yield Issue(("tokens",), f"every user of this host can read the tokens in {self.tokens}", "W012")
        reader = TokenFileReader(self.format)
        with contextlib.suppress(OSError, ValueError):  # reported by `validate_values`
            load_now(self.tokens, reader)
        for problem in reader.problems:
            yield Issue(("tokens",), f"{problem}; it is ignored", "W018")


class TargetFromIdentityConfig(BackendSectionBase):
    """Target given by the client's identity."""

    url: Annotated[
        Literal["{target}"], PlainValidator(lambda _: IDENTITY_TARGET), WithJsonSchema({"const": IDENTITY_TARGET})
    ] = IDENTITY_TARGET
    """{target}: the URL given by forward authentication or by a ticket."""
    schemes: Annotated[tuple[Scheme, ...], AfterValidator(non_empty), AfterValidator(check_unique)] = (
        "tcp",
        "tls",
        "unix",
        "ws",
        "wss",
    )
    """Allowed URL schemes; others are rejected."""

    @property
    def kind(self) -> str:
        """See `BackendSectionBase.kind`."""
        return "target"

    @property
    def text(self) -> str:
        """See `BackendSectionBase.text`."""
        return IDENTITY_TARGET

    @property
    def fields(self) -> tuple[str, ...]:
        """See `BackendSectionBase.fields`."""
        return ("target",)


class DynamicBackend:
    """See `Backend`. It has one of each kind that may be chosen, and dials by the one of the target.

    Raises:
        TlsError: The authorities of the system cannot be used.
    """

    def __init__(self, config: TokensBackendConfig | TargetFromIdentityConfig, services: DialServices) -> None:
        self.name = config.text
        schemes = config.schemes if isinstance(config, TargetFromIdentityConfig) else ("tcp", "unix")
        self._by_scheme = {scheme: _build_backend(scheme, services) for scheme in schemes}

    def connect_nowait(self, dial_request: DialRequest) -> Connected | None:
        """See `Backend.connect_nowait`."""
        return self._backend_for(dial_request.chosen).connect_nowait(dial_request)

    def local_address(self, chosen: ChosenTarget | None) -> LocalAddress | None:
        """See `Backend.local_address`."""
        return self._backend_for(chosen).local_address(chosen)

    async def dial(self, dial_request: DialRequest) -> Connected:
        """See `Backend.dial`."""
        return await self._backend_for(dial_request.chosen).dial(dial_request)

    def _backend_for(self, chosen: ChosenTarget | None) -> Backend:
        assert chosen is not None  # noqa: S101 (such a backend is only dialled with a target)
        return self._by_scheme[chosen.target.scheme]


def _build_backend(scheme: Scheme, services: DialServices) -> Backend:
    url = UrlTemplate(scheme, IDENTITY_TARGET, 0, "", IDENTITY_TARGET)
    if scheme == "tcp":
        return TcpBackend(TcpBackendConfig(url=url), services)
    if scheme == "tls":
        return TlsBackend(TlsBackendConfig(url=url), services)
    if scheme == "unix":
        return UnixBackend(UnixBackendConfig(url=url), services)
    return WebSocketBackend(WebSocketBackendConfig(url=url), services)


MAX_TARGET_URL_LENGTH: Final = 2048
"""Maximum length of the URL of an identity, in characters."""


class UnknownTokenError(ValueError):
    """A token that is not in the list, which counts as a failed login: it may be a guess."""


class TargetSelector(Protocol):
    """Selects the target of a client.

    Attributes:
        names_sockets: Whether clients name Unix sockets, so that one that is not there is no trouble of the backend.
        redacts: Whether requests may have a token in their target.
    """

    names_sockets: bool
    redacts: bool

    async def select(self, request: Request | None, identity: Identity) -> Target:
        """Return the target of a client.

        Raises:
            ValueError: It has none; one sentence for the log that quotes nothing the client sent.
        """

    def redact_target(self, target: str) -> str:
        """Return the target of a request with its token redacted."""

    def target_token(self, request: Request | None, identity: Identity) -> str | None:
        """Return the target token of the client, if it is in the token file."""


class TemplateTarget:
    """A target made from a URL template."""

    def __init__(self, template: UrlTemplate, path: PathPattern | None, hosts: HostPatterns | None = None) -> None:
        self._template = template
        self._path = path
        self._hosts = hosts
        self.redacts = self.names_sockets = template.scheme == "unix"

    async def select(self, request: Request | None, identity: Identity) -> Target:
        """See `TargetSelector.select`."""
        values = {
            field: field_value(field, request, self._path, identity, self._hosts) for field in self._template.fields
        }
        return fill_template(self._template, values)

    def redact_target(self, target: str) -> str:
        """See `TargetSelector.redact_target`: the name of a socket may be used as a token."""
        for field in self._template.fields if self.names_sockets else ():
            target = redact_field(target, self._path, field)
        return target

    def target_token(self, request: Request | None, identity: Identity) -> None:
        """See `TargetSelector.target_token`: there is no token file."""


class TokenFileTarget:
    """A target looked up in a token file.

    Raises:
        ValueError: The list cannot be read.
    """

    def __init__(self, config: TokensBackendConfig, path: PathPattern | None) -> None:
        self._token_from = config.token_from
        self._path = path
        self._reader = TokenFileReader(config.format)
        self._tokens: ReloadingFile[Mapping[str, Target]] = ReloadingFile(config.tokens, self._load)
        self.names_sockets = False
        self.redacts = True

    def _load(self, path: Path) -> Mapping[str, Target]:
        """Read the file and log its new problems; runs in a thread."""
        known = self._reader.problems
        targets = self._reader(path)
        for problem in self._reader.problems:
            if problem not in known:
                log.error("file.reload_failed", file=str(path), detail=problem)
        return targets

    async def select(self, request: Request | None, identity: Identity) -> Target:
        """See `TargetSelector.select`."""
        token = field_value(self._token_from, request, self._path, identity)
        asked = trio.current_time()
        found = (await self._tokens.get()).get(token) or (await self._tokens.get_newer(asked)).get(token)
        if found is None:
            raise UnknownTokenError("the token is not in the list")
        return found

    def redact_target(self, target: str) -> str:
        """See `TargetSelector.redact_target`."""
        return redact_field(target, self._path, self._token_from)

    def target_token(self, request: Request | None, identity: Identity) -> str | None:
        """See `TargetSelector.target_token`: uses the file as it was last read."""
        try:
            token = field_value(self._token_from, request, self._path, identity)
        except ValueError:
            return None
        return token if token in self._tokens.current else None


class IdentityTarget:
    """The target given by the identity of a client."""

    names_sockets = False
    redacts = False

    def __init__(self, config: TargetFromIdentityConfig) -> None:
        self._schemes = config.schemes

    async def select(self, request: Request | None, identity: Identity) -> Target:
        """See `TargetSelector.select`."""
        if identity.target is None:
            raise ValueError("no target goes with the identity")
        target = parse_identity_target(identity.target)
        if target.scheme not in self._schemes:
            raise ValueError(f"{target.scheme} is none of the schemes of the backend")
        return target

    def redact_target(self, target: str) -> str:
        """See `TargetSelector.redact_target`: the request has no token."""
        return target

    def target_token(self, request: Request | None, identity: Identity) -> None:
        """See `TargetSelector.target_token`: there is no token file."""


def build_selector(
    backend: BackendSectionBase, path: PathPattern | None, hosts: HostPatterns | None = None
) -> TargetSelector:
    """Build the selector of a backend that clients choose.

    Raises:
        ValueError: Its list of tokens cannot be read.
    """
    if isinstance(backend, TokensBackendConfig):
        return TokenFileTarget(backend, path)
    if isinstance(backend, TargetFromIdentityConfig):
        return IdentityTarget(backend)
    assert isinstance(backend, UrlBackendSection) and isinstance(backend.url, UrlTemplate)  # noqa: S101 (no other has fields)
    return TemplateTarget(backend.url, path, hosts)


def parse_identity_target(url: str) -> Target:
    """Parse the URL of an identity.

    Raises:
        ValueError: It cannot be dialled; one sentence that does not quote it.
    """
    if len(url) > MAX_TARGET_URL_LENGTH:
        raise ValueError(f"the identity's target has {len(url)} characters, and the maximum is {MAX_TARGET_URL_LENGTH}")
    try:
        target = read_target(url)
    except ValueError:
        raise ValueError("the identity's target is no URL of tcp, tls, unix, ws or wss") from None
    if target.scheme == "unix":
        return unix_target(target.path)
    return host_target(target.scheme, parse_host(target.host), target.port, target.path)


MAX_SOCKET_LOOKUPS: Final = 8
"""Concurrent checks of Unix sockets."""


class TargetPolicy(Protocol):
    """Selects and checks the targets of one route, for all connections of a generation.

    Attributes:
        redacts: Whether requests may have a token in their target.
        is_fixed: Whether there is nothing to choose, so that only an identity with a target of its own is checked.
    """

    redacts: bool
    is_fixed: bool

    async def select(self, request: Request | None, identity: Identity) -> ChosenTarget | None:
        """Find the target of one client.

        Args:
            request: Its request; None for plain TCP.
            identity: The authenticated client.

        Returns:
            What to dial; None for the one target of the route.

        Raises:
            Rejected: The client may not reach what it chose.
        """

    def redact_target(self, target: str) -> str:
        """Return the target of a request for the log, with its token redacted."""

    def target_token(self, request: Request | None, identity: Identity) -> str | None:
        """Return the target token of the client, if it is in the token file."""


class FixedTarget:
    """Policy of a route with a fixed backend; an identity may still be limited to another target."""

    redacts = False
    is_fixed = True

    def __init__(self, target: Target, passer: RequestPasser | None = None) -> None:
        self._target = target
        self._passer = passer

    async def select(self, request: Request | None, identity: Identity) -> None:
        """See `TargetPolicy.select`; a path or query that is passed on is part of the target."""
        target = self._target
        if identity.target is not None and self._passer is not None and request is not None:
            target = replace(target, path=self._passer.extract(request).add_to(target.path))
        try:
            _check_identity_target(target, identity)
        except ValueError as error:
            raise _forbidden(error) from None

    def redact_target(self, target: str) -> str:
        """See `TargetPolicy.redact_target`: the request has no token."""
        return target

    def target_token(self, request: Request | None, identity: Identity) -> None:
        """See `TargetPolicy.target_token`: there is no token file."""


class DynamicTarget:
    """Policy of a route whose clients choose the target.

    Args:
        selector: Selects the target of a client.
        rules: The allowed targets.
        listening_addresses: What this process listens at.
    """

    is_fixed = False

    def __init__(self, selector: TargetSelector, rules: TargetRules, listening_addresses: ListeningAddresses) -> None:
        self.redacts = selector.redacts
        self._selector = selector
        self._rules = rules
        self._listening_addresses = listening_addresses
        self._limiter: trio.CapacityLimiter | None = None

    async def select(self, request: Request | None, identity: Identity) -> ChosenTarget:
        """See `TargetPolicy.select`."""
        try:
            target = await self._selector.select(request, identity)
            _check_identity_target(target, identity)
        except UnknownTokenError as error:
            raise Rejected(Reason.FORBIDDEN, str(error), failed_login=True) from None
        except ValueError as error:
            raise _forbidden(error) from None
        wrong = None if target.scheme == "unix" else self._rules.check(target)
        if wrong is not None:
            raise _forbidden(wrong)
        return SelectedTarget(target, self)

    def redact_target(self, target: str) -> str:
        """See `TargetPolicy.redact_target`."""
        return self._selector.redact_target(target)

    def target_token(self, request: Request | None, identity: Identity) -> str | None:
        """See `TargetPolicy.target_token`."""
        return self._selector.target_token(request, identity)

    def check_address(self, target: Target, address: Address) -> str | None:
        """Check an address of a target."""
        return self._rules.check_address(address, found_by_name=not is_ip_literal(target.host))

    async def resolve_socket(self, target: Target) -> str:
        """Find the real path of a socket, in a thread, and check it."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(MAX_SOCKET_LOOKUPS)
        is_own = (lambda path: False) if self._rules.allow_own_listeners else self._listening_addresses.contains_path
        look = partial(
            resolve_socket_path,
            target.path,
            self._rules.socket_directories,
            is_own,
            must_exist=self._selector.names_sockets,
        )
        try:
            return await run_in_thread(look, self._limiter)
        except ValueError as error:
            raise _forbidden(error) from None
        except NoThreadError as error:
            raise Rejected(Reason.OVERLOAD, str(error.strerror), initiator="wsbridge") from None


class SelectedTarget:
    """See `wsbridge.backends.base.ChosenTarget`."""

    __slots__ = ("_policy", "target")

    def __init__(self, target: Target, policy: DynamicTarget) -> None:
        self.target = target
        self._policy = policy

    def check_address(self, address: Address) -> str | None:
        """See `ChosenTarget.check_address`."""
        return self._policy.check_address(self.target, address)

    async def resolve_path(self) -> str:
        """See `ChosenTarget.resolve_path`."""
        return await self._policy.resolve_socket(self.target)


def build_target_policy(
    route: model.RouteConfig,
    path: PathPattern | None,
    listening_addresses: ListeningAddresses,
    passer: RequestPasser | None = None,
    hosts: HostPatterns | None = None,
) -> TargetPolicy | None:
    """Build the policy of a route; reads its token file.

    Args:
        route: Checked.
        path: What its requests match.
        listening_addresses: What this process listens at.
        passer: What of a request the backend gets.
        hosts: What its requests match.

    Returns:
        None where there is no backend, or one that every authenticated client may reach.

    Raises:
        ValueError: The list cannot be read.
    """
    if route.backend is None:
        return None
    if route.allowed_targets is not None:
        return DynamicTarget(
            build_selector(route.backend, path, hosts),
            TargetRules(route.allowed_targets, listening_addresses.contains),
            listening_addresses,
        )
    if route.auth is None or not route.auth.identifies_clients():
        return None
    assert isinstance(route.backend, UrlBackendSection)  # noqa: S101 (all others need targets)
    return FixedTarget(route.backend.url, passer)


def _check_identity_target(target: Target, identity: Identity) -> None:
    """Reject a target that differs from the one of the identity, if that has one."""
    if identity.target is not None and _normalize_target(target) != _normalize_target(
        parse_identity_target(identity.target)
    ):
        raise ValueError("the identity is for another target")


def _normalize_target(target: Target) -> tuple[str, str, int, str, str]:
    """Return the normal form in which targets are compared."""
    path = posixpath.normpath(target.path) if target.scheme == "unix" else target.path
    return target.scheme, target.host.lower().removesuffix("."), target.port, path, target.socket_path


def _forbidden(problem: object) -> Rejected:
    return Rejected(Reason.FORBIDDEN, str(problem))
