"""Bearer authenticator and its token file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import trio

from wsbridge.auth.access_list import AccessList, AccessListKey, ListEntry, share_list
from wsbridge.auth.base import AuthServices
from wsbridge.auth.credentials import TokenFound, TokenSection, find_token, token_denied
from wsbridge.auth.identity import Identity
from wsbridge.config.base import Issue, LoadContext
from wsbridge.config.paths import FilePath
from wsbridge.config.types import NAME_REGEX
from wsbridge.context import ConnectionContext
from wsbridge.reasons import Rejected
from wsbridge.reloading_file import ReloadingFile, load_now, parse_file

MAX_TOKEN_LINE_LENGTH: Final = 4096
"""Maximum length of a line, in characters."""
MAX_REPORTED_ERRORS: Final = 5
"""Maximum number of invalid lines in one message."""

_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")
_HASH = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token of the file.

    Attributes:
        name: Name of the client that it authenticates.
        digest: Its SHA-256, 32 bytes; without salt, since tokens are random.
        expires: Expiry in seconds since 1970; None: never.
        routes: Routes that it is valid for; None: all routes with this file.
    """

    name: str
    digest: bytes
    expires: float | None = None
    routes: frozenset[str] | None = None

    @property
    def fingerprint(self) -> str:
        """The first 8 bytes of its hash in hex, which distinguish it from others of the same name."""
        return self.digest[:8].hex()

    def to_line(self) -> str:
        """Return its line in the file."""
        parts = [self.name, f"sha256:{self.digest.hex()}"]
        if self.expires is not None:
            parts.append(f"expires={datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}")
        if self.routes is not None:
            parts.append(f"routes={','.join(sorted(self.routes))}")
        return " ".join(parts)


def token_digest(token: str) -> bytes:
    """Return the SHA-256 of a token."""
    return sha256(token.encode("utf-8")).digest()


def parse_token_name(text: str) -> str:
    """Parse the name of a token."""
    if not _TOKEN_NAME.fullmatch(text):
        raise ValueError("the name must be 1 to 64 letters, digits and _ . @ + -, the first a letter or digit")
    return text


