"""The section of a route: what it matches, who may use it, and what handles its requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    WithJsonSchema,
)

from wsbridge.config.backend_urls import check_field
from wsbridge.config.base import UNION_TAG, AuthSection, Issue, LoadContext, Section
from wsbridge.config.limits import RouteLimits, RouteTimeouts, Timeouts
from wsbridge.config.paths import DirectoryPath, FutureDirectoryPath
from wsbridge.config.secrets import Secret
from wsbridge.config.types import (
    Duration,
    DurationOrOff,
    FixedResponse,
    Flag,
    HeaderName,
    HeaderText,
    Name,
    Network,
    PathPatternText,
    PositiveDuration,
    Size,
    Subprotocol,
    as_text,
    at_least,
    at_most,
    check_whole_seconds,
    to_ascii_authority,
)
from wsbridge.config.unions import (
    ONE_OR_MANY_SCHEMA,
    AuthUnion,
    BackendUnion,
    UrlBackendSection,
    as_tuple,
    check_unique,
    non_empty,
    text_or_list_tag,
    text_or_section_tag,
)
from wsbridge.config.urls import HOST_NAME, MatchedHost, OriginPattern, read_port
from wsbridge.protocol import uri
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL
from wsbridge.protocol.ticket import MIN_TICKET_KEY_BYTES

TARGET_LISTS = ("networks", "names", "ports", "unix")


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that follow each other. `str()` gives the written form.

    Attributes:
        first: From 1.
        last: To 65535, not below the first.
    """

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def read_ports(value: object) -> Ports:
    """Read a port, or `first-last`."""
    if isinstance(value, Ports):
        return value
    text = as_text(value)
    first, dash, last = (part.strip() for part in text.partition("-"))
    ports = Ports(read_port(first), read_port(last if dash else first))
    if not 1 <= ports.first <= ports.last:
        raise ValueError(f'"{text}" are no ports: write one such as 22, or the first and the last such as 5900-5999')
    return ports


def read_host_pattern(value: object) -> str:
    """Read the name of a host, or `*.` and what the names end with: lower-case ASCII, no trailing dot."""
    text = as_text(value)
    name = to_ascii_authority(text.removeprefix("*.")).rstrip(".").lower()
    if text == "*":
        raise ValueError('"*" matches every name: omit names, and write the networks that they may resolve to')
    if not HOST_NAME.fullmatch(name) or len(name) > 253:
        raise ValueError(f'"{text}" is no name of a host: write db.example.org, or *.example.org for all that end so')
    if re.search(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\Z", name):
        raise ValueError(f'"{text}" is an address, not a name: write it under networks')
    return ("*." if text.startswith("*.") else "") + name


PortRange = Annotated[
    Ports,
    PlainValidator(read_ports),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": 65535,
            "pattern": "^[0-9]{1,5}( *- *[0-9]{1,5})?$",
        }
    ),
]
HostPattern = Annotated[
    str, PlainValidator(read_host_pattern), WithJsonSchema({"type": "string", "pattern": r"^(\*\.)?[^\s/:*]+$"})
]


class AllowedTargetsConfig(Section):
    """Targets that clients may choose; all others are rejected."""

    networks: Annotated[tuple[Network, ...], AfterValidator(non_empty)] | None = None
    """Networks that may be dialled, such as 10.0.0.0/8. Default: only the addresses that names resolve to."""
    names: Annotated[tuple[HostPattern, ...], AfterValidator(non_empty)] | None = None
    """Host names that may be resolved, such as db.example.org or *.example.org. Default: every name, restricted to
    addresses in networks."""
    ports: Annotated[tuple[PortRange, ...], AfterValidator(non_empty)] | None = None
    """Ports that may be dialled, such as 22 or 5900-5999. Default: none."""
    unix: Annotated[tuple[FutureDirectoryPath, ...], AfterValidator(non_empty)] | None = None
    """Directories whose Unix sockets may be dialled, including subdirectories. Default: none."""
    allow_own_listeners: Flag = False
    """true allows wsbridge's own listeners as targets."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require what makes a target reachable."""
        if not raw.keys() <= cls.model_fields.keys():
            return
        if not raw.keys() & set(TARGET_LISTS):
            yield Issue((), "allows no target: write ports with networks or names, or unix", "E013")
        elif "ports" in raw and not raw.keys() & {"networks", "names"}:
            yield Issue(("ports",), "need networks or names: without them no address is allowed", "E013")
        elif "ports" not in raw:
            for key in ("networks", "names"):
                if key in raw:
                    yield Issue((key,), "needs ports: without them none is allowed", "E013", at_key=True)


