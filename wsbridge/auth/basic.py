"""Basic: who knows the password of a user comes in (RFC 7617).

Lives here: the section behind `auth: {kind: basic, …}` and the class. Must not live here: the list of users
(`htpasswd`), verifying (`passwords`), the header (`protocol.basic`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, PlainValidator, WithJsonSchema

from wsbridge.auth import bcrypt
from wsbridge.auth.auth import Lent
from wsbridge.auth.bcrypt import Bcrypt
from wsbridge.auth.caller import Caller
from wsbridge.auth.htpasswd import Stored, parse
from wsbridge.auth.identity import Denied, Identity
from wsbridge.auth.passwords import LONGEST_KEPT
from wsbridge.config.scalars import Duration, FilePath
from wsbridge.config.section import AuthSection, Context, Fault
from wsbridge.config.text import as_text
from wsbridge.protocol.basic import BadBasic, challenge, read_basic
from wsbridge.reasons import Reason
from wsbridge.reread import Reread, parsed


def read_realm(value: object) -> str:
    """Read a realm: printable ASCII that needs no escapes within quotes."""
    text = as_text(value)
    if not re.fullmatch(r'(?:[ -~](?<!["\\])){1,255}', text):
        raise ValueError("must be 1 to 255 characters of printable ASCII without quotes and backslashes")
    return text


def short(seconds: float) -> float:
    """Check that a pair is not known for too long."""
    if seconds > LONGEST_KEPT:
        raise ValueError("must not be more than 1h")
    return seconds


class BasicConfig(AuthSection):
    """Users and passwords."""

    kind: Literal["basic"] = "basic"
    """basic: by name and password."""
    users: FilePath
    """File of the users, by wsbridge hash-password or htpasswd -B; read again when it has changed."""
    realm: Annotated[str, PlainValidator(read_realm), WithJsonSchema({"type": "string"})] = "wsbridge"
    """What browsers show when they ask for name and password."""
    cache: Annotated[Duration, AfterValidator(short)] = 60.0
    """How long a password that was right is not verified again; at most 1h. 0s: each one is verified."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Try whether the users can be read."""
        if context.files:
            try:
                filled(load(self.users), self.users)
            except (OSError, ValueError) as error:
                yield Fault(("users",), str(error), "E033")


@dataclass(frozen=True, slots=True)
class Users:
    """What a file of users says.

    Attributes:
        stored: The hash of each one's password, by name.
        names: All names.
    """

    stored: Mapping[str, Stored]
    names: tuple[str, ...]


def load(path: Path) -> Users:
    """Read the users of a file.

    Raises:
        OSError: It cannot be read.
        ValueError: What is wrong with it, as one sentence.
    """
    users = parsed(path, parse)
    if any(isinstance(stored, Bcrypt) for stored in users.values()) and not bcrypt.available():
        raise ValueError(f"{path}: has hashes of bcrypt, which need a library: pip install 'wsbridge[auth]'")
    return Users(users, tuple(users))


def filled(users: Users, path: Path) -> None:
    """Refuse a list without a user: at start it is an oversight; emptied later it lets nobody in.

    Raises:
        ValueError: There is none.
    """
    if not users.names:
        raise ValueError(f'{path}: has no users; "wsbridge hash-password NAME" makes a line of one')


class BasicAuth:
    """See `wsbridge.auth.auth.Auth`.

    Raises:
        ValueError: The file of users cannot be used.
    """

    def __init__(self, config: BasicConfig, lent: Lent) -> None:
        self._users = Reread(config.users, load)
        filled(self._users.last, config.users)
        self._keep = config.cache
        self._passwords = lent.passwords
        self._challenges = (challenge(config.realm),)

    async def identify(self, caller: Caller) -> Identity | Denied:
        """Look at the Authorization header; a user whom nobody knows costs what one costs whom the list has."""
        shown = None if caller.request is None else read_basic(caller.request.headers)
        if shown is None:
            return Denied("no name and password", challenges=self._challenges)
        if isinstance(shown, BadBasic):
            return self._wrong(shown.text)
        users = await self._users.get()
        if not users.names:
            return self._wrong("the list of users is empty")
        known = users.stored.get(shown.name)
        stored = known or self._decoy(users, shown.name)
        right = await self._passwords.verify(shown.name, shown.password, stored, self._keep)
        if right is None:
            waiting = f"{self._passwords.queue} passwords wait to be verified, and password_queue allows no more"
            return Denied(waiting, Reason.OVERLOAD)
        if known is None:
            return self._wrong("a user whom the list does not have")
        return Identity(shown.name, "basic") if right else self._wrong(f'a wrong password for the user "{shown.name}"')

    def _wrong(self, detail: str) -> Denied:
        return Denied(detail, tried=True, challenges=self._challenges)

    def _decoy(self, users: Users, name: str) -> Stored:
        """Give what to verify for a user who is not there: always of the same kind and cost for the same name."""
        return users.stored[users.names[self._passwords.pick(name, len(users.names))]].decoy()
