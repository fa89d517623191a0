"""What outlives a generation of the configuration and a single connection: `Services`."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Literal
from weakref import WeakValueDictionary

import trio

from wsbridge.access_log import MAX_ENDINGS, Endings
from wsbridge.auth.access_list import AccessList, AccessListKey
from wsbridge.auth.jwt_keys import FetchedKeys, KeySource
from wsbridge.auth.passwords import PasswordChecker
from wsbridge.auth.replay import UsedTickets
from wsbridge.config.model import Config
from wsbridge.counters import ListenerStats, RouteStats
from wsbridge.engine_choice import build_engine, build_tls, choose_engine
from wsbridge.frontend import LingeringCloser
from wsbridge.limits.clients import ClientTable, ConnectionCounts
from wsbridge.limits.rate import SharedBucketTable
from wsbridge.log.audit import AuditLog
from wsbridge.net.address import ListeningAddresses
from wsbridge.net.disconnect import DisconnectMonitor
from wsbridge.net.loop_detection import OwnConnections
from wsbridge.net.resolver import Resolver
from wsbridge.reasons import Reason, Termination
from wsbridge.relay.engine import Engine
from wsbridge.sessions.store import SessionStore
from wsbridge.taskless import Runner


class Services:
    """What the connections of all generations share.

    Args:
        config: Checked.
        one_connection: Stop accepting as soon as one connection is about to dial its backend.
        open_level: Level of the event `connection.open`.

    Attributes:
        one_connection: As given.
        engine: Relays bytes.
        runner: Runs connections until they are relayed, and calls them when that has ended.
        engine_choice: What was chosen, once for the process.
        tls: Does TLS.
        resolver: Looks up names.
        password_checker: Verifies passwords.
        fetched_keys: The keys of token issuers that a generation has.
        access_lists: The lists of users and tokens that open connections depend on.
        used_tickets: The tickets that were used.
        client_table: What clients did lately, by address.
        connection_counts: Connections now, by what routes limit.
        shared_buckets: Bytes a second that several connections have in common.
        lingering_closer: Closes rejected connections.
        disconnect_monitor: Clients whose backends are being dialed; a shutdown cuts that short.
        request_read_scopes: Waits for a request, which a shutdown cuts short, too.
        idle_scopes: Those of them on persistent connections that are idle; a shutdown cuts them short at once.
        listening_addresses: What this process listens at.
        own_connections: Those that it opens to its own listeners.
        endings: The last connections that ended.
        sessions: The resumable sessions of clients.
        audit_log: The audit, if there is one.
        active_overload_replies: Clients that are getting a 503 over the connection limit.
        shutdown_reason: Why requests are rejected now; None while serving.
        released_listeners: Names of listeners whose sockets the next process has: a drain goes on serving connections
            accepted there before, since only new ones reach that process.
        stop_requested: Set when nothing more is to be accepted.
        only_termination: With `one_connection`, how that connection ended; None before, or if it never came.
    """

    def __init__(
        self, config: Config, *, one_connection: bool = False, open_level: Literal["debug", "info"] = "debug"
    ) -> None:
        limits = config.limits
        self.engine_choice = choose_engine(config)
        self.engine: Engine = build_engine(config)
        self.runner = Runner()
        self.tls = build_tls(config)
        self.resolver = Resolver(
            limits.dns_threads,
            limits.dns_ttl,
            limits.dns_negative_ttl,
            client_threads=limits.dns_threads_per_route,
            threads_per_client=limits.dns_threads_per_address,
        )
        threads = limits.password_threads if isinstance(limits.password_threads, int) else None
        self.password_checker = PasswordChecker(threads, limits.password_queue, limits.password_queue_per_address)
        self.fetched_keys: WeakValueDictionary[KeySource, FetchedKeys] = WeakValueDictionary()
        self.access_lists: WeakValueDictionary[AccessListKey, AccessList[Any]] = WeakValueDictionary()
        self.used_tickets = UsedTickets(limits.used_tickets, limits.used_tickets_per_identity)
        self.client_table = ClientTable(limits.per_address, time.monotonic)
        self.connection_counts = ConnectionCounts()
        self.shared_buckets = SharedBucketTable()
        self.lingering_closer = LingeringCloser(
            limits.lingering_sockets, config.timeouts.lingering, limits.lingering_bytes
        )
        self.disconnect_monitor = DisconnectMonitor()
        self.request_read_scopes: set[trio.CancelScope] = set()
        self.idle_scopes: set[trio.CancelScope] = set()
        self.listening_addresses = ListeningAddresses()
        self.own_connections = OwnConnections(self.listening_addresses)
        self.endings: Endings = deque(maxlen=MAX_ENDINGS)
        self.sessions = SessionStore(limits, self.endings, lambda: self.audit_log)
        self.audit_log = None if config.audit is None else AuditLog(config.audit.file)
        self._retired_audit_logs: list[AuditLog] = []
        self.active_overload_replies = 0
        self.shutdown_reason: Reason | None = None
        self.released_listeners: frozenset[str] = frozenset()
        self.stop_requested = trio.Event()
        self.open_level: Literal["debug", "info"] = open_level
        self.only_termination: Termination | None = None
        self.one_connection = one_connection
        self._only_connection_taken = False
        self._max_overload_replies = limits.overload_replies
        # Of what exists in the generations that are in use:
        self._stats_by_route: WeakValueDictionary[str, RouteStats] = WeakValueDictionary()
        self._stats_by_listener: WeakValueDictionary[str, ListenerStats] = WeakValueDictionary()

    def prepare_audit(self, config: Config) -> AuditLog | None:
        """Return the audit log of another configuration, open; blocks.

        Raises:
            ValueError: Its file cannot be opened; one sentence.
        """
        if config.audit is None or (self.audit_log is not None and self.audit_log.path == config.audit.file):
            return None if config.audit is None else self.audit_log
        audit_log = AuditLog(config.audit.file)
        audit_log.open()
        return audit_log

    def configure(self, config: Config, audit_log: AuditLog | None) -> AuditLog | None:
        """Apply the limits and the audit log of another configuration.

        Returns:
            The audit log that was in use before, where it is another one: still open, for the connections that have it.
        """
        limits = config.limits
        threads = limits.password_threads if isinstance(limits.password_threads, int) else None
        self.engine.set_max_lingering(limits.lingering_sockets)
        self.resolver.configure(
            limits.dns_threads,
            limits.dns_ttl,
            limits.dns_negative_ttl,
            client_threads=limits.dns_threads_per_route,
            threads_per_client=limits.dns_threads_per_address,
        )
        self.password_checker.configure(threads, limits.password_queue, limits.password_queue_per_address)
        self.used_tickets.configure(limits.used_tickets, limits.used_tickets_per_identity)
        self.client_table.configure(limits.per_address)
        self.sessions.configure(limits)
        self.lingering_closer.configure(limits.lingering_sockets, config.timeouts.lingering, limits.lingering_bytes)
        self._max_overload_replies = limits.overload_replies
        before, self.audit_log = self.audit_log, audit_log
        if before is None or before is audit_log:
            return None
        self._retired_audit_logs.append(before)
        return before

    def close_audit_log(self, audit_log: AuditLog) -> None:
        """Close one that `configure` returned; blocks."""
        audit_log.close()
        self._retired_audit_logs.remove(audit_log)

    def route_stats(self, route: str) -> RouteStats:
        """Return the counters of a route, by name, as long as a generation has it."""
        return self._stats_by_route.setdefault(route, RouteStats())

    def listener_stats(self, listener: str) -> ListenerStats:
        """Return the counters of a listener, by name, as long as a generation has it."""
        return self._stats_by_listener.setdefault(listener, ListenerStats())

    def take_only_connection(self) -> bool:
        """Note, with `one_connection`, that a connection is about to dial its backend.

        Returns:
            False if another one has done so before.
        """
        if self._only_connection_taken:
            return False
        self._only_connection_taken = True
        self.stop_requested.set()
        return True

    def only_connection_ended(self, termination: Termination) -> None:
        """Note how the only connection ended."""
        self.only_termination = termination

    def acquire_overload_reply(self) -> bool:
        """Acquire one of the `overload_replies`; False if none is left: then the client is reset without a response."""
        if self.active_overload_replies >= self._max_overload_replies:
            return False
        self.active_overload_replies += 1
        return True

    def release_overload_reply(self) -> None:
        """Release it."""
        self.active_overload_replies -= 1

    def close(self) -> None:
        """Close the descriptors of the services."""
        self.runner.close()
        self.engine.close()
        self.disconnect_monitor.close()
        for audit_log in (*self._retired_audit_logs, self.audit_log):
            if audit_log is not None:
                audit_log.close()