MAX_TICKET_TTL: Final = 3600.0
"""Seconds that a ticket may be good for, and a used one is remembered at the most."""


def check_ticket_ttl(seconds: float) -> float:
    """Check that a ticket does not live too long."""
    if seconds > MAX_TICKET_TTL:
        raise ValueError("a ticket is for one connection, at once: at most 1h")
    return seconds


TicketTtl = Annotated[PositiveDuration, AfterValidator(check_ticket_ttl)]


def check_ticket_key(key: Secret, context: LoadContext) -> Iterable[Issue]:
    """Report a key that could be guessed; a key that was not read is not checked."""
    length = len(key.reveal().encode())
    if context.check_files and length < MIN_TICKET_KEY_BYTES:
        text = f"has {length} bytes, and the minimum is {MIN_TICKET_KEY_BYTES}: openssl rand -base64 32 makes one"
        yield Issue(("key",), text, "E012")


class TicketAuthConfig(AuthSection):
    """Base of the section of the method that accepts tickets."""

    key: Secret
    """Signing key, as {file: PATH}, {env: NAME} or {credential: NAME}; at least 32 bytes."""
    bind_client_address: Flag = False
    """true: accepts only tickets that are bound to the client's address. A bound ticket is always checked against
    it."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check the length of the key."""
        return check_ticket_key(self.key, context)


class TicketIssuerConfig(Section):
    """Issues tickets for another route."""

    route: Name
    """Route that the tickets are valid for; its auth has kind: ticket with the same key."""
    key: Secret
    """Signing key, as {file: PATH}, {env: NAME} or {credential: NAME}; at least 32 bytes."""
    ttl: TicketTtl = 30.0
    """How long a ticket can be used after it was issued; at most 1h."""
    bind_client_address: Flag = False
    """true: a ticket is valid only for the client address that requested it."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check the length of the key."""
        return check_ticket_key(self.key, context)


FrameAncestors = Annotated[
    Annotated[Literal["self", "none", "any"], Tag(f"{UNION_TAG}text")]
    | Annotated[tuple[OriginPattern, ...], AfterValidator(non_empty), Tag(f"{UNION_TAG}list")],
    Discriminator(text_or_list_tag),
]


def read_any_subprotocol(value: object) -> Literal["any"]:
    """Read the word that passes on every offer."""
    if value != "any":
        raise ValueError(f"must be a list such as [{value}], or any")
    return "any"


AnySubprotocol = Annotated[Literal["any"], PlainValidator(read_any_subprotocol), WithJsonSchema({"const": "any"})]
Subprotocols = Annotated[
    Annotated[AnySubprotocol, Tag(f"{UNION_TAG}text")]
    | Annotated[tuple[Subprotocol, ...], AfterValidator(check_unique), Tag(f"{UNION_TAG}list")],
    Discriminator(text_or_list_tag),
]


def read_index_file(value: object) -> str:
    """Read the name of a file."""
    text = as_text(value)
    if not text or "/" in text or text.startswith(".") or not text.isprintable():
        raise ValueError(f'"{text}" is not the name of a file in the directory, such as index.html')
    return text


class FilesConfig(Section):
    """Static files: the directory, and how its files are served."""

    dir: DirectoryPath
    """Directory of the files."""
    index: Annotated[str, PlainValidator(read_index_file), WithJsonSchema({"type": "string"})] = "index.html"
    """File that a path ending in a slash gets."""
    redirect_root: Flag = False
    """true: a request for / that no earlier route matches is redirected to the index file of this route."""
    headers: dict[HeaderName, HeaderText] = Field(default_factory=dict)
    """Additional response headers, for example for CORS, cross-origin isolation or HSTS; they replace those of the same
    name that wsbridge sends."""
    frame_ancestors: FrameAncestors = "self"
    """Pages that may show the files in a frame: self (same origin), none, any, or a list of origins besides its own."""
    cache: Duration = 0.0
    """How long browsers may use a file without asking whether it changed. 0s: they ask each time."""


def _files_tag(value: object) -> str:
    return f"{UNION_TAG}section" if isinstance(value, (dict, FilesConfig)) else f"{UNION_TAG}text"


FilesUnion = Annotated[
    Annotated[DirectoryPath, Tag(f"{UNION_TAG}text")] | Annotated[FilesConfig, Tag(f"{UNION_TAG}section")],
    Discriminator(_files_tag),
]

