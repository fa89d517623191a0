"""By asking a service: its answer over HTTP lets a client in, and says who he is.

Lives here: the section behind `auth: {kind: forward, …}` and the class: what is sent and what an answer means. Must not
live here: connections to the service (`net.http_client`), answers that are kept (`forward_cache`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import trio
from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.forward_cache import ForwardCache
from wsbridge.auth.identity import Denied, Identity
from wsbridge.config.address import read_target
from wsbridge.config.choice import unique
from wsbridge.config.extra import missing
from wsbridge.config.http_url import HttpPath, HttpService
from wsbridge.config.scalars import DurationOrOff, FilePath, Flag, Name, PositiveCount, PositiveDuration, at_most
from wsbridge.config.section import AuthSection, Context, Fault
from wsbridge.config.text import WORD, HeaderName, read_header_name
from wsbridge.net import tls
from wsbridge.protocol.head import Headers, Request
from wsbridge.reasons import Reason

BODY: Final = 16 * 1024
"""Bytes of an answer's body that are read, so that its connection can be used again."""
PATIENCE: Final = 0.1
"""Seconds in which they must come; the head is what counts."""
LONGEST: Final = 1024
"""Characters of a value that is taken from an answer."""
MOST_CHALLENGES: Final = 4

_OWN = re.compile(r"x-forwarded-.*|forwarded|proxy-.*|keep-alive|expect|content-.*", re.IGNORECASE)
_CREDENTIAL = re.compile(rb"authorization|cookie|.*(auth|token|key|secret).*")
"""Names of headers that show who somebody is."""
_SENDABLE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_CHALLENGE = re.compile(rb"[\x20-\x7e]{1,512}")


def read_passed_on(value: object) -> str:
    """Read the name of a header of a client's request that may be passed on."""
    name = read_header_name(value)
    if _OWN.fullmatch(name):
        raise ValueError(f'"{name}" is never passed on')
    return name


def unique_names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no header stands twice in a list."""
    unique(tuple(value.lower() for value in values))
    return values


PassedOn = Annotated[str, PlainValidator(read_passed_on), WithJsonSchema({"type": "string", "pattern": f"^{WORD}$"})]


class ForwardConfig(AuthSection):
    """A service that is asked about each request."""

    kind: Literal["forward"] = "forward"
    """forward: a service is asked, by a GET request."""
    url: HttpService
    """The service: http://host/path, https://host/path, or unix:/path of its socket."""
    path: HttpPath | None = None
    """What to ask for at the socket, such as /auth; needed for unix, and only there."""
    headers: Annotated[tuple[PassedOn, ...], AfterValidator(unique_names)] = ()
    """Headers of the client's request that are passed on, such as Authorization and Cookie."""
    identity_header: HeaderName | None = None
    """Header of the answer that names who the client is; it must be there. Left out: he has no name."""
    target_header: HeaderName | None = None
    """Header of the answer with the URL of the one target that he may reach; it must be there."""
    claims: dict[Name, HeaderName] = Field(default_factory=dict)
    """What else is known of him, by names of your choice: the header of the answer that has it."""
    timeout: PositiveDuration = 2.0
    """How long the answer may take; none lets nobody in."""
    connections: Annotated[PositiveCount, AfterValidator(at_most(1024))] = 32
    """Connections to the service at a time; more requests wait for one within timeout."""
    cache: DurationOrOff = None
    """How long an answer that lets in holds for requests that are the same in all that is sent."""
    cache_size: Annotated[PositiveCount, AfterValidator(at_most(1_000_000))] = 1024
    """Answers that are kept; past it, the oldest is forgotten."""
    ca: FilePath | None = None
    """PEM file of the authorities to trust. Left out: those of the system."""
    insecure: Flag = False
    """true verifies neither certificate nor name: anybody on the way can let in everybody."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Keep the keys of sockets to sockets, and those of TLS to TLS."""
        url = str(written.get("url", "")).lower()
        if url.startswith("unix:") and "path" not in written:
            yield Fault(("path",), "is missing: what to ask for at the socket, such as /auth", "E011")
        if not url.startswith("unix:") and "path" in written:
            yield Fault(("path",), "is for unix: write the path into the URL", "E013", at_key=True)
        if not url.startswith("https:"):
            for key in ("ca", "insecure"):
                if key in written:
                    yield Fault((key,), "means nothing without TLS: write https:// in the URL", "E013", at_key=True)

    def faults(self, context: Context) -> Iterable[Fault]:
        """Tell what is not installed, and whether the authorities can be used."""
        yield from missing(context, "h11")
        yield from tls.authority_faults(self.ca, context)

    def cautions(self, context: Context) -> Iterable[Fault]:
        """Warn of a service that is not verified, and of what everybody on the way can read."""
        if self.insecure:
            text = "neither certificate nor name is verified: anybody on the way can let in everybody"
            yield Fault(("insecure",), text, "W002")
        if self.url.scheme == "http" and not self.url.is_loopback:
            text = f"what clients send goes to {self.url.host} without TLS: everybody on the way can read it"
            yield Fault(("url",), f"{text}, and let in everybody", "W004")

    def takes_cookies(self) -> bool:
        """See `AuthSection.takes_cookies`: if cookies are passed on."""
        return "cookie" in (name.lower() for name in self.headers)


