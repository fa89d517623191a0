"""`wsbridge ticket`: a pass for one connection, for whoever can read the configuration and its key.

Lives here: the arguments, and finding what the route takes. Must not live here: what a ticket is (`protocol.ticket`).
"""

from __future__ import annotations

import ipaddress
import time

import click

from wsbridge.auth.identity import Identity
from wsbridge.auth.ticket import TicketConfig
from wsbridge.cli.place import config_option, find, read
from wsbridge.cli.status import OK, USAGE, Failure
from wsbridge.cli.teaching import Teaching
from wsbridge.config.address import read_target
from wsbridge.config.issuing import takers
from wsbridge.config.model import Config
from wsbridge.config.network import UNIX
from wsbridge.config.problems import did_you_mean
from wsbridge.config.scalars import read_positive_duration
from wsbridge.config.ticket import short
from wsbridge.protocol.ticket import write
from wsbridge.routes.ticket import make


@click.command("ticket", cls=Teaching)
@config_option
@click.option("--route", required=True, metavar="NAME", help="The route that it is good for.")
@click.option("--name", required=True, metavar="WHO", help="Who it lets in, for logs and limits.")
@click.option("--ttl", default="30s", metavar="TIME", help="How long it can be used. Default: 30s; at most 1h.")
@click.option("--address", metavar="IP", help="The one address that it is good from, or unix. Without: any.")
@click.option("--target", metavar="URL", help="The one target that it leads to, where the route lets tickets choose.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=TEXT", help="What else is known of WHO; several times.")
@click.option("--url", metavar="URL", help="Print this URL with the ticket in it, not the ticket alone.")
def command(
    path: str | None,
    route: str,
    name: str,
    ttl: str,
    address: str | None,
    target: str | None,
    claims: tuple[str, ...],
    url: str | None,
) -> int:
    """Print a ticket, a pass for one connection.

    The route must have auth: {kind: ticket}. Nobody is asked: who can read the key that the configuration names may
    make tickets. A ticket is good once, soon, and only if wsbridge was running already when it was made.

      wsbridge ticket -c wsbridge.yaml --route vnc --name alice
      wsbridge ticket --route vnc --name alice --ttl 5m --address 192.0.2.7 --url wss://gw.example.org/vnc
      wsbridge ticket --route desk --name alice --target tcp://10.0.0.5:5900

    Exit codes: 0 it was printed, 64 wrong arguments, 78 the configuration cannot be used.
    """
    config = read(find(path)).config
    taker = _taker(config, route)
    if taker.bind_address and address is None:
        raise Failure(f'the route "{route}" takes only tickets that are bound to an address: add --address IP', USAGE)
    if not name.isprintable():
        raise Failure("--name: has characters that cannot be printed", USAGE)
    try:
        where = None if address is None else _address(address)
        known = Identity(name, claims=_claims(claims), target=None if target is None else _target(target))
        ticket = write(make(known, route, _life(ttl), time.time(), where), taker.key.reveal().encode())
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    click.echo(ticket if url is None else _in_url(url, taker.parameter, ticket))
    return OK


def _taker(config: Config, route: str) -> TicketConfig:
    """Find by what a route takes tickets; the first, if it has several keys."""
    found = config.routes.get(route)
    if found is None:
        raise Failure(f'there is no route "{route}"{did_you_mean(route, config.routes)}', USAGE)
    taker = next(iter(takers(found.auth)), None)
    if not isinstance(taker, TicketConfig):
        raise Failure(f'the route "{route}" takes no tickets: its auth needs kind: ticket', USAGE)
    return taker


def _life(text: str) -> float:
    try:
        return short(read_positive_duration(text))
    except ValueError as error:
        raise ValueError(f"--ttl: {error}") from None


def _address(text: str) -> str:
    """Write an address as clients' addresses are told."""
    if text == UNIX:
        return UNIX
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'--address: "{text}" is no IP address') from None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def _target(text: str) -> str:
    try:
        return str(read_target(text))
    except ValueError as error:
        raise ValueError(f"--target: {error}") from None


def _claims(texts: tuple[str, ...]) -> dict[str, str]:
    claims = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValueError(f'--claim: "{text}" is not of the form NAME=TEXT')
        claims[name] = value
    return claims


def _in_url(url: str, parameter: str, ticket: str) -> str:
    if "#" in url:
        raise Failure("--url: a WebSocket's URL has no fragment (#)", USAGE)
    return f"{url}{'&' if '?' in url else '?'}{parameter}={ticket}"
