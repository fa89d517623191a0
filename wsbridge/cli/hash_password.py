"""`wsbridge hash-password`: a line for the file of users.

Lives here: asking for a password, on a terminal or on standard input. Must not live here: the hash (`auth.scrypt`).
"""

from __future__ import annotations

import sys

import click

from wsbridge.auth import scrypt
from wsbridge.auth.htpasswd import check_name
from wsbridge.cli.status import USAGE, Failure
from wsbridge.cli.teaching import Teaching

LONGEST = 1024
"""Bytes of a password; requests with a longer one would be too large for many a proxy."""


@click.command("hash-password", cls=Teaching)
@click.argument("user", required=False)
def command(user: str | None) -> None:
    """Hash a password, for a file of users.

    That is the file which `auth: {kind: basic, users: FILE}` of a route names. Asks for the password twice without
    showing it; where standard input is no terminal, the password is its first line. Prints USER:HASH, or the hash alone
    where no USER is given. A password is never an argument, since everybody on this host can see those (ps).

    A first user, and one more:
      wsbridge hash-password alice > users
      wsbridge hash-password bob >> users

    With a password that another program makes:
      openssl rand -base64 18 | tee alice.secret | wsbridge hash-password alice >> users

    The hash is scrypt with 32 MiB of memory; every one has a salt of its own. A running wsbridge reads the file again
    within a second of the next login. Exit codes: 0 done, 64 the name or the password cannot be used, 130 Ctrl-C.
    """
    try:
        name = None if user is None else check_name(user)
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    hashed = scrypt.make(_password()).text
    click.echo(hashed if name is None else f"{name}:{hashed}")


def _password() -> bytes:
    """Ask for the password.

    Raises:
        Failure: It is empty, too long, or holds what no client can send.
    """
    try:
        if sys.stdin.isatty():
            text: str = click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
        else:
            text = sys.stdin.buffer.readline(LONGEST + 3).removesuffix(b"\n").removesuffix(b"\r").decode()
        password = text.encode()
    except UnicodeError:
        raise Failure("the password is not UTF-8", USAGE) from None
    if not password:
        raise Failure("the password is empty: it is the first line of standard input", USAGE)
    if len(password) > LONGEST:
        raise Failure(f"the password is too long: the most is {LONGEST} bytes", USAGE)
    if any(byte < 0x20 or byte == 0x7F for byte in password):
        raise Failure("the password has control characters in it, which no client can send", USAGE)
    return password
