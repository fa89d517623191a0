"""The sections `limits` and `timeouts`, of the process, of a client address and of a route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wsbridge.config.base import Issue, LoadContext, Section
from wsbridge.config.types import (
    UNIX_CLIENTS,
    Count,
    CountOrAuto,
    CountOrOff,
    Duration,
    DurationOrOff,
    NetworkOrUnix,
    PercentOrOff,
    PositiveCount,
    PositiveDuration,
    Size,
    SizeOrOff,
    at_least,
    at_most,
    check_whole_seconds,
)

LOCAL_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1"), UNIX_CLIENTS)
"""Where proxies on this host connect from, each for many clients."""


MAX_ACCEPT_PAUSE_SECONDS = 10.0
"""Below half of the WatchdogSec= of the systemd unit, so that a pause is not regarded as a hang."""


def check_accept_pause(seconds: float) -> float:
    """Check the maximum of accept_pause."""
    if seconds > MAX_ACCEPT_PAUSE_SECONDS:
        raise ValueError(f"must not be more than {MAX_ACCEPT_PAUSE_SECONDS:g}s")
    return seconds


class ClientLimits(Section):
    """Limits per client address: per IPv4 address, and per /64 of IPv6."""

    connections: CountOrOff = 512
    """Concurrent connections per address; more are rejected with 429. off: unlimited."""
    handshake_rate: CountOrOff = 100
    """WebSocket handshakes, plain TCP connections and requests that are authenticated, per second per address; more
    are rejected with 429. off: unlimited."""
    handshake_burst: Annotated[PositiveCount, AfterValidator(at_most(1_000_000))] = 1000
    """Burst size of handshake_rate (token bucket)."""
    max_failures: CountOrOff = 10
    """Failed logins within failure_window after which an address is banned. off: no bans."""
    failure_window: PositiveDuration = 60.0
    """Period in which failed logins are counted, starting with the first."""
    ban_time: PositiveDuration = 300.0
    """How long connections from a banned address are reset."""
    table_size: Annotated[PositiveCount, AfterValidator(at_least(16)), AfterValidator(at_most(4_194_304))] = 65536
    """Addresses remembered without an open connection, and as many banned ones; about 300 bytes each."""
    exempt: tuple[NetworkOrUnix, ...] = LOCAL_NETWORKS
    """Networks exempt from these limits, or unix for Unix sockets. By default this host, since its clients may be
    proxies."""

    @classmethod
    def validate_keys(cls, raw: Mapping[str, object]) -> Iterable[Issue]:
        """Reject keys without effect."""
        for switch, idle in (
            ("handshake_rate", ("handshake_burst",)),
            ("max_failures", ("failure_window", "ban_time")),
        ):
            for key in idle:
                if raw.get(switch) == "off" and key in raw:
                    yield Issue((key,), f"has no effect with {switch}: off", "E013", at_key=True)


def check_thread_count(number: int | Literal["auto"]) -> int | Literal["auto"]:
    """Check that a number of threads is not absurd."""
    return number if number == "auto" else at_most(256)(number)


class Limits(Section):
    """Resource limits."""

    connections: CountOrAuto = "auto"
    """Concurrent connections. auto: from the limit of open files; two file descriptors per connection, minus a
    reserve."""
    max_memory: PercentOrOff = 0.9
    """Share of the memory limit (MemoryMax=, MemoryHigh=, RLIMIT_AS) above which no more connections are accepted than
    are open; others get 503. off: they are accepted until the kernel ends the process."""
    max_head_bytes: Annotated[Size, AfterValidator(at_least(1024)), AfterValidator(at_most(1024 * 1024))] = 16 * 1024
    """Maximum size of a request head."""
    max_head_line_bytes: Annotated[Size, AfterValidator(at_least(256)), AfterValidator(at_most(1024 * 1024))] = 8 * 1024
    """Maximum length of one line of a request head."""
    max_headers: Annotated[PositiveCount, AfterValidator(at_most(10_000))] = 100
    """Maximum number of headers of a request."""
    max_response_head_bytes: Annotated[Size, AfterValidator(at_least(1024)), AfterValidator(at_most(1024 * 1024))] = (
        64 * 1024
    )
    """Maximum size of the head of a response of a WebSocket backend or a proxy."""
    max_proxy_header_bytes: Annotated[Size, AfterValidator(at_least(536)), AfterValidator(at_most(16 * 1024))] = (
        4 * 1024
    )
    """Maximum size of a PROXY header of version 2; one of version 1 has at most 107 bytes."""
    overload_replies: Count = 64
    """Concurrent clients over a limit of connections that are answered with 503; further ones are reset."""
    lingering_sockets: Count = 256
    """Concurrent sockets in lingering close, which read what a rejected peer still sends."""
    lingering_bytes: Size = 256 * 1024
    """Maximum number of bytes read from one such socket."""
    control_frame_rate: PositiveCount = 2000
    """Control or empty frames per second, over five seconds; more close the connection with control_flood."""
    max_frame_bytes: Annotated[Size, AfterValidator(at_least(125)), AfterValidator(at_most(64 * 1024))] = 64 * 1024
    """Maximum payload of a frame that is sent."""
    used_tickets: PositiveCount = 65536
    """Used tickets remembered until they expire; while the table is full, all tickets are rejected."""
    used_tickets_per_identity: PositiveCount = 1024
    """How many of them may be of one identity, or of one client address for tickets without a name."""
    dns_threads: Annotated[PositiveCount, AfterValidator(at_most(256))] = 32
    """Concurrent DNS lookups of names in the configuration."""
    dns_threads_per_route: Annotated[PositiveCount, AfterValidator(at_most(256))] = 4
    """Concurrent DNS lookups of names that the clients of one route choose; others of that route wait."""
    dns_threads_per_address: Annotated[PositiveCount, AfterValidator(at_most(256))] = 2
    """How many of the lookups of one route may be for one client address; further ones of that client wait."""
    dns_ttl: Duration = 30.0
    """DNS cache TTL."""
    dns_negative_ttl: Duration = 2.0
    """Negative DNS cache TTL."""
    password_threads: Annotated[CountOrAuto, AfterValidator(check_thread_count)] = "auto"  # noqa: S105 (a number of threads)
    """Concurrent password verifications, each on its own core. auto: the number of cores."""
    password_queue: Count = 64
    """Passwords waiting to be verified; further clients get 503."""
    password_queue_per_address: PositiveCount = 8
    """Passwords of one client address that are waiting or verified; more are rejected with 429."""
    detached_sessions: Count = 1000
    """Sessions of routes with resume that wait for their client; beyond it, the oldest of the same route and owner
    ends, or else the one that was about to wait."""
    detached_sessions_per_identity: PositiveCount = 100
    """How many of them may be of one identity, or of one client address for clients without a name; beyond it, the
    oldest of the same route ends."""
    replay_memory: Annotated[Size, AfterValidator(at_least(1024 * 1024))] = 256 * 1024 * 1024
    """Bytes of all sessions together that are kept to be sent again; beyond it, no session waits for its client, and
    no new one begins."""
    engine_threads: Annotated[CountOrAuto, AfterValidator(check_thread_count)] = "auto"
    """Threads of the native engine. auto: the number of cores. A change needs a restart."""
    per_address: ClientLimits = Field(default_factory=ClientLimits)
    """Limits per client address."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check that a line is not longer than the head."""
        if self.max_head_line_bytes > self.max_head_bytes:
            text = "must not be larger than max_head_bytes, since a line is a part of it"
            key = "max_head_line_bytes" if "max_head_line_bytes" in self.model_fields_set else "max_head_bytes"
            yield Issue((key,), text, "E013")


