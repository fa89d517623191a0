"""HTTP Basic authentication (RFC 7617): the section `auth: {kind: basic, …}` and its class."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import trio
from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from wsbridge.auth import passwords
from wsbridge.auth.access_list import AccessList, AccessListKey, ListEntry, share_list
from wsbridge.auth.base import AuthServices
from wsbridge.auth.credentials import describe_other_scheme
from wsbridge.auth.identity import Identity, unauthenticated
from wsbridge.auth.passwords import MAX_PASSWORD_CACHE_SECONDS, BcryptHash, PasswordHash, parse_htpasswd
from wsbridge.config.base import AuthSection, Credential, Issue, LoadContext
from wsbridge.config.paths import FilePath
from wsbridge.config.types import Duration, as_text
from wsbridge.context import ConnectionContext
from wsbridge.protocol.credentials import BasicCredentials, basic_challenge, parse_basic
from wsbridge.protocol.http1 import Request
from wsbridge.reasons import Rejected
from wsbridge.reloading_file import ReloadingFile, load_now, parse_file


def read_realm(value: object) -> str:
    """Read a realm: printable ASCII that needs no escapes within quotes."""
    text = as_text(value)
    if not re.fullmatch(r'(?:[ -~](?<!["\\])){1,255}', text):
        raise ValueError("must be 1 to 255 characters of printable ASCII without quotes and backslashes")
    return text


def check_cache_time(seconds: float) -> float:
    """Check the maximum of cache: a password that was changed elsewhere would be valid for too long."""
    if seconds > MAX_PASSWORD_CACHE_SECONDS:
        raise ValueError("must not be more than 1h")
    return seconds


class BasicConfig(AuthSection):
    """HTTP Basic authentication."""

    kind: Literal["basic"] = "basic"
    """basic: user name and password (HTTP Basic)."""
    users: FilePath
    """Users file, with lines from wsbridge hash-password or htpasswd -B; reloaded when it changes."""
    realm: Annotated[str, PlainValidator(read_realm), WithJsonSchema({"type": "string"})] = "wsbridge"
    """Realm that browsers show in the password prompt."""
    cache: Annotated[Duration, AfterValidator(check_cache_time)] = 60.0
    """How long a verified password is cached; at most 1h. 0s: no cache."""
    on_revoke: Literal["keep", "close"] = "keep"
    """What happens to the open connections of a user that is removed from the file, or gets another password: keep
    them; close them (access_revoked)."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check whether the users can be read."""
        if context.check_files:
            try:
                require_users(load_now(self.users, load_users), self.users)
            except (OSError, ValueError) as error:
                yield Issue(("users",), str(error), "E033")

    def credentials(self) -> Iterable[Credential]:
        """See `AuthSection.credentials`."""
        return [("header", "authorization")]

    def access_list_keys(self) -> Iterable[AccessListKey]:
        """See `AuthSection.access_list_keys`."""
        return [("basic", self.users)] if self.on_revoke == "close" else ()

    def warnings(self, context: LoadContext) -> Iterable[Issue]:
        """Warn of password hashes that others can read and try to crack."""
        with contextlib.suppress(OSError):  # reported above
            if context.check_files and self.users.stat().st_mode & stat.S_IROTH:
                yield Issue(("users",), f"every user of this host can read the password hashes in {self.users}", "W012")


@dataclass(frozen=True, slots=True)
class Users:
    """The users of a file.

    Attributes:
        hashes: The hash of the password of each user, by name.
        names: All names.
    """

    hashes: Mapping[str, PasswordHash]
    names: tuple[str, ...]


def load_users(path: Path) -> Users:
    """Read the users of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence.
    """
    users = parse_file(path, parse_htpasswd)
    if any(isinstance(stored, BcryptHash) for stored in users.values()) and not passwords.bcrypt_available():
        raise ValueError(f"{path}: has hashes of bcrypt, which need a library: pip install bcrypt")
    return Users(users, tuple(users))


def _has_user(users: Users, credential: tuple[str, str]) -> bool:
    """Return whether a user is there with the same password hash, given as text; see `AccessList`."""
    name, text = credential
    stored = users.hashes.get(name)
    return not users.names or (stored is not None and stored.text == text)


def require_users(users: Users, path: Path) -> None:
    """Reject a list without a user at start; one that is emptied later denies all clients.

    Raises:
        ValueError: There is none.
    """
    if not users.names:
        raise ValueError(f'{path}: has no users; "wsbridge hash-password NAME" makes a line of one')


class BasicAuth:
    """See `wsbridge.auth.base.Authenticator`.

    Raises:
        ValueError: The file of users cannot be used.
    """

    def __init__(self, config: BasicConfig, services: AuthServices) -> None:
        self._access_list: AccessList[Users] | None = None
        if config.on_revoke == "close":
            self._access_list = share_list(services.access_lists, ("basic", config.users), load_users, _has_user)
        listed = self._access_list
        self._users = ReloadingFile(config.users, load_users) if listed is None else listed.file
        require_users(self._users.current, config.users)
        self._cache_seconds = config.cache
        self._password_checker = services.password_checker
        self._challenges = (basic_challenge(config.realm),)

    async def identify(self, context: ConnectionContext) -> Identity:
        """Verify the credentials of the Authorization header.

        An unknown user takes as long as a wrong password, also where the file is read again: either may be new in it.
        """
        shown = None if context.request is None else self._credentials(context.request)
        if shown is None:
            other = "" if context.request is None else describe_other_scheme(context.request, "Basic")
            raise unauthenticated(f"no name and password{other}", challenges=self._challenges)
        asked, users = trio.current_time(), await self._users.get()
        problem = await self._verify(shown, users, context)
        if problem is not None:
            before, users = users, await self._users.get_newer(asked)
            if users is not before:
                problem = await self._verify(shown, users, context)
        if problem is not None:
            rejected = self._wrong(problem)
            rejected.credential = hash((shown.username, shown.password))
            raise rejected
        if self._access_list is None:
            return Identity(shown.username, "basic")
        credential = (shown.username, users.hashes[shown.username].text)
        entry = ListEntry(self._access_list, credential, f'user "{shown.username}"')
        return Identity(shown.username, "basic", entries=(entry,))

    async def _verify(self, shown: BasicCredentials, users: Users, context: ConnectionContext) -> str | None:
        """Verify a password by a list of users; None if it is right, else why it is not."""
        if not users.names:
            return "the list of users is empty"
        known = users.hashes.get(shown.username)
        stored = known or self._dummy_hash(users, shown.username)
        right = await self._password_checker.verify(
            shown.username, shown.password, stored, self._cache_seconds, context.client
        )
        if known is None:
            return "an unknown user"
        return None if right else f'a wrong password for the user "{shown.username}"'

    def _credentials(self, request: Request) -> BasicCredentials | None:
        try:
            return parse_basic(request.headers)
        except Rejected as rejected:
            raise self._wrong(rejected.detail) from None

    def _wrong(self, detail: str) -> Rejected:
        return unauthenticated(detail, failed_login=True, challenges=self._challenges)

    def _dummy_hash(self, users: Users, name: str) -> PasswordHash:
        """Return what to verify for an unknown user: always of the same kind and cost for the same name."""
        return users.hashes[users.names[self._password_checker.stable_index(name, len(users.names))]].dummy_hash()
