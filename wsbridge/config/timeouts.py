"""Timeouts: how long each step of a connection may take.

Lives here: the two sections, the second with what cannot differ by route since no route is known yet.
Must not live here: clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from wsbridge.config.scalars import Duration, DurationOrOff, PositiveDuration, whole_seconds
from wsbridge.config.section import Context, Fault, Section

ALL_ROUTES = ("handshake", "tls", "proxy_header", "drain", "spread", "retry_after", "accept_pause", "linger", "shed")
"""The timeouts that all routes share."""


class RouteTimeouts(Section):
    """Timeouts that a route may set for itself."""

    elsewhere = dict.fromkeys(ALL_ROUTES, "no route is known yet when it counts; write it in timeouts at the top")

    connect: PositiveDuration = 5.0
    """To resolve, dial and shake hands with the backend."""
    idle: DurationOrOff = None
    """Ends a connection on which no payload went either way; pings do not count."""
    ping: DurationOrOff = 20.0
    """Silence in either direction after which a WebSocket peer is pinged."""
    pong: PositiveDuration = 20.0
    """From the ping's delivery to the answer; then the peer is lost."""
    write: DurationOrOff = 600.0
    """How long a peer may take nothing of what waits for it before it counts as stalled."""
    half_close: Duration = 30.0
    """How long the other direction may go on after one has ended."""
    close: PositiveDuration = 5.0
    """For the closing handshake and what is still to be delivered then."""
    max_age: DurationOrOff = None
    """Ends a connection however busy it is."""


class Timeouts(RouteTimeouts):
    """How long each step may take. Those from connect to max_age may be set by a route for itself."""

    handshake: PositiveDuration = 10.0
    """From the accepted connection (or the end of TLS) to the whole request head; some get up to a tenth more."""
    tls: PositiveDuration = 10.0
    """For the TLS handshake of a client."""
    proxy_header: PositiveDuration = 3.0
    """From the accepted connection to the whole PROXY header, where a proxy has to send one."""
    drain: Duration = 20.0
    """After SIGTERM, until the last connection is closed."""
    spread: Duration = 5.0
    """The end of drain over which the connections left are closed one by one."""
    retry_after: Annotated[Duration, AfterValidator(whole_seconds)] = 1.0
    """What Retry-After tells clients that are turned away by overload; whole seconds."""
    accept_pause: PositiveDuration = 0.1
    """How long accepting pauses when the system has no descriptor left."""
    linger: Duration = 2.0
    """How long what a refused peer still sends is read before its socket is closed."""
    shed: PositiveDuration = 2.0
    """For a client over the cap of connections: to send its head and take the 503."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Hold spread inside drain."""
        if self.spread > self.drain:
            text = "must not be longer than drain, since it is the end of it"
            yield Fault(("spread" if "spread" in self.model_fields_set else "drain",), text, "E013")
