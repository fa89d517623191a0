"""External auth service and its cache."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, Literal

import trio
from pydantic import AfterValidator, Field

from wsbridge.auth.base import AuthServices
from wsbridge.auth.identity import Identity, auth_unavailable, unauthenticated
from wsbridge.config.base import AuthSection, Credential, Issue, LoadContext
from wsbridge.config.paths import FilePath
from wsbridge.config.types import (
    DurationOrOff,
    Flag,
    HeaderName,
    Name,
    PassedHeaders,
    PositiveCount,
    PositiveDuration,
    at_most,
)
from wsbridge.config.urls import HttpPath, HttpServiceUrl, read_target
from wsbridge.context import ConnectionContext
from wsbridge.log.format import redact
from wsbridge.net import tls
from wsbridge.protocol.http1 import Headers, Request
from wsbridge.reasons import Rejected
from wsbridge.taskless import need_task
from wsbridge.ttl_cache import TtlCache


class ForwardCache:
    """Positive responses of the service, by everything that was sent to it.

    Args:
        ttl: Seconds for which one is used; None: nothing is cached.
        size: How many there may be.
        clock: Seconds by which they expire.
    """

    def __init__(self, ttl: float | None, size: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._ttl = ttl
        self._secret = os.urandom(32)
        self._entries: TtlCache[bytes, Identity] = TtlCache(size, clock)

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, lines: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the hash of all header lines, with the bounds between their parts."""
        digest = hmac.new(self._secret, digestmod=hashlib.sha256)
        if self._ttl is not None:
            for part in (part for line in lines for part in line):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def get(self, key: bytes) -> Identity | None:
        """Return a cached identity that is still valid."""
        return self._entries.get(key)

    def put(self, key: bytes, identity: Identity) -> None:
        """Cache an identity."""
        if self._ttl is not None:
            self._entries.put(key, identity, self._ttl)


MAX_AUTH_BODY_BYTES: Final = 16 * 1024
"""Bytes of an answer's body that are read, so that its connection can be used again."""
AUTH_BODY_TIMEOUT: Final = 0.1
"""Seconds in which they must come; the head is what counts."""
MAX_AUTH_VALUE_LENGTH: Final = 1024
"""Maximum length of a value that is read from a response, in characters."""
MAX_CHALLENGES: Final = 4

_CREDENTIAL_HEADERS = re.compile(rb"authorization|.*(auth|token|key|secret).*")
"""Names of headers that carry credentials. Cookies are not among them: a browser sends some with every request, also
when their user is logged out."""
_VALID_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_CHALLENGE = re.compile(rb"[\x20-\x7e]{1,512}")


class ForwardConfig(AuthSection):
    """Forward authentication by an external HTTP service."""

    kind: Literal["forward"] = "forward"
    """forward: a GET request to an external service."""
    url: HttpServiceUrl
    """Service URL: http://host/path, https://host/path, or unix:/path of a socket."""
    path: HttpPath | None = None
    """Request path for a unix: URL, such as /auth; required for unix, not allowed otherwise."""
    headers: PassedHeaders = ()
    """Headers of the client's request that are forwarded, such as Authorization and Cookie."""
    identity_header: HeaderName | None = None
    """Response header with the client's name; it must be present. Default: the identity has no name."""
    target_header: HeaderName | None = None
    """Response header with the URL of the only target that the client may reach; it must be present."""
    claims: dict[Name, HeaderName] = Field(default_factory=dict)
    """Further claims of the identity: a claim name for each response header."""
    timeout: PositiveDuration = 2.0
    """Timeout of the service; access is denied when it expires."""
    connections: Annotated[PositiveCount, AfterValidator(at_most(1024))] = 32
    """Concurrent connections to the service; further requests wait for one within timeout."""
    cache: DurationOrOff = None
    """How long a positive answer is cached for identical requests to the service."""
    cache_size: Annotated[PositiveCount, AfterValidator(at_most(1_000_000))] = 1024
    """Maximum number of cached answers; the oldest is dropped first."""
    ca: FilePath | None = None
    """CA bundle (PEM) to verify the server. Default: the system trust store."""
    insecure: Flag = False
    """true disables certificate verification: a man in the middle can grant access to anybody."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Keep the keys of sockets to sockets, and those of TLS to TLS."""
        url = str(raw.get("url", "")).lower()
        if url.startswith("unix:") and "path" not in raw:
            yield Issue(("path",), "is missing: what to ask for at the socket, such as /auth", "E011")
        if not url.startswith("unix:") and "path" in raw:
            yield Issue(("path",), "is for unix: write the path into the URL", "E013", at_key=True)
        if not url.startswith("https:"):
            for key in ("ca", "insecure"):
                if key in raw:
                    yield Issue((key,), "means nothing without TLS: write https:// in the URL", "E013", at_key=True)

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check whether the authorities can be used."""
        yield from tls.validate_ca(self.ca, context)

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of a service that is not verified, and of what everybody on the network path can read."""
        if self.insecure:
            text = "neither certificate nor name is verified: anybody on the network path can authenticate as anybody"
            yield Issue(("insecure",), text, "W002")
        if self.url.scheme == "http" and not self.url.is_loopback:
            text = f"what clients send goes to {self.url.host} without TLS: everybody on the network path can read it"
            yield Issue(("url",), f"{text}, and authenticate as anybody", "W004")

    def credentials(self) -> Iterable[Credential]:
        """See `AuthSection.credentials`: what the service gets."""
        return [("header", name.lower()) for name in self.headers]

    def accepts_cookies(self) -> bool:
        """See `AuthSection.accepts_cookies`: if cookies are forwarded."""
        return "cookie" in (name.lower() for name in self.headers)

    def accepts_cross_site_credentials(self) -> bool:
        """See `AuthSection.accepts_cross_site_credentials`: the service sees the query."""
        return True