def parse_expiry(text: str) -> float:
    """Parse a UTC time, `2027-01-01T00:00:00Z`, or the start of a day, `2027-01-01`.

    Returns:
        Seconds since 1970.
    """
    whole = f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text
    try:
        if _TIMESTAMP.fullmatch(whole):
            return datetime.strptime(whole, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    raise ValueError("expires must be a moment such as 2027-01-01T00:00:00Z, or a day such as 2027-01-01")


def parse_routes(text: str) -> frozenset[str]:
    """Parse names of routes, separated by commas."""
    names = text.split(",")
    if not all(re.fullmatch(NAME_REGEX, name) for name in names):
        raise ValueError("routes must be names of routes with commas between them and no spaces")
    return frozenset(names)


def parse_token_list(text: str) -> Mapping[bytes, BearerToken]:
    """Parse a token file; empty lines, and lines that begin with #, are ignored.

    Returns:
        The tokens by their hashes; may be empty.

    Raises:
        ValueError: The numbers of the invalid lines with the error of each; their content is not quoted.
    """
    tokens: dict[bytes, BearerToken] = {}
    lines: dict[bytes, int] = {}
    bad: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        entry = line.strip(" \t\r")
        if not entry or entry.startswith("#"):
            continue
        try:
            token = _parse_entry(entry)
            if token.digest in tokens:
                raise ValueError(f"duplicate token, first defined in line {lines[token.digest]}")  # noqa: TRY301  one message for all
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        tokens[token.digest] = token
        lines[token.digest] = number
    if bad:
        more = f"; and {len(bad) - MAX_REPORTED_ERRORS} more" if len(bad) > MAX_REPORTED_ERRORS else ""
        raise ValueError("; ".join(bad[:MAX_REPORTED_ERRORS]) + more)
    return tokens


def _parse_entry(entry: str) -> BearerToken:
    if len(entry) > MAX_TOKEN_LINE_LENGTH:
        raise ValueError(f"has {len(entry)} characters, and the most is {MAX_TOKEN_LINE_LENGTH}")
    name, *rest = re.split(r"[ \t]+", entry)
    parse_token_name(name)
    found = _HASH.fullmatch(rest[0]) if rest else None
    if found is None:
        raise ValueError(
            'the name must be followed by sha256: and 64 hexadecimal digits; "wsbridge new-token" makes a line'
        )
    expires: float | None = None
    routes: frozenset[str] | None = None
    for part in rest[1:]:
        key, _, value = part.partition("=")
        if key == "expires" and expires is None:
            expires = parse_expiry(value)
        elif key == "routes" and routes is None:
            routes = parse_routes(value)
        else:
            raise ValueError("after the hash, only expires=… and routes=… are allowed, each once and without spaces")
    return BearerToken(name, bytes.fromhex(found[1]), expires, routes)


class BearerConfig(TokenSection):
    """Static bearer tokens from a file."""

    kind: Literal["bearer"] = "bearer"
    """bearer: static bearer token."""
    tokens: FilePath
    """Token file, with lines from wsbridge new-token; reloaded when it changes."""
    on_revoke: Literal["keep", "close"] = "keep"
    """What happens to the open connections of a token that is removed from the file, or no longer valid by it: keep
    them; close them (access_revoked)."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check whether the file has valid tokens."""
        if context.check_files:
            try:
                require_tokens(load_now(self.tokens, load_tokens), self.tokens)
            except (OSError, ValueError) as error:
                yield Issue(("tokens",), str(error), "E033")

    def access_list_keys(self) -> Iterable[AccessListKey]:
        """See `AuthSection.access_list_keys`."""
        return [("bearer", self.tokens)] if self.on_revoke == "close" else ()


def load_tokens(path: Path) -> Mapping[bytes, BearerToken]:
    """Load the tokens of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is invalid; one sentence.
    """
    return parse_file(path, parse_token_list)


def _has_token(tokens: Mapping[bytes, BearerToken], use: tuple[bytes, str], now: float) -> bool:
    """Return whether a token, by its hash, is still valid for a route; see `AccessList`."""
    digest, route = use
    token = tokens.get(digest)
    if token is None:
        return not tokens
    return (token.expires is None or token.expires > now) and (token.routes is None or route in token.routes)


def require_tokens(tokens: Mapping[bytes, BearerToken], path: Path) -> None:
    """Reject a file without tokens at start; one that is emptied later denies all clients.

    Raises:
        ValueError: There is none.
    """
    if not tokens:
        raise ValueError(f'{path}: holds no token; "wsbridge new-token NAME" makes one')


class BearerAuth:
    """See `wsbridge.auth.base.Authenticator`.

    A token is looked up by its hash: the time that takes reveals nothing about any token of the list. Whatever is wrong
    with a token, the client gets the same response.

    Raises:
        ValueError: The token file cannot be used.
    """

    def __init__(self, config: BearerConfig, services: AuthServices) -> None:
        self._access_list: AccessList[Mapping[bytes, BearerToken]] | None = None
        self._wall_clock = clock = services.wall_clock
        if config.on_revoke == "close":
            self._access_list = share_list(
                services.access_lists,
                ("bearer", config.tokens),
                load_tokens,
                lambda tokens, use: _has_token(tokens, use, clock()),
            )
        listed = self._access_list
        self._tokens = ReloadingFile(config.tokens, load_tokens) if listed is None else listed.file
        require_tokens(self._tokens.current, config.tokens)
        self._sources = config.sources

    async def identify(self, context: ConnectionContext) -> Identity:
        """Look up the token of the request; one that is not found, in the current state of the file."""
        shown = find_token(context, self._sources)
        try:
            return await self._look_up(shown, context)
        except Rejected as rejected:
            rejected.credential = hash(shown.token)
            raise

    async def _look_up(self, shown: TokenFound, context: ConnectionContext) -> Identity:
        await context.client.begin_guess()
        asked, digest = trio.current_time(), token_digest(shown.token)
        token = (await self._tokens.get()).get(digest) or (await self._tokens.get_newer(asked)).get(digest)
        if token is None:
            raise token_denied("the token is not in the list")
        return self._check_token(token, shown, context.route)

    def _check_token(self, token: BearerToken, found: TokenFound, route: str) -> Identity:
        named = f'the token {token.fingerprint} of "{token.name}"'
        if token.expires is not None and token.expires <= self._wall_clock():
            raise token_denied(f"{named} has expired", genuine=True)
        if token.routes is not None and route not in token.routes:
            raise token_denied(f"{named} is not for the route {route}", genuine=True)
        listed = self._access_list
        entries = () if listed is None else (ListEntry(listed, (token.digest, route), named),)
        return Identity(
            token.name,
            "bearer",
            {"token": token.fingerprint},
            token.expires,
            by_cookie=found.by_cookie,
            token_name=token.name,
            entries=entries,
        )