MIN_BYTES_PER_SECOND = 1024
"""Bytes a second; less would mean reads of a few bytes."""


def check_rate(rate: int | None) -> int | None:
    """Check that a rate is off or not below the slowest."""
    if rate is not None and rate < MIN_BYTES_PER_SECOND:
        raise ValueError(f"{rate} bytes a second is too low: the minimum is {MIN_BYTES_PER_SECOND}")
    return rate


ByteRateOrOff = Annotated[SizeOrOff, AfterValidator(check_rate)]


class RouteLimits(Section):
    """Limits of a route."""

    connections: CountOrOff = None
    """Concurrent connections of this route; more are rejected with 429. off: unlimited."""
    connections_per_identity: CountOrOff = None
    """Concurrent connections per identity on this route. off: unlimited."""
    connections_per_token: CountOrOff = None
    """Concurrent connections per token on this route. off: unlimited."""
    bytes_per_second: ByteRateOrOff = None
    """Payload bytes per second of one connection, in each direction. off: unlimited."""
    identity_bytes_per_second: ByteRateOrOff = None
    """Payload bytes per second of all connections of one identity on this route together, in each direction. off:
    unlimited."""

    @property
    def needs_no_counting(self) -> bool:
        """Whether no connection has to be counted."""
        counted = (self.connections, self.connections_per_identity, self.connections_per_token)
        return (*counted, self.identity_bytes_per_second) == (None,) * 4