ROUTE_ACTIONS = ("backend", "files", "respond", "issue_tickets")
BACKEND_ONLY_KEYS = (
    "allowed_origins",
    "subprotocols",
    "text_messages",
    "timeouts",
    "dial",
    "on_client_close",
    "on_client_lost",
    "on_client_fin",
    "on_remove",
    "limits",
    "resume",
    "allowed_targets",
)


class MatchConfig(Section):
    """Conditions that a request must meet; all of them must hold."""

    listener: (
        Annotated[tuple[Name, ...], BeforeValidator(as_tuple), AfterValidator(non_empty), ONE_OR_MANY_SCHEMA] | None
    ) = None
    """Listener, or a list of them. Default: all listeners with protocol: websocket."""
    host: (
        Annotated[tuple[MatchedHost, ...], BeforeValidator(as_tuple), AfterValidator(non_empty), ONE_OR_MANY_SCHEMA]
        | None
    ) = None
    """Host, or a list of them, compared with the Host header without port and case; *.example.org matches all names
    below example.org, {name}.example.org one label. Default: every host."""
    path: PathPatternText | None = None
    """/x matches exactly, /x/* everything below /x/ (not /x itself), /* everything; {name} matches one segment.
    Default: every path."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Require a condition."""
        if not self.model_fields_set:
            yield Issue((), 'is empty: write "any" to match every request', "E011")


class DialConfig(Section):
    """When the backend is dialled, and how long failed attempts are retried."""

    when: Literal["before-upgrade", "after-upgrade"] = "before-upgrade"
    """When the backend is dialled. after-upgrade: failures become close codes, which a page can see."""
    retry_for: Duration = 0.0
    """How long to retry a backend that is refused or unreachable, or a WebSocket backend that answers 429, 502, 503 or
    504, before the client gets an error. 0s: one attempt."""


def read_any_request(value: object) -> Literal["any"]:
    """Read the word that matches every request."""
    if value != "any":
        hint = f"; write {{path: {value}}}" if str(value).startswith("/") else ""
        raise ValueError(f'"{value}" is neither "any" nor a mapping with listener, host and path{hint}')
    return "any"


AnyRequest = Annotated[Literal["any"], PlainValidator(read_any_request), WithJsonSchema({"const": "any"})]
MatchUnion = Annotated[
    Annotated[AnyRequest, Tag(f"{UNION_TAG}text")] | Annotated[MatchConfig, Tag(f"{UNION_TAG}section")],
    Discriminator(text_or_section_tag),
]
AllowedOrigins = Annotated[
    Annotated[Literal["same", "any"], Tag(f"{UNION_TAG}text")]
    | Annotated[
        tuple[OriginPattern, ...], AfterValidator(non_empty), AfterValidator(check_unique), Tag(f"{UNION_TAG}list")
    ],
    Discriminator(text_or_list_tag),
]


MIN_RESUME_WINDOW = 64 * 1024
MAX_RESUME_WINDOW = 16 * 1024 * 1024
MAX_RESUME_TTL = 900.0
"""Seconds: nobody waits longer for a page or a program to come back."""


def check_resume_ttl(seconds: float) -> float:
    """Check the maximum of ttl."""
    if seconds > MAX_RESUME_TTL:
        raise ValueError("must not be more than 15m")
    return seconds


def check_keepalive(seconds: float | None) -> float | None:
    """Check that keepalive is off, or whole seconds that fit into its field."""
    if seconds is not None and not 1 <= check_whole_seconds(seconds) <= MAX_RESUME_TTL:
        raise ValueError("must be off, or from 1s to 15m")
    return seconds


def read_node(value: object) -> str:
    """Read the name of a machine, which clients put into URLs."""
    text = as_text(value)
    if not re.fullmatch(r"[A-Za-z0-9._~-]{1,255}", text):
        raise ValueError(f'"{text}" is no name of a node: 1 to 255 letters, digits, ".", "_", "~" and "-"')
    return text


WindowSize = Annotated[Size, AfterValidator(at_least(MIN_RESUME_WINDOW)), AfterValidator(at_most(MAX_RESUME_WINDOW))]