class ForwardAuth:
    """See `wsbridge.auth.base.Authenticator`.

    Raises:
        TlsError: The file of authorities cannot be used.
    """

    def __init__(self, config: ForwardConfig, services: AuthServices) -> None:
        from wsbridge.net.http_client import HttpClient

        self._config = config
        self._path = config.path or config.url.path
        self._passed_headers = [name.lower().encode("ascii") for name in config.headers]
        self._cache = ForwardCache(config.cache, config.cache_size)
        if config.url.scheme == "https":
            watched = tls.watched_client_context(
                services.watcher, tls.ClientTlsOptions(config.ca, insecure=config.insecure)
            )
            self._client = HttpClient(config.url, services.resolver, lambda: watched.current, config.connections)
        else:
            self._client = HttpClient(config.url, services.resolver, max_connections=config.connections)
        services.background_tasks.start(self._client.run)

    async def identify(self, context: ConnectionContext) -> Identity:
        """Ask the service."""
        request = context.request
        if request is None:
            raise unauthenticated("plain TCP has no request that a service could be asked about")
        passed_on = [(name, value) for name in self._passed_headers for value in request.headers.get_all(name)]
        lines = [*_forwarded_headers(context, request), *passed_on]
        if not all(_VALID_VALUE.fullmatch(value) for _, value in lines):
            raise unauthenticated("a header that is passed on has a control character", failed_login=True)
        key = self._cache.key(lines)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        answer = None
        await need_task()
        with trio.move_on_after(self._config.timeout):
            answer = await self._client.get(self._path, lines, MAX_AUTH_BODY_BYTES, AUTH_BODY_TIMEOUT)
        if answer is None:
            raise self._unavailable(f"no answer within timeout, {self._config.timeout:g} s")
        if isinstance(answer, str):
            raise auth_unavailable(answer)
        if answer.status in (401, 403):
            detail = f"{self._config.url}: answered with status {answer.status}"
            in_query = redact(request.target) != request.target
            presented = in_query or any(_CREDENTIAL_HEADERS.fullmatch(name) for name, _ in passed_on)
            raise unauthenticated(detail, failed_login=presented, challenges=_challenges(answer.headers))
        if not 200 <= answer.status <= 299:
            raise self._unavailable(f"answered with status {answer.status}, which says neither yes nor no")
        found = self._parse_identity(answer.headers, by_cookie=any(name == b"cookie" for name, _ in passed_on))
        self._cache.put(key, found)
        return found

    def _parse_identity(self, headers: Headers, *, by_cookie: bool) -> Identity:
        """Read the identity from a response that grants access; an unclear response denies it."""
        config = self._config
        try:
            name = (
                "" if config.identity_header is None else _single_header(headers, config.identity_header, required=True)
            )
            target = (
                None if config.target_header is None else _single_header(headers, config.target_header, required=True)
            )
            claims = {claim: _single_header(headers, header) for claim, header in config.claims.items()}
            if target is not None:
                _check_target(target, config.target_header or "")
        except ValueError as error:
            raise self._unavailable(str(error)) from None
        known = {claim: value for claim, value in claims.items() if value is not None}
        return Identity(name or "", "forward", known, target=target, by_cookie=by_cookie)

    def _unavailable(self, detail: str) -> Rejected:
        return auth_unavailable(f"{self._config.url}: {detail}")


def _forwarded_headers(context: ConnectionContext, request: Request) -> list[tuple[bytes, bytes]]:
    """Describe a request in headers, as proxies do."""
    lines = [
        (b"X-Forwarded-Method", request.method.encode("latin-1")),
        (b"X-Forwarded-Uri", request.target.encode("latin-1")),
        (b"X-Forwarded-Host", request.host.encode("ascii")),
        (b"X-Forwarded-Proto", b"https" if context.tls else b"http"),
    ]
    if context.peer.host:
        lines.append((b"X-Forwarded-For", context.peer.host.encode("ascii")))
    return [*lines, *((b"Origin", value) for value in request.headers.get_all(b"origin"))]


def _single_header(headers: Headers, name: str, *, required: bool = False) -> str | None:
    """Return the value of a header of a response.

    Raises:
        ValueError: It is not clear, or is needed and not there.
    """
    values = headers.get_all(name.lower().encode("ascii"))
    if len(values) > 1:
        raise ValueError(f"answered with {len(values)} headers {name}")
    text = values[0].decode("utf-8", "replace") if values else ""
    if not text:
        if required:
            raise ValueError(f"answered without {name}")
        return None
    if len(text) > MAX_AUTH_VALUE_LENGTH or not text.isprintable() or "\ufffd" in text:
        raise ValueError(
            f"answered with a {name} that is no printable text of {MAX_AUTH_VALUE_LENGTH} characters at most"
        )
    return text


def _check_target(target: str, name: str) -> None:
    try:
        read_target(target)
    except ValueError:
        raise ValueError(f"answered with a {name} that is no URL of a backend") from None


def _challenges(headers: Headers) -> tuple[str, ...]:
    """Pass on how to ask again."""
    values = headers.get_all(b"www-authenticate")[:MAX_CHALLENGES]
    return tuple(value.decode("ascii") for value in values if _CHALLENGE.fullmatch(value))