class Forward:
    """See `wsbridge.auth.auth.Auth`.

    Raises:
        TlsError: The file of authorities cannot be used.
    """

    def __init__(self, config: ForwardConfig, lent: Lent) -> None:
        from wsbridge.net.http_client import HttpClient

        self._config = config
        self._path = config.path or config.url.path
        self._passed_on = [name.lower().encode("ascii") for name in config.headers]
        self._cache = ForwardCache(config.cache, config.cache_size)
        secure = config.url.scheme == "https"
        context = tls.client_context(config.ca, insecure=config.insecure) if secure else None
        self._client = HttpClient(config.url, lent.resolver, context, config.connections)
        lent.background.start(self._close)

    async def _close(self) -> None:
        """Close the connections when the server ends."""
        try:
            await trio.sleep_forever()
        finally:
            await self._client.aclose()

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Ask the service."""
        request = caller.request
        if request is None:
            return Denied("plain TCP has no request that a service could be asked about")
        passed_on = [(name, value) for name in self._passed_on for value in request.headers.get_all(name)]
        lines = [*_described(caller, request), *passed_on]
        if not all(_SENDABLE.fullmatch(value) for _, value in lines):
            return Denied("the request has a control character in a header that is passed on", tried=True)
        key = self._cache.key(lines)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        answer = None
        with trio.move_on_after(self._config.timeout):
            answer = await self._client.get(self._path, lines, BODY, PATIENCE)
        if answer is None:
            return self._unavailable(f"no answer within timeout, {self._config.timeout:g} s")
        if isinstance(answer, str):
            return Denied(answer, Reason.AUTH_UNAVAILABLE)
        if answer.status in (401, 403):
            detail = f"{self._config.url}: answered with status {answer.status}"
            tried = any(_CREDENTIAL.fullmatch(name) for name, _ in passed_on)
            return Denied(detail, tried=tried, challenges=_challenges(answer.headers))
        if not 200 <= answer.status <= 299:
            return self._unavailable(f"answered with status {answer.status}, which says neither yes nor no")
        found = self._identity(answer.headers, by_cookie=any(name == b"cookie" for name, _ in passed_on))
        if isinstance(found, Identity):
            self._cache.put(key, found)
        return found

    def _identity(self, headers: Headers, *, by_cookie: bool) -> Identity | Denied:
        """Take who the client is from an answer that lets him in; what is not clear lets nobody in."""
        config = self._config
        try:
            name = "" if config.identity_header is None else _value(headers, config.identity_header, needed=True)
            target = None if config.target_header is None else _value(headers, config.target_header, needed=True)
            claims = {claim: _value(headers, header) for claim, header in config.claims.items()}
            if target is not None:
                _check_target(target, config.target_header or "")
        except ValueError as error:
            return self._unavailable(str(error))
        known = {claim: value for claim, value in claims.items() if value is not None}
        return Identity(name or "", "forward", known, target=target, by_cookie=by_cookie)

    def _unavailable(self, detail: str) -> Denied:
        return Denied(f"{self._config.url}: {detail}", Reason.AUTH_UNAVAILABLE)


def _described(caller: Caller, request: Request) -> list[tuple[bytes, bytes]]:
    """Describe a request in headers, as proxies do."""
    lines = [
        (b"X-Forwarded-Method", request.method.encode("latin-1")),
        (b"X-Forwarded-Uri", request.target.encode("latin-1")),
        (b"X-Forwarded-Host", request.host().encode("ascii")),
        (b"X-Forwarded-Proto", b"https" if caller.tls else b"http"),
    ]
    if caller.peer.host:
        lines.append((b"X-Forwarded-For", caller.peer.host.encode("ascii")))
    return [*lines, *((b"Origin", value) for value in request.headers.get_all(b"origin"))]


def _value(headers: Headers, name: str, *, needed: bool = False) -> str | None:
    """Take one value from an answer.

    Raises:
        ValueError: It is not clear, or is needed and not there.
    """
    values = headers.get_all(name.lower().encode("ascii"))
    if len(values) > 1:
        raise ValueError(f"answered with {len(values)} headers {name}")
    text = values[0].decode("utf-8", "replace") if values else ""
    if not text:
        if needed:
            raise ValueError(f"answered without {name}")
        return None
    if len(text) > LONGEST or not text.isprintable() or "\ufffd" in text:
        raise ValueError(f"answered with a {name} that is no printable text of {LONGEST} characters at most")
    return text


def _check_target(target: str, name: str) -> None:
    try:
        read_target(target)
    except ValueError:
        raise ValueError(f"answered with a {name} that is no URL of a backend") from None


def _challenges(headers: Headers) -> tuple[str, ...]:
    """Pass on how to ask again."""
    values = headers.get_all(b"www-authenticate")[:MOST_CHALLENGES]
    return tuple(value.decode("ascii") for value in values if _CHALLENGE.fullmatch(value))
