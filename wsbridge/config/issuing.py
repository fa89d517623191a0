"""Issuing: the rules between routes that give tickets and the routes that take them.

Lives here: what one route alone cannot know of its tickets. Must not live here: the sections (`ticket`), other rules
between routes (`check`).
"""

from __future__ import annotations

from collections.abc import Iterator

from wsbridge.config.model import Config
from wsbridge.config.problems import did_you_mean
from wsbridge.config.section import AuthSection, Fault, Steps
from wsbridge.config.ticket import TakesTickets


def issuing(config: Config) -> Iterator[Fault]:
    """Find routes whose tickets nobody takes, or that would give one to anybody."""
    for name, route in config.routes.items():
        if route.ticket is None:
            continue
        steps: Steps = ("routes", name)
        if route.auth is not None and route.auth.kind == "none":
            yield Fault((*steps, "auth"), "cannot be none: a ticket would let in everybody who asks for one", "E013")
        elif takers(route.auth):
            yield Fault((*steps, "auth"), "cannot take tickets itself: one ticket would give the next", "E013")
        wanted = config.routes.get(route.ticket.route)
        if wanted is None:
            text = f'there is no route "{route.ticket.route}"{did_you_mean(route.ticket.route, config.routes)}'
            yield Fault((*steps, "ticket", "route"), text, "E020")
        elif not takers(wanted.auth):
            text = f'the route "{route.ticket.route}" takes no tickets: its auth needs kind: ticket'
            yield Fault((*steps, "ticket", "route"), text, "E027")
        elif all(taker.key != route.ticket.key for taker in takers(wanted.auth)):
            text = f'is not the key by which the route "{route.ticket.route}" takes tickets'
            yield Fault((*steps, "ticket", "key"), text, "E027")


def takers(auth: AuthSection | None) -> list[TakesTickets]:
    """Give the ways of a route that take tickets, those inside of others among them."""
    if auth is None:
        return []
    inner = [taker for member in auth.members() for taker in takers(member)]
    return [auth, *inner] if isinstance(auth, TakesTickets) else inner
