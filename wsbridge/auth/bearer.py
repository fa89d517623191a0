"""Bearer: who shows a token of a list comes in (RFC 6750).

Lives here: the section behind `auth: {kind: bearer, …}` and the class. Must not live here: where a token stands in a
request (`credentials`), what a line of the list means (`tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from wsbridge.auth.auth import Lent
from wsbridge.auth.caller import Caller
from wsbridge.auth.credentials import Shown, TokenSection, denied, token_of
from wsbridge.auth.identity import Denied, Identity
from wsbridge.auth.tokens import Token, digest_of, parse
from wsbridge.config.scalars import FilePath
from wsbridge.config.section import Context, Fault
from wsbridge.reread import Reread, parsed


class BearerConfig(TokenSection):
    """Tokens of a list."""

    kind: Literal["bearer"] = "bearer"
    """bearer: by a token of a list."""
    tokens: FilePath
    """File of the tokens' hashes, its lines by wsbridge new-token; read again when it has changed."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Try whether there are tokens in the file."""
        if context.files:
            try:
                filled(load(self.tokens), self.tokens)
            except (OSError, ValueError) as error:
                yield Fault(("tokens",), str(error), "E033")


def load(path: Path) -> Mapping[bytes, Token]:
    """Read the tokens of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence.
    """
    return parsed(path, parse)


def filled(tokens: Mapping[bytes, Token], path: Path) -> None:
    """Refuse a list without a token: at start it is an oversight; emptied later it lets nobody in.

    Raises:
        ValueError: There is none.
    """
    if not tokens:
        raise ValueError(f'{path}: holds no token; "wsbridge new-token NAME" makes one')


class BearerAuth:
    """See `wsbridge.auth.auth.Auth`.

    A token is looked up by its hash: what that takes tells nothing of any token of the list. Whatever is wrong with a
    token, the client is told the same.

    Raises:
        ValueError: The file of tokens cannot be used.
    """

    def __init__(self, config: BearerConfig, lent: Lent) -> None:
        self._tokens = Reread(config.tokens, load)
        filled(self._tokens.last, config.tokens)
        self._sources = config.sources
        self._wall = lent.wall

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Look up the token that the request shows."""
        shown = token_of(caller, self._sources)
        if isinstance(shown, Denied):
            return shown
        token = (await self._tokens.get()).get(digest_of(shown.token))
        if token is None:
            return denied("a token that the list does not have")
        return self._judged(token, shown, caller.route)

    def _judged(self, token: Token, shown: Shown, route: str) -> Identity | Denied:
        named = f'the token {token.short} of "{token.name}"'
        if token.expires is not None and token.expires <= self._wall():
            return denied(f"{named} has expired")
        if token.routes is not None and route not in token.routes:
            return denied(f"{named} is not for the route {route}")
        claims = {"token": token.short}
        return Identity(token.name, "bearer", claims, token.expires, by_cookie=shown.by_cookie)
