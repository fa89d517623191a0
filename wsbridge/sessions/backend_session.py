"""`BackendSession`: the session of a plain client with a WebSocket server, which gets one transport after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import trio

from wsbridge.backends.base import Backend, Connected, DialRequest
from wsbridge.backends.passed_request import PassedRequest
from wsbridge.backends.resumption import SessionDialer
from wsbridge.context import ConnectionContext
from wsbridge.generation import Route
from wsbridge.log.logger import log
from wsbridge.net.dialer import DialProgress
from wsbridge.protocol.reconnect import ReconnectSchedule
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import RESUME_SUBPROTOCOL
from wsbridge.reasons import Reason, Rejected, Termination
from wsbridge.relay.back_session import BackSessionRelay


class BackendSession:
    """Keeps a session going: dials again when its transport is lost; see `relay.back_session.BackSessionOwner`.

    Args:
        machine: The session.
        backend: Of the route.
        dial_request: That of its first transport.
        route: Of the client.
        context: Of the connection of the client.

    Attributes:
        state: Whether a transport carries the session, was given to it, or is missing.
        relay: Its relay; set once it has begun.
    """

    relay: BackSessionRelay

    def __init__(
        self,
        machine: ClientSession,
        backend: Backend,
        dial_request: DialRequest,
        route: Route,
        context: ConnectionContext,
    ) -> None:
        self.state: Literal["attached", "resuming", "detached"] = "attached"
        self._machine = machine
        self._backend = backend
        self._dial_request = replace(dial_request, subprotocols=(RESUME_SUBPROTOCOL,), from_client=True)
        self._route = route
        self._context = context
        self._schedule = ReconnectSchedule()
        self._schedule.attached(trio.current_time())
        self._lost_at = 0.0
        self._failures = 0
        self._over = False
        self._changed = trio.Event()
        self._dial_scope = trio.CancelScope()
        route.stats.backend_sessions += 1

    @property
    def name(self) -> str:
        """Its id in the log of both ends; not secret."""
        return self._machine.session_id.hex()

    # ------------------------------------------------------------------ what its relay reports

    def session_detached(self) -> Termination | None:
        """See `SessionOwner.session_detached`: it is kept until its ttl."""
        now = trio.current_time()
        if self.state == "attached":
            self._lost_at, self._failures = now, 0
            self._schedule.lost(now, self._machine.progress)
            self._route.stats.backend_transports_lost += 1
            self._route.stats.backend_sessions_detached += 1
            self._log("backend.lost", detail=self.relay.last_loss)
        else:
            self._failures += 1
            self._schedule.failed(now)
        self.state = "detached"
        self._changed.set()
        return None

    def session_resumed(self, replayed_bytes: int) -> None:
        """See `BackSessionOwner.session_resumed`."""
        now = trio.current_time()
        self._schedule.attached(now)
        self._route.stats.backend_sessions_resumed += 1
        self._leave_detached()
        self._changed.set()
        self._log(
            "backend.resumed",
            backend_address=self._context.backend_address,
            attempts=self._failures + 1,
            outage_seconds=round(now - self._lost_at, 3),
            replayed_bytes=replayed_bytes,
        )

    def going_away(self, after: float, jitter: float) -> None:
        """See `BackSessionOwner.going_away`."""
        self._schedule.going_away(after, jitter)

    def no_more_transports(self) -> None:
        """See `SessionOwner.no_more_transports`."""
        self._leave_detached()
        self._over = True
        self._dial_scope.cancel()
        self._changed.set()

    def session_ended(self) -> None:
        """See `SessionOwner.session_ended`."""
        self.no_more_transports()

    def _leave_detached(self) -> None:
        if self.state != "attached":
            self._route.stats.backend_sessions_detached -= 1
            self.state = "attached"

    def _log(self, event: str, **facts: object) -> None:
        context = self._context
        log.info(event, id=context.id, route=context.route, backend=context.backend, session=self.name, **facts)

    # ------------------------------------------------------------------ transports

    async def run(self) -> None:
        """Give the session another transport whenever it has none, until it has ended."""
        try:
            while not self._over:
                if self.state == "detached":
                    await self._replace_transport()
                else:
                    await self._wait()
        except Exception:
            log.exception("internal_error", component="backend_session", id=self._context.id)
            self.relay.loop.update_clock()
            self.relay.terminate(Termination(Reason.INTERNAL_ERROR, "wsbridge"))

    async def _wait(self) -> None:
        """Wait until something has changed; a transport on which RESUME is not answered in time is lost."""
        self._changed = trio.Event()
        timeout = None if self.state == "attached" else self._route.connect_timeout
        with trio.CancelScope() as scope:
            if timeout is not None:
                scope.deadline = trio.current_time() + timeout
            await self._changed.wait()
        carrier = self.relay.carrier
        if scope.cancelled_caught and self.state == "resuming" and carrier is not None:
            self.relay.loop.update_clock()
            self.relay.lose(carrier, f"no answer to RESUME within connect, {timeout:g} s")

    async def _replace_transport(self) -> None:
        dialer = SessionDialer(
            self._machine, self._dial, self._schedule, self._route.connect_timeout, self._note_failure
        )
        connected: Connected | None = None
        with trio.CancelScope() as self._dial_scope:
            try:
                connected = await dialer.dial()
            except Rejected as rejected:
                self.relay.give_up(Reason.RESUME_REJECTED, rejected.detail)
        if connected is None:
            return
        if self._over:
            connected.side.transport.abort()
            return
        self.state = "resuming"
        self._context.backend_address = connected.address
        self.relay.go_on(connected.side)

    async def _dial(self, passed: PassedRequest | None, progress: DialProgress) -> Connected:
        """Make one attempt; see `resumption.DialTransport`."""
        return await self._backend.dial(replace(self._dial_request, passed=passed, progress=progress))

    def _note_failure(self, rejected: Rejected) -> None:
        self._failures += 1
        self.relay.last_loss = rejected.detail
