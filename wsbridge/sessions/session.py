"""`ResumableSession`: one resumable session, from its first transport to the end of its backend's connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import trio

from wsbridge.access_log import AccessLog, Endings
from wsbridge.admission import RouteSlot, identity_deadline
from wsbridge.context import ConnectionContext
from wsbridge.generation import Generation, Route
from wsbridge.limits.clients import client_key
from wsbridge.log.audit import AuditLog
from wsbridge.log.logger import log
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.reasons import REASONS, Reason, Termination
from wsbridge.relay.front_session import FrontSessionRelay

OwnerKey = tuple[str, bytes]
"""Whose a session is, for the limits: `identity` and a name, or `address` and the key of a client's address."""


def owner_key(context: ConnectionContext) -> OwnerKey:
    """Return whose the sessions of a connection are."""
    if context.identity.name:
        return ("identity", context.identity.name.encode())
    return ("address", client_key(context.peer.host))


SessionClaim = tuple[str, str, str | None, str | None]
"""What a client must have in common with the one that opened a session, besides the token: route, identity, target."""


def session_claim(route: Route, context: ConnectionContext) -> SessionClaim:
    """Return what a client may resume with the token of a session that has the same."""
    return route.name, context.identity.name, context.identity.target, context.target


class SessionKeeper(Protocol):
    """Where sessions are kept; see `store`."""

    @property
    def audit_log(self) -> AuditLog | None:
        """The audit log; None if there is none."""

    def keep(self, session: ResumableSession) -> Termination | None:
        """A session has lost its transport; returns why it ends now, or None if it is kept."""

    def note_not_waiting(self, session: ResumableSession) -> None:
        """A session no longer waits for its client."""

    def forget(self, session: ResumableSession) -> None:
        """A session has ended."""


