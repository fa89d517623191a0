"""`wsbridge hash-password`, `new-token` and `ticket`."""

from __future__ import annotations

import ipaddress
import secrets
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

import click
from click.shell_completion import CompletionItem

from wsbridge.auth import passwords
from wsbridge.auth.bearer import BearerToken, parse_expiry, parse_routes, parse_token_name, token_digest
from wsbridge.auth.identity import Identity
from wsbridge.auth.passwords import check_username
from wsbridge.auth.ticket import TicketConfig, new_ticket
from wsbridge.cli.main import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CliError, PreformattedCommand, has_lost_messages
from wsbridge.cli.run import STDIN, config_argument, config_option, find_config, load_config, only_path, read_config
from wsbridge.config.check import ticket_auths
from wsbridge.config.errors import ConfigError, did_you_mean
from wsbridge.config.model import Config
from wsbridge.config.route import check_ticket_ttl
from wsbridge.config.types import UNIX_CLIENTS, read_duration, read_positive_duration
from wsbridge.config.urls import read_target
from wsbridge.protocol.ip import unmap
from wsbridge.protocol.ticket import encode_ticket

MAX_NEW_PASSWORD_BYTES = 1024
"""Bytes of a password; requests with a longer one would be too large for many proxies."""


@click.command("hash-password", cls=PreformattedCommand)
@click.argument("user", required=False)
def hash_password_command(user: str | None) -> None:
    """Hash a password for a users file.

    The file is the one of `auth: {kind: basic, users: FILE}`. Prompts for the password twice, without echo; if standard
    input is not a terminal, its first line is the password. Prints USER:HASH, or only the hash without USER. The
    password is never an argument, since arguments are visible to every user of this host (ps).

    A first user, and another one:
      wsbridge hash-password alice > users
      wsbridge hash-password bob >> users

    With a generated password:
      openssl rand -base64 18 | tee alice.secret | wsbridge hash-password alice >> users

    The hash is scrypt with 32 MiB of memory and a random salt. A running wsbridge reads the file again within a second
    of the next login. Exit codes: 0 success, 64 a name or a password that cannot be used, 130 Ctrl-C.
    """
    try:
        name = None if user is None else check_username(user)
    except ValueError as error:
        raise CliError(str(error), EXIT_USAGE) from None
    hashed = passwords.hash_password(_read_password()).text
    click.echo(hashed if name is None else f"{name}:{hashed}")


def _read_password() -> bytes:
    """Read the password.

    Raises:
        CliError: It is empty, too long, or contains characters that no client can send.
    """
    try:
        if sys.stdin.isatty():
            text: str = click.prompt("Password", hide_input=True, confirmation_prompt="Repeat the password", err=True)
        else:
            text = (
                sys.stdin.buffer.readline(MAX_NEW_PASSWORD_BYTES + 3).removesuffix(b"\n").removesuffix(b"\r").decode()
            )
        password = text.encode()
    except UnicodeError:
        raise CliError("the password is not UTF-8", EXIT_USAGE) from None
    if not password:
        raise CliError("the password is empty: it is the first line of standard input", EXIT_USAGE)
    if len(password) > MAX_NEW_PASSWORD_BYTES:
        raise CliError(f"the password is too long: the most is {MAX_NEW_PASSWORD_BYTES} bytes", EXIT_USAGE)
    if any(byte < 0x20 or byte == 0x7F for byte in password):
        raise CliError("the password contains control characters, which no client can send", EXIT_USAGE)
    return password


TOKEN_RANDOM_BYTES: Final = 32
"""Random bytes of a token."""

ArgumentValue = TypeVar("ArgumentValue")


def _parse_expiry(text: str) -> float:
    """Read a timestamp, or a duration from now."""
    now = time.time()
    try:
        moment = now + read_duration(text)
    except ValueError:
        moment = parse_expiry(text)
    if moment <= now:
        raise ValueError("this time is in the past")
    return float(int(moment))