class ResumeConfig(Section):
    """Resumable sessions: a client that lost its connection continues its session over another one."""

    ttl: Annotated[PositiveDuration, AfterValidator(check_whole_seconds), AfterValidator(check_resume_ttl)] = 120.0
    """How long a session waits for its client after the connection was lost; whole seconds, at most 15m."""
    window: WindowSize = 1024 * 1024
    """Payload bytes in each direction that are sent and not acknowledged, which are kept to be sent again; at least
    64KiB, at most 16MiB. A client may want less."""
    keepalive: Annotated[DurationOrOff, AfterValidator(check_keepalive)] = 20.0
    """How long the server sends nothing before it sends a keepalive frame, by which a page notices that the connection
    is dead; whole seconds. off: none."""
    first_frame: PositiveDuration = 5.0
    """Deadline, after the 101, for the frame with which the client opens a session or resumes one."""
    node: Annotated[str, PlainValidator(read_node), WithJsonSchema({"type": "string"})] | None = None
    """Name of this machine, which clients add to the URL when they resume a session, so that a load balancer finds it.
    Default: none."""


_NO_TIMEOUTS = RouteTimeouts()
_NO_DIAL_SETTINGS = DialConfig()
_NO_LIMITS = RouteLimits()
"""What routes that write none of these share, since there may be ten thousand."""


class RouteSettings(Section):
    """What routes can have in common."""

    allowed_origins: AllowedOrigins = "same"
    """Allowed Origins. same: the same origin as the Host header; a list: exactly these, where
    https://*.example.org means all names below example.org; any: all."""
    auth: AuthUnion | None = None
    """Authentication; required unless only this host can reach the route. none: anonymous access."""
    subprotocols: Subprotocols = ("binary",)
    """Accepted subprotocols; the first that the client offers is selected. An empty list accepts none; any (for ws and
    wss backends): the client's offer is passed on, and the backend selects."""
    text_messages: Literal["accept", "reject", "bytes"] = "accept"
    """Text messages from clients: accept checks that they are UTF-8 and forwards their bytes, bytes forwards them
    unchecked (not to a WebSocket backend), reject closes with 1003."""
    timeouts: RouteTimeouts = Field(default_factory=lambda: _NO_TIMEOUTS)
    """Timeouts of this route, which override the top-level ones."""
    dial: DialConfig = Field(default_factory=lambda: _NO_DIAL_SETTINGS)
    """When the backend is dialled, and how long failed attempts are retried."""
    on_client_close: Literal["discard", "deliver"] = "discard"
    """What to do with data that the backend still sends after the client's Close: discard it, or deliver it for
    half_close."""
    on_client_lost: Literal["reset", "fin"] = "reset"
    """How the backend connection is closed when the client is lost: reset (RST) or fin (FIN)."""
    on_remove: Literal["keep", "drain", "close"] = "keep"
    """What happens to open connections when a reload removes or changes the route: keep them; drain: close those that
    are left after timeouts.drain; close them at once (route_removed)."""
    on_client_fin: Literal["close", "hold"] = "close"
    """What a WebSocket backend gets after a plain TCP client's FIN: close sends the Close frame at once, hold only
    after half_close without data from the backend, for servers that would not answer any more."""
    limits: RouteLimits = Field(default_factory=lambda: _NO_LIMITS)
    """Limits of this route."""
    resume: ResumeConfig | None = None
    """Resumable sessions for WebSocket clients that offer the subprotocol wsbridge.resume.v1; others are served as
    without it. Default: none."""
    allowed_targets: AllowedTargetsConfig | None = None
    """Targets that clients may choose; required if the backend is chosen by the client, not allowed otherwise."""


class RouteDefaults(RouteSettings):
    """Settings of all routes that do not set them and to which they apply."""

    moved_keys: ClassVar = dict.fromkeys(("match", *ROUTE_ACTIONS), "each route has its own")