MAX_DEFAULT_SPREAD = 5.0
GLOBAL_TIMEOUTS = (
    "handshake",
    "tls",
    "proxy_header",
    "drain_delay",
    "drain",
    "drain_spread",
    "retry_after",
    "accept_pause",
    "file_read",
    "lingering",
    "overload_reply",
)
"""The timeouts that all routes share."""


class RouteTimeouts(Section):
    """Timeouts that a route may override."""

    moved_keys = dict.fromkeys(GLOBAL_TIMEOUTS, "no route is known yet when it counts; write it in timeouts at the top")

    connect: PositiveDuration = 5.0
    """Timeout for resolving, connecting and handshaking with the backend."""
    idle: DurationOrOff = None
    """Idle timeout: closes a connection without payload in either direction; pings do not count."""
    ping_interval: DurationOrOff = 20.0
    """Keepalive: idle time in either direction after which a WebSocket peer is pinged."""
    ping_timeout: PositiveDuration = 20.0
    """Time from the delivery of a ping to its pong, after which the peer is considered lost."""
    write: DurationOrOff = 600.0
    """Write timeout: a peer that accepts no pending data for this long is considered stalled."""
    half_close: Duration = 30.0
    """How long the other direction may continue after one direction was closed."""
    close: PositiveDuration = 5.0
    """Timeout for the closing handshake, and for data still to be delivered at that point, such as the response to a
    rejected request."""
    max_lifetime: DurationOrOff = None
    """Maximum lifetime of a connection, regardless of its activity."""


class Timeouts(RouteTimeouts):
    """Timeouts. A route may override those from connect to max_lifetime."""

    handshake: PositiveDuration = 10.0
    """From the accepted connection (or the end of the TLS handshake) to the complete request head; jitter adds up to
    a tenth. Also how long the client may take to accept the 101."""
    tls: PositiveDuration = 10.0
    """Timeout for a client's TLS handshake."""
    proxy_header: PositiveDuration = 3.0
    """From the accepted connection to the complete PROXY header, on listeners that require one."""
    drain_delay: Duration = 0.0
    """Graceful shutdown: how long new connections are still served after SIGTERM, so that load balancers notice that
    wsbridge is not ready any more."""
    drain: Duration = 20.0
    """Graceful shutdown: time after drain_delay until the last connection is closed; new clients get 503."""
    drain_spread: Duration = Field(default_factory=lambda data: min(MAX_DEFAULT_SPREAD, data["drain"]))
    """The last part of drain, over which the remaining connections are closed gradually; not longer than drain.
    Default: 5s, or drain if that is shorter."""
    retry_after: Annotated[Duration, AfterValidator(check_whole_seconds)] = 1.0
    """Retry-After value of overload responses, in whole seconds."""
    accept_pause: Annotated[PositiveDuration, AfterValidator(check_accept_pause)] = 0.1
    """Pause before accepting again after EMFILE or ENFILE; at most 10s."""
    file_read: PositiveDuration = 30.0
    """How long opening a file of a files route, or reading a chunk of it, may take; then its file system counts as hung
    (503)."""
    lingering: Duration = 2.0
    """Lingering close: how long data from a rejected peer is read and dropped before its socket is closed."""
    overload_reply: PositiveDuration = 2.0
    """Deadline for a client over a limit of connections to send its request head and receive the 503."""

    def validate_values(self, context: LoadContext) -> Iterable[Issue]:
        """Check that drain_spread is not longer than drain."""
        if self.drain_spread > self.drain:
            text = "must not be longer than drain, since it is the end of it"
            yield Issue(("drain_spread",), text, "E013")
