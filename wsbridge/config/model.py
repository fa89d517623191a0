"""The model of the whole file: the sections at its top.

Lives here: `Config` and `Log`; the other sections have files of their own and are offered here too. Must not live here:
rules between sections (`check`), reading of files (`load`). The text under a field is what editors show.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wsbridge.config.address_limits import AddressLimits
from wsbridge.config.audit import Audit
from wsbridge.config.certificate import Certificate
from wsbridge.config.choice import filled
from wsbridge.config.limits import Limits
from wsbridge.config.listener import Listener, ListenerTls
from wsbridge.config.route import Connect, Match, Route
from wsbridge.config.route_limits import RouteLimits
from wsbridge.config.scalars import Name
from wsbridge.config.section import Context, Kinds, Section
from wsbridge.config.timeouts import RouteTimeouts, Timeouts

__all__ = [
    "Config",
    "Log",
    "Audit",
    "Listener",
    "ListenerTls",
    "Certificate",
    "Route",
    "Match",
    "Connect",
    "RouteTimeouts",
    "Timeouts",
    "Limits",
    "AddressLimits",
    "RouteLimits",
    "Kinds",
    "Context",
    "Section",
]


class Log(Section):
    """What is logged, and how it looks. Logs go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious lines that are written."""
    format: Literal["auto", "console", "json", "journal"] = "auto"
    """auto: console on a terminal, journal under systemd, else one JSON object a line."""


class Config(Section):
    """The configuration of wsbridge."""

    log: Log = Field(default_factory=Log)
    """What is logged, and how it looks."""
    audit: Audit | None = None
    """Where it is written who was let in to what, and who was refused. Left out: nowhere."""
    listeners: Annotated[dict[Name, Listener], AfterValidator(filled)]
    """Addresses that are listened on, by names of your choice."""
    routes: Annotated[dict[Name, Route], AfterValidator(filled)]
    """Where requests go, by names of your choice. In order: the first whose match fits takes the request."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """How long each step may take."""
    limits: Limits = Field(default_factory=Limits)
    """How much of everything there may be."""
    engine: Literal["auto", "python"] = "auto"
    """What moves the bytes. auto: the fastest engine that is there."""