class RouteConfig(RouteSettings):
    """Which requests to match, and what handles them: a backend, static files, a response, or the ticket issuer."""

    match: MatchUnion | None = None
    """Which requests to match; any: all. Default: only connections of listeners that name the route."""
    backend: BackendUnion | None = None
    """Backend: a URL (tcp, tls, unix, ws or wss), or a mapping with url and further settings."""
    files: FilesUnion | None = None
    """Static files for plain HTTP requests: a directory, or a mapping with dir and further settings."""
    respond: FixedResponse | None = None
    """Fixed HTTP status for plain HTTP requests, or resume.js for the JavaScript client of resumable sessions."""
    issue_tickets: TicketIssuerConfig | None = None
    """Answers a POST with a ticket for another route; the client must be authenticated by auth."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Require exactly one action, and reject keys that it does not use."""
        goals = [key for key in ROUTE_ACTIONS if key in raw]
        if not goals and raw.keys() <= cls.model_fields.keys():
            yield Issue((), f"needs one of {', '.join(ROUTE_ACTIONS[:-1])} and {ROUTE_ACTIONS[-1]}", "E013")
        for goal in goals[1:]:
            yield Issue((goal,), f"conflicts with {goals[0]}: a route has one of them", "E013", at_key=True)
        if goals and goals[0] != "backend":
            for key in BACKEND_ONLY_KEYS:
                if key in raw and (goals[0], key) != ("issue_tickets", "allowed_origins"):
                    yield Issue((key,), f"has no effect on a route with {goals[0]}", "E013", at_key=True)
        if "issue_tickets" in goals and "auth" not in raw:
            yield Issue(("auth",), "is required: tickets are issued to authenticated clients", "E011")

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check the fields of the backend, and require rules where clients choose it."""
        pattern = uri.PathPattern(self.match.path) if isinstance(self.match, MatchConfig) and self.match.path else None
        names = () if pattern is None else pattern.parameter_names
        labels = self._host_parameters()
        if twice := next((name for name in labels if name in names), None):
            yield Issue(("match", "host"), f"the name {{{twice}}} is also in match.path", "E013")
        if self.files is not None and names:
            yield Issue(
                ("match", "path"), "files are found by the literal path: named segments are not allowed", "E013"
            )
        yield from self._check_subprotocols()
        fields = () if self.backend is None else self.backend.fields
        if fields and self.allowed_targets is None:
            text = "is required, because the backend is chosen by the client"
            yield Issue(("allowed_targets",), text, "E011")
        elif self.allowed_targets is not None and self.backend is not None and not fields:
            text = "has no effect where clients do not choose the backend"
            yield Issue(("allowed_targets",), text, "E013", at_key=True)
        websocket = self.backend is not None and self.backend.kind.startswith("ws")
        if self.text_messages == "bytes" and websocket:
            text = "bytes cannot be sent as text messages to a WebSocket backend, which would reject them: accept"
            yield Issue(("text_messages",), text, "E013")
        if self.on_client_fin == "hold" and self.backend is not None and not websocket:
            yield Issue(("on_client_fin",), "hold needs a WebSocket backend: others get a FIN", "E013")
        identity = self.auth is not None and self.auth.identifies_clients()
        known = (*names, *labels) if isinstance(self.backend, UrlBackendSection) else names  # hosts are logged
        for field in fields:
            if wrong := check_field(field, known, identity=identity):
                yield Issue(("backend",), wrong, "E040")
        yield from self._check_passed(pattern)

    def _check_subprotocols(self) -> Iterable[Issue]:
        """Check that wsbridge or the backend can select what is listed."""
        if self.backend is None:
            return
        websocket = self.backend.kind in ("ws", "wss")
        if self.subprotocols == "any" and not websocket:
            text = "any is only for ws and wss backends: others select no subprotocol"
            yield Issue(("subprotocols",), text, "E013")
        elif RESUME_SUBPROTOCOL in self.subprotocols and (self.resume is not None or not websocket):
            text = f"{RESUME_SUBPROTOCOL} is selected by itself where the route has resume: omit it"
            yield Issue(("subprotocols",), text, "E013")

    def _host_parameters(self) -> tuple[str, ...]:
        """Return the named labels that all hosts of the route have."""
        hosts = self.match.host if isinstance(self.match, MatchConfig) else None
        return uri.HostPatterns(hosts or ()).parameter_names

    def _check_passed(self, pattern: uri.PathPattern | None) -> Iterable[Issue]:
        """Check what of the client's request the backend gets."""
        rules = None if self.backend is None else self.backend.pass_rules
        if rules is None:
            return
        if rules.path and pattern is not None and not set(pattern.text) & set("*{"):
            text = f"has no effect: match.path is the one path {pattern.text}"
            yield Issue(("backend", "pass_path"), text, "E013", at_key=True)
        shown = () if self.auth is None else self.auth.credentials()
        used = {name for kind, name in shown if kind == "header"}
        for at, name in enumerate(rules.headers):
            if name.lower() in used and not rules.credentials:
                text = (
                    f"{name} authenticates clients to this route: add pass_credentials: true if the backend may have it"
                )
                yield Issue(("backend", "pass_headers", at), text, "E013")

    def accepts_cookies(self) -> bool:
        """Return whether a cookie can authenticate a client or choose its target."""
        by_auth = self.auth is not None and self.auth.accepts_cookies()
        return by_auth or (self.backend is not None and self.backend.reads_cookies)

    def effective_timeouts(self, timeouts: Timeouts) -> Timeouts:
        """Return the timeouts of the file, with those of this route replaced."""
        own = {name: getattr(self.timeouts, name) for name in self.timeouts.model_fields_set}
        return timeouts.model_copy(update=own) if own else timeouts