def _argument_callback(
    parse: Callable[[str], ArgumentValue],
) -> Callable[[click.Context, click.Parameter, str | None], ArgumentValue | None]:
    """Build a click callback from a parser; its ValueError is a usage error."""

    def callback(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> ArgumentValue | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


@click.command("new-token", cls=PreformattedCommand)
@click.argument("name", callback=_argument_callback(parse_token_name))
@click.option(
    "--expires",
    metavar="WHEN",
    callback=_argument_callback(_parse_expiry),
    help="2027-01-01T00:00:00Z, 2027-01-01 or 30d.",
)
@click.option(
    "--routes", metavar="A,B", callback=_argument_callback(parse_routes), help="Accept it only for these routes."
)
def new_token_command(name: str, expires: float | None, routes: frozenset[str] | None) -> int:
    """Generate a bearer token and its entry for a token file.

    The file is the one of `auth: {kind: bearer, tokens: FILE}`. The token is printed once, to standard error; its line
    for the file, with NAME and a hash, to standard output:

      wsbridge new-token alice >> /etc/wsbridge/tokens
      wsbridge new-token ci --expires 90d --routes office-vnc,telemetry >> /etc/wsbridge/tokens

    Clients send it as `Authorization: Bearer TOKEN`. Deleting the line revokes it.
    """
    token = secrets.token_urlsafe(TOKEN_RANDOM_BYTES)
    click.echo(BearerToken(name, token_digest(token), expires, routes).to_line())
    click.echo(f"The token (it is not shown again): {token}", err=True)
    return EXIT_FAILED if has_lost_messages() else EXIT_OK


def _complete_route(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Give the routes of the configuration file that tickets open; none where it cannot be used."""
    try:
        path = find_config(only_path(ctx.params.get("file"), ctx.params.get("path")))
        routes = {} if path == STDIN else load_config(path).config.routes
    except (CliError, ConfigError):
        return []
    return [
        CompletionItem(name)
        for name, route in routes.items()
        if any(ticket_auths(route.auth)) and name.startswith(begun)
    ]


@click.command("ticket", cls=PreformattedCommand)
@config_argument
@config_option
@click.option(
    "--route", required=True, metavar="NAME", help="Route that the ticket is valid for.", shell_complete=_complete_route
)
@click.option("--name", required=True, metavar="WHO", help="Identity of the client, for logs and limits.")
@click.option("--ttl", default="30s", metavar="TIME", help="How long it can be used. Default: 30s; at most 1h.")
@click.option("--address", metavar="IP", help="Client address that it is bound to, or unix. Default: any.")
@click.option("--target", metavar="URL", help="Target, on routes where the identity gives the target.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=TEXT", help="Additional claim; repeatable.")
@click.option("--url", metavar="URL", help="Print this URL with the ticket in it.")
def ticket_command(
    file: str | None,
    path: str | None,
    route: str,
    name: str,
    ttl: str,
    address: str | None,
    target: str | None,
    claims: tuple[str, ...],
    url: str | None,
) -> int:
    """Issue a single-use ticket.

    The route has `auth: {kind: ticket}`. There is no authentication: any user who can read the key can issue tickets. A
    ticket can be used once, within its --ttl, and only with a wsbridge that was already running when it was issued.

      wsbridge ticket -c wsbridge.yaml --route vnc --name alice
      wsbridge ticket --route vnc --name alice --ttl 5m --address 192.0.2.7 --url wss://gw.example.org/vnc
      wsbridge ticket --route desk --name alice --target tcp://10.0.0.5:5900

    Exit codes: 0 success, 64 wrong command line, 78 invalid configuration.
    """
    config = read_config(find_config(only_path(file, path))).config
    ticket_auth = _ticket_auth(config, route)
    if ticket_auth.bind_client_address and address is None:
        raise CliError(
            f'the route "{route}" accepts only tickets that are bound to an address: add --address IP', EXIT_USAGE
        )
    if not name or not name.isprintable():
        raise CliError("--name: must be printable text, and not empty", EXIT_USAGE)
    try:
        where = None if address is None else _parse_address(address)
        known = Identity(name, claims=_parse_claims(claims), target=None if target is None else _parse_target(target))
        ticket = encode_ticket(
            new_ticket(known, route, _parse_ttl(ttl), time.time(), where), ticket_auth.key.reveal().encode()
        )
    except ValueError as error:
        raise CliError(str(error), EXIT_USAGE) from None
    click.echo(ticket if url is None else _add_to_url(url, ticket_auth.query_parameter, ticket))
    return EXIT_OK


def _ticket_auth(config: Config, route: str) -> TicketConfig:
    """Find the ticket authentication of a route; the first, if it has several keys."""
    found = config.routes.get(route)
    if found is None:
        raise CliError(f'there is no route "{route}"{did_you_mean(route, config.routes)}', EXIT_USAGE)
    ticket_auth = next(iter(ticket_auths(found.auth)), None)
    if not isinstance(ticket_auth, TicketConfig):
        raise CliError(f'the route "{route}" accepts no tickets: its auth needs kind: ticket', EXIT_USAGE)
    return ticket_auth


def _parse_ttl(text: str) -> float:
    try:
        return check_ticket_ttl(read_positive_duration(text))
    except ValueError as error:
        raise ValueError(f"--ttl: {error}") from None


def _parse_address(text: str) -> str:
    """Write an address in the form in which client addresses are compared."""
    if text == UNIX_CLIENTS:
        return UNIX_CLIENTS
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'--address: "{text}" is not an IP address') from None
    return str(unmap(ip))


def _parse_target(text: str) -> str:
    try:
        return str(read_target(text))
    except ValueError as error:
        raise ValueError(f"--target: {error}") from None


def _parse_claims(texts: tuple[str, ...]) -> dict[str, str]:
    claims = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f'--claim: "{text}" does not have the form NAME=TEXT')
        if name in claims:
            raise ValueError(f"--claim: {name} is given twice")
        claims[name] = value
    return claims


def _add_to_url(url: str, parameter: str, ticket: str) -> str:
    if "#" in url:
        raise CliError("--url: the URL of a WebSocket has no fragment (#)", EXIT_USAGE)
    return f"{url}{'&' if '?' in url else '?'}{parameter}={ticket}"
