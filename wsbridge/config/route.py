"""Route: which requests, and where they go.

Lives here: the section and the rules between its keys. Must not live here: the sections of single backends and ways of
authentication (beside their classes), rules between routes (`check`, `reach`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
)

from wsbridge.config.choice import (
    ONE_OR_MANY,
    Auth,
    Backend,
    filled,
    list_form,
    listed,
    mapping_form,
    unique,
)
from wsbridge.config.route_limits import RouteLimits
from wsbridge.config.scalars import Duration, FolderPath, Host, Name, Origin, PathPattern, Status, Subprotocol
from wsbridge.config.section import TAG, Context, Fault, Section
from wsbridge.config.targets import Targets
from wsbridge.config.template import missing_field
from wsbridge.config.ticket import GivesTickets
from wsbridge.config.timeouts import RouteTimeouts, Timeouts
from wsbridge.protocol import target

GOALS = ("backend", "files", "answer", "ticket")
BACKEND_ONLY = (
    "origins",
    "subprotocols",
    "text",
    "timeouts",
    "dial",
    "after_close",
    "on_client_lost",
    "connect",
    "limits",
    "targets",
)


class Match(Section):
    """Which requests a route takes: those that fit all that is written."""

    listener: Annotated[tuple[Name, ...], BeforeValidator(listed), AfterValidator(filled), ONE_OR_MANY] | None = None
    """A listener or a list of them. Left out: every listener that speaks websocket."""
    host: Annotated[tuple[Host, ...], BeforeValidator(listed), AfterValidator(filled), ONE_OR_MANY] | None = None
    """A host or a list of them, compared with the Host header without port and case. Left out: every host."""
    path: PathPattern | None = None
    """/x is exactly that, /x/* is all below /x/ (not /x itself), /* is all; {name} is any one segment. Left out: every
    path."""

    def faults(self, context: Context) -> Iterable[Fault]:
        """Ask for something to match by."""
        if not self.model_fields_set:
            yield Fault((), 'says nothing: write "any" to take every request', "E011")


class Connect(Section):
    """How a backend is dialled that is not there yet."""

    retry_for: Duration = 0.0
    """How long a refused or unreachable backend is tried again before the client is told. 0s: one attempt."""


def read_any(value: object) -> Literal["any"]:
    """Read the word that takes every request."""
    if value != "any":
        raise ValueError(f'"{value}" is neither any nor a mapping with listener, host and path')
    return "any"


AnyRequest = Annotated[Literal["any"], PlainValidator(read_any), WithJsonSchema({"const": "any"})]
AnyOrMatch = Annotated[
    Annotated[AnyRequest, Tag(f"{TAG}text")] | Annotated[Match, Tag(f"{TAG}section")], Discriminator(mapping_form)
]
Origins = Annotated[
    Annotated[Literal["same", "any"], Tag(f"{TAG}text")]
    | Annotated[tuple[Origin, ...], AfterValidator(filled), AfterValidator(unique), Tag(f"{TAG}list")],
    Discriminator(list_form),
]


class Route(Section):
    """Which requests, and where they go: to a backend, to files, to a fixed answer, or for a ticket."""

    match: AnyOrMatch | None = None
    """What the route takes; any: everything. Left out: only what listeners send here that name the route."""
    backend: Backend | None = None
    """Where bytes go: a URL (tcp, tls, unix, ws or wss), or a mapping with url and more."""
    files: FolderPath | None = None
    """A folder whose files answer requests that do not ask for a WebSocket."""
    answer: Status | None = None
    """A status that answers requests that do not ask for a WebSocket."""
    ticket: GivesTickets | None = None
    """For which route a POST is answered with a ticket; who asks must be known by auth."""
    origins: Origins = "same"
    """Pages that may connect. same: those of the requested host; a list: exactly these; any: all."""
    auth: Auth | None = None
    """Who may use the route; must be written unless only this host can reach it. none: everybody."""
    subprotocols: Annotated[tuple[Subprotocol, ...], AfterValidator(unique)] = ("binary",)
    """The first of these that the client offers is answered. An empty list answers none."""
    text: Literal["accept", "refuse"] = "accept"
    """Text frames from clients: accept passes their bytes on, refuse closes with 1003."""
    timeouts: RouteTimeouts = Field(default_factory=RouteTimeouts)
    """Timeouts of this route, in place of those at the top of the file."""
    dial: Literal["before-upgrade", "after-upgrade"] = "before-upgrade"
    """When the backend is dialled. after-upgrade: failures become close codes that a page can see."""
    after_close: Literal["discard", "deliver"] = "discard"
    """What the backend still sends after the client's Close: discard it, or deliver it for half_close."""
    on_client_lost: Literal["reset", "fin"] = "reset"
    """How the backend learns that the client vanished: reset, or fin as if it had ended well."""
    connect: Connect = Field(default_factory=Connect)
    """How a backend is dialled that is not there yet."""
    limits: RouteLimits = Field(default_factory=RouteLimits)
    """How much the clients of the route may have."""
    targets: Targets | None = None
    """What clients may choose; needed where the backend is theirs to choose, wrong elsewhere."""

    @classmethod
    def written_faults(cls, written: Mapping[str, object]) -> Iterable[Fault]:
        """Ask for exactly one goal, and for no key that this goal does not use."""
        goals = [key for key in GOALS if key in written]
        if not goals and written.keys() <= cls.model_fields.keys():
            yield Fault((), f"needs one of {', '.join(GOALS[:-1])} and {GOALS[-1]}", "E013")
        for goal in goals[1:]:
            yield Fault((goal,), f"cannot stand beside {goals[0]}: a route has one goal", "E013", at_key=True)
        if goals and goals[0] != "backend":
            for key in BACKEND_ONLY:
                if key in written and (goals[0], key) != ("ticket", "origins"):
                    yield Fault((key,), f"means nothing to a route with {goals[0]}", "E013", at_key=True)
        if "ticket" in goals and "auth" not in written:
            yield Fault(("auth",), "must be written: a ticket is for somebody who is known", "E011")

    def faults(self, context: Context) -> Iterable[Fault]:
        """Hold the fields of the backend against what the route has, and ask for rules where clients choose."""
        pattern = target.PathPattern(self.match.path) if isinstance(self.match, Match) and self.match.path else None
        names = () if pattern is None else pattern.names
        if self.files is not None and names:
            yield Fault(("match", "path"), "files are found by a path as it stands: no segment can have a name", "E013")
        fields = () if self.backend is None else self.backend.fields
        if fields and self.targets is None:
            text = "must be written, since clients choose the backend: all that they may choose stands there"
            yield Fault(("targets",), text, "E011")
        elif self.targets is not None and self.backend is not None and not fields:
            yield Fault(
                ("targets",), "means nothing where the backend is not for clients to choose", "E013", at_key=True
            )
        identity = self.auth is not None and self.auth.names_clients()
        for field in fields:
            if wrong := missing_field(field, names, identity=identity):
                yield Fault(("backend",), wrong, "E040")

    def effective_timeouts(self, timeouts: Timeouts) -> Timeouts:
        """Give the timeouts of the whole file with those that this route writes in their place."""
        own = {name: getattr(self.timeouts, name) for name in self.timeouts.model_fields_set}
        return timeouts.model_copy(update=own) if own else timeouts