class ResumableSession:
    """One session; see `relay.session_relay.SessionOwner`.

    Args:
        keeper: Where it is kept.
        machine: Its state machine.
        route: Its route.
        generation: The configuration that it began with, which it keeps for life.
        context: Of the connection that opened it.
        redact_target: See `AccessLog`.
        slot: What it holds of the limits of its route.
        chain: The routes that it came through.
        endings: See `Services.endings`.
        age: Seconds since it was opened, by another process.

    Attributes:
        machine: As given.
        route: As given.
        generation: As given.
        context: Of its latest connection.
        owner: Whose it is.
        claim: See `session_claim`.
        relay: Its relay; set by `begin`.
        began: When it was opened, by the monotonic clock.
        fixed_json: See `Connection.fixed_json`.
    """

    __slots__ = (
        "_chain",
        "_endings",
        "_keeper",
        "_redact_target",
        "_slot",
        "began",
        "claim",
        "context",
        "fixed_json",
        "generation",
        "machine",
        "owner",
        "relay",
        "route",
    )

    relay: FrontSessionRelay

    def __init__(
        self,
        keeper: SessionKeeper,
        machine: ServerSession,
        route: Route,
        generation: Generation,
        context: ConnectionContext,
        redact_target: Callable[[str], str],
        slot: RouteSlot,
        chain: OutgoingChain,
        endings: Endings,
        age: float = 0.0,
    ) -> None:
        self._keeper = keeper
        self.machine = machine
        self.route = route
        self.generation = generation
        self.context = context
        self.owner = owner_key(context)
        self.claim = session_claim(route, context)
        self._redact_target = redact_target
        self._slot = slot
        self._chain = chain if chain.noted else None
        self._endings = endings
        self.began = time.monotonic() - age
        self.fixed_json = ""
        context.session = self.name

    def begin(self, relay: FrontSessionRelay, *, adopted: bool = False) -> None:
        """Begin to be relayed, with all that it holds until `session_ended`."""
        self.relay = relay
        self.generation.lifetime.acquire()
        self._log_step("session.adopted" if adopted else "session.opened")

    @property
    def id(self) -> int:
        """The number of its latest connection, by which operators find it."""
        return self.context.id

    @property
    def is_without_transport(self) -> bool:
        """Whether it has not ended, and no connection carries it."""
        return self.relay.carrier is None and not self.relay.front.closed

    @property
    def token_name(self) -> str | None:
        """Name of the token that its limits are counted under; None for none."""
        return self._slot.token_name or self.context.identity.token_name

    @property
    def name(self) -> str:
        """Its id in the log; not secret."""
        return self.machine.session_id.hex()

    def resumed_by(self, context: ConnectionContext) -> None:
        """Note the connection that has resumed it: the expiry of its credentials is that of the session now."""
        before, self.context = self.context, context
        context.session, context.backend_address = self.name, before.backend_address
        self.relay.options = replace(self.relay.options, auth_expires=identity_deadline(context.identity))
        self.fixed_json = ""
        self._log_step("session.resumed", replayed_bytes=self.machine.replayed_bytes)

    def session_detached(self) -> Termination | None:
        """See `SessionOwner.session_detached`."""
        termination = self._keeper.keep(self)
        if termination is None:
            self._log_step("session.detached")
        return termination

    def no_more_transports(self) -> None:
        """See `SessionOwner.no_more_transports`."""
        self._keeper.note_not_waiting(self)

    def session_ended(self) -> None:
        """See `SessionOwner.session_ended`: release what it holds, and log it."""
        self._slot.release()
        if self._chain is not None:
            self._chain.forget()
        self.generation.lifetime.release()
        self._keeper.forget(self)
        self._log_closed(self.relay.termination or Termination(Reason.INTERNAL_ERROR, "wsbridge"))
        trio.lowlevel.current_trio_token().run_sync_soon(self.relay.unlink)  # it is still at work

    def end(self, reason: Reason, detail: str) -> bool:
        """End it for a reason of wsbridge; False if it is already ending."""
        if self.relay.front.closed:
            return False
        self.relay.loop.update_clock()
        self.relay.terminate(Termination(reason, "wsbridge", detail))
        return True

    def abort(self) -> None:
        """Reset both sides."""
        self.relay.loop.update_clock()
        for side in (self.relay.front, self.relay.back):
            self.relay.abort(side)

    def go_away(self, after: float, spread: float) -> None:
        """Announce that its connection will be closed; see `SessionStore.announce_drain`."""
        self.relay.loop.update_clock()
        self.relay.go_away(int(after * 1000), int(spread * 1000))

    # ------------------------------------------------------------------ what operators see

    def facts(self) -> dict[str, object]:
        """See `Connection.facts`: those of its latest connection."""
        access_log = AccessLog(self.context, redact_target=self._redact_target)
        return {**access_log.facts(), "generation": self.generation.number}

    def live_facts(self) -> dict[str, object]:
        """See `Connection.live_facts`; only for a session without a transport."""
        relay, now = self.relay, trio.current_time()
        facts: dict[str, object] = {
            "duration_seconds": round(time.monotonic() - self.began, 3),
            "state": "detached" if self.machine.ended is None else "closing",
            "bytes_to_backend": relay.front.received_bytes,
            "bytes_to_client": relay.back.received_bytes,
            "held_bytes": self.machine.replay_bytes,
        }
        if self.machine.ended is None and relay.detached_since is not None:
            facts["detached_seconds"] = round(now - relay.detached_since, 3)
            facts["ttl_seconds"] = self.machine.ttl
        return facts

    def _log_step(self, event: str, **facts: object) -> None:
        if log.level == "debug":
            log.debug(event, id=self.id, session=self.name, route=self.route.name, **facts)

    def _log_closed(self, termination: Termination) -> None:
        """Write the line of the session, and its audit record."""
        relay, reason = self.relay, termination.reason
        stats = self.route.stats
        stats.sessions_closed[reason.value, termination.initiator] += 1
        access_log = AccessLog(self.context, redact_target=self._redact_target, audit_log=self._keeper.audit_log)
        facts = {
            **access_log.facts(),
            "reason": reason.value,
            "initiator": termination.initiator,
            **({"detail": termination.detail} if termination.detail else {}),
            **({} if termination.close_code is None else {"close_code": termination.close_code}),
            "duration_seconds": round(time.monotonic() - self.began, 3),
            "bytes_to_backend": relay.front.received_bytes,
            "bytes_to_client": relay.back.received_bytes,
            "transports": self.machine.transports,
            "replayed_bytes": self.machine.replayed_bytes,
        }
        log.emit(REASONS[reason].level, {**facts, "event": "session.closed"})
        access_log.audit_session_end(facts)
        self._endings.append((time.time(), "session.closed", self.context.peer.host, facts))
