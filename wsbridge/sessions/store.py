"""All resumable sessions: which one a client may resume, how many wait for their clients, and how much they hold."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from typing import Final

import trio

from wsbridge.access_log import Endings
from wsbridge.admission import RouteSlot
from wsbridge.backends.base import Connected
from wsbridge.config.limits import Limits
from wsbridge.context import ConnectionContext
from wsbridge.generation import Generation, Route
from wsbridge.log.audit import AuditLog
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.protocol.resume import Ended
from wsbridge.protocol.resume_frames import REJECTED_TEXT, SESSION_ID_BYTES, TOKEN_BYTES, Open, Resume, ResumeCode
from wsbridge.protocol.resume_server import Resumption, ServerSession, reject_resume
from wsbridge.reasons import REASONS, Reason, Rejected, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.relay.engine import Engine
from wsbridge.relay.relay import RelayOptions
from wsbridge.relay.session_stream import ReplayMemory
from wsbridge.sessions.saved_state import SavedSession
from wsbridge.sessions.session import OwnerKey, ResumableSession, SessionClaim, session_claim

MAX_ENDED_PER_TURN: Final = 32
"""Sessions or relayed connections that a stop ends in one turn of the event loop; some milliseconds."""
MAX_REMEMBERED: Final = 4096
"""Ended sessions of which is known that their tokens were valid, and why they ended; about 1 KiB each."""

_REASON_BY_CODE: Final[dict[int, Reason]] = {
    ResumeCode.REJECTED: Reason.RESUME_REJECTED,
    ResumeCode.GAP: Reason.RESUME_GAP,
    ResumeCode.SUPERSEDED: Reason.SUPERSEDED,
    ResumeCode.RESTARTED: Reason.SESSION_LOST,
    ResumeCode.DRAINING: Reason.DRAINING,
}


class SessionRejected(Rejected):
    """The client may not have the session that it asks for.

    Attributes:
        refusal: Code and text that it gets.
    """

    def __init__(self, resumption: Resumption) -> None:
        code, text = resumption.refusal or (ResumeCode.REJECTED, REJECTED_TEXT)
        reason = _REASON_BY_CODE.get(code, Reason.RESUME_REJECTED)
        if resumption.bad_token:
            detail = "a session of another client, or a wrong token"
        else:
            detail = "unknown session, or it has ended" if code == ResumeCode.REJECTED else f"{code}: {text}"
        super().__init__(reason, detail, failed_login=resumption.bad_token)
        self.refusal = (int(code), text)


@dataclass(slots=True)
class _Remembered:
    """A session that has ended.

    Attributes:
        machine: Its state machine, which holds nothing any more.
        claim: See `ResumableSession.claim`.
        until: When it is forgotten, by the loop's clock.
    """

    machine: ServerSession
    claim: SessionClaim
    until: float


def _describe_end(end: Ended) -> Resumption:
    """Return what a client with the right token learns of a session that has ended."""
    if end.by == "peer" or end.code is None or end.code < ResumeCode.REJECTED:
        return Resumption((ResumeCode.REJECTED, REJECTED_TEXT))
    if end.code in (ResumeCode.CAPACITY, ResumeCode.DRAINING):  # these would mean that it goes on later
        return Resumption((ResumeCode.ENDED_BY_RULE, end.text))
    return Resumption((end.code, end.text))


class SessionStore:
    """The sessions of this process.

    Args:
        limits: The section of the configuration.
        endings: See `Services.endings`.
        audit_log: Gives the audit log; None if there is none.

    Attributes:
        epoch: By which clients recognize that their session is of this process.
        memory: What all sessions hold.
        sessions: Those that have not ended, by id.
        detached: Those of them that wait for their clients, the longest first.
        has_successor: Whether another process has the sessions that could move, or is given them: none begins here.
    """

    def __init__(
        self, limits: Limits, endings: Endings, audit_log: Callable[[], AuditLog | None] = lambda: None
    ) -> None:
        self.epoch = secrets.randbits(63) + 1
        self.memory = ReplayMemory(limits.replay_memory)
        self.sessions: dict[bytes, ResumableSession] = {}
        self.detached: OrderedDict[bytes, ResumableSession] = OrderedDict()
        self._detached_by_owner: Counter[OwnerKey] = Counter()
        self._ended: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._endings = endings
        self._audit_log = audit_log
        self.has_successor = False
        self._gives_away = False
        self._expected: dict[bytes, trio.Event] = {}  # those that another process hands over
        self._elsewhere: set[bytes] = set()  # those that another process has, or had
        self._routes: Container[str] | None = None  # after a reload: the names of those that there are
        self.configure(limits)

    def configure(self, limits: Limits) -> None:
        """Apply another section to what happens from now on."""
        self.memory.limit = limits.replay_memory
        self._max_detached = limits.detached_sessions
        self._max_detached_per_owner = limits.detached_sessions_per_identity

    # ------------------------------------------------------------------ for connections

    def check_room(self) -> None:
        """Check that one more session may begin.

        Raises:
            Rejected: The sessions hold as much as they may, or they are given to another process.
        """
        if self.memory.is_full:
            raise Rejected(Reason.OVERLOAD, self._describe_memory(), initiator="wsbridge")
        if self.has_successor:
            raise Rejected(Reason.DRAINING, "sessions begin in the next process", initiator="wsbridge")

    def open(
        self,
        opening: Open,
        connected: Connected,
        options: RelayOptions,
        engine: Engine,
        *,
        route: Route,
        generation: Generation,
        context: ConnectionContext,
        redact_target: Callable[[str], str],
        slot: RouteSlot,
        chain: OutgoingChain,
    ) -> ResumableSession:
        """Begin a session with a backend that is connected; its transport is to be carried at once.

        Raises:
            Rejected: See `check_room`.
        """
        self.check_room()
        assert route.session_terms is not None  # noqa: S101 (asked only for such routes)
        machine = ServerSession(
            opening,
            epoch=self.epoch,
            session_id=secrets.token_bytes(SESSION_ID_BYTES),
            terms=route.session_terms,
            new_token=lambda: secrets.token_bytes(TOKEN_BYTES),
        )
        machine.opened(trio.current_time())
        session = ResumableSession(self, machine, route, generation, context, redact_target, slot, chain, self._endings)
        bucket = slot.shared_bucket
        session.begin(engine.open_session(machine, connected.side, options, self.memory, session, bucket))
        self.sessions[machine.session_id] = session
        route.stats.sessions_opened += 1
        return session

    async def wait_until_adopted(self, session_id: bytes) -> None:
        """Wait until a session that another process hands over is here, or will not be."""
        expected = self._expected.get(session_id)
        if expected is not None:
            await expected.wait()

    def resume(self, frame: Resume, route: Route, context: ConnectionContext) -> ResumableSession:
        """Return the session that a client resumes; its transport is to be carried at once.

        Args:
            frame: What it sent.
            route: Its route.
            context: What is known about it.

        Raises:
            SessionRejected: It may not.
        """
        if frame.epoch != self.epoch:
            raise SessionRejected(Resumption((ResumeCode.RESTARTED, Reason.SESSION_LOST.value)))
        self._forget_old()
        session = self.sessions.get(frame.session_id)
        if session is None:
            self._check_not_elsewhere(frame.session_id)
        elif session.relay.is_moving:
            raise SessionRejected(Resumption((ResumeCode.DRAINING, Reason.DRAINING.value)))
        found = session or self._ended.get(frame.session_id)
        if found is None:  # a client that comes back far too late has guessed nothing: no failed login
            raise SessionRejected(replace(reject_resume(frame), bad_token=False))
        if found.claim != session_claim(route, context):
            raise SessionRejected(reject_resume(frame))
        resumption = found.machine.resume(frame, trio.current_time())
        if found.machine.ended is not None and not resumption.bad_token:
            resumption = _describe_end(found.machine.ended)
        if session is None or resumption.refusal is not None:
            if session is not None and resumption.refusal is not None and resumption.refusal[0] == ResumeCode.GAP:
                session.relay.loop.update_clock()
                session.relay.terminate(Termination(Reason.RESUME_GAP, "client", resumption.refusal[1]))
            raise SessionRejected(resumption)
        self.note_not_waiting(session)
        session.resumed_by(context)
        session.route.stats.sessions_resumed += 1
        return session

    def _check_not_elsewhere(self, session_id: bytes) -> None:
        """Check that no other process has a session, or had it.

        Raises:
            SessionRejected: The client is to try again (4014), since its session is on the way; or it is lost (4004).
        """
        if session_id in self._expected or (self.has_successor and session_id in self._elsewhere):
            raise SessionRejected(Resumption((ResumeCode.DRAINING, Reason.DRAINING.value)))
        if session_id in self._elsewhere:
            raise SessionRejected(Resumption((ResumeCode.RESTARTED, Reason.SESSION_LOST.value)))

    # ------------------------------------------------------------------ for sessions

    @property
    def audit_log(self) -> AuditLog | None:
        """See `SessionKeeper.audit_log`."""
        return self._audit_log()

    def keep(self, session: ResumableSession) -> Termination | None:
        """See `SessionKeeper.keep`: within the limits, of which the oldest session of the same client makes room."""
        if self._routes is not None and session.route.name not in self._routes:
            return Termination(Reason.ROUTE_REMOVED, "wsbridge")
        if self.has_successor and not self._gives_away:
            return Termination(Reason.SESSION_LOST, "wsbridge", "its client can reach another process only")
        if self.memory.is_full:
            return Termination(Reason.OVERLOAD, "wsbridge", self._describe_memory())
        most, whose = self._max_detached_per_owner, "detached_sessions_per_identity"
        count = self._detached_by_owner[session.owner]
        if count < most:
            most, whose, count = self._max_detached, "detached_sessions", len(self.detached)
        if count >= most:
            text = f"{count} sessions wait for their clients, and limits.{whose} is {most}"
            oldest = self._oldest_of(session)
            if oldest is None:
                return Termination(Reason.OVERLOAD, "wsbridge", text)
            oldest.end(Reason.SESSION_DISPLACED, text)
        self.detached[session.machine.session_id] = session
        self._detached_by_owner[session.owner] += 1
        return None

    def _oldest_of(self, session: ResumableSession) -> ResumableSession | None:
        """Return the session of the same client and route that has waited the longest; None for none."""
        wanted = (session.owner, session.route.name)
        return next((one for one in self.detached.values() if (one.owner, one.route.name) == wanted), None)

    def note_not_waiting(self, session: ResumableSession) -> None:
        """See `SessionKeeper.note_not_waiting`."""
        if self.detached.pop(session.machine.session_id, None) is not None:
            self._detached_by_owner[session.owner] -= 1
            if not self._detached_by_owner[session.owner]:
                del self._detached_by_owner[session.owner]

    def forget(self, session: ResumableSession) -> None:
        """See `SessionKeeper.forget`."""
        self.note_not_waiting(session)
        del self.sessions[session.machine.session_id]
        if session.machine.ended is None:
            self._elsewhere.add(session.machine.session_id)
            return
        self._ended[session.machine.session_id] = _Remembered(
            session.machine, session.claim, trio.current_time() + session.machine.ttl
        )
        self._forget_old()

    def _forget_old(self) -> None:
        """Forget sessions that ended so long ago that no client asks for them, and the oldest if there are many."""
        now, ended = trio.current_time(), self._ended
        while ended and (len(ended) > MAX_REMEMBERED or next(iter(ended.values())).until <= now):
            ended.popitem(last=False)

    def _describe_memory(self) -> str:
        return f"sessions hold {self.memory.used} bytes, and limits.replay_memory is {self.memory.limit}"

    # ------------------------------------------------------------------ between processes

    def by_age(self) -> list[ResumableSession]:
        """Return all sessions: those first that wait for their clients, the longest first."""
        attached = [one for key, one in self.sessions.items() if key not in self.detached]
        return [*self.detached.values(), *attached]

    def begin_handover(self) -> None:
        """Begin no session any more; those that lose their clients wait to be given to another process."""
        self.has_successor = self._gives_away = True

    def end_handover(self) -> None:
        """Keep no session any more that loses its client: it can reach another process only."""
        self.has_successor, self._gives_away = True, False

    async def wait_until_all_adopted(self) -> None:
        """Wait until no session is to come from another process any more."""
        while self._expected:
            await next(iter(self._expected.values())).wait()

    def expect(self, epoch: int, session_ids: Iterable[bytes]) -> None:
        """Go on with the epoch of another process, which is about to hand over sessions; before the first client."""
        self.epoch = epoch
        self._expected = {session_id: trio.Event() for session_id in session_ids}

    def is_expected(self, session_id: bytes) -> bool:
        """Return whether a session is still to be handed over."""
        return session_id in self._expected

    def adopt(
        self,
        machine: ServerSession,
        side: Side,
        saved: SavedSession,
        options: RelayOptions,
        engine: Engine,
        *,
        route: Route,
        generation: Generation,
        context: ConnectionContext,
        slot: RouteSlot,
        chain: OutgoingChain,
    ) -> ResumableSession:
        """Go on with a session of another process, which is detached; it may end by a limit.

        Args:
            machine: Its state machine, restored.
            side: Its backend.
            saved: What else it had; durations up to now.
            options: See `Engine.open_session`.
            engine: The engine.
            route: Its route now.
            generation: The configuration now.
            context: That of its latest connection, rebuilt from the saved state.
            slot: What it holds of the limits of its route.
            chain: The routes that it came through.
        """
        session = ResumableSession(
            self, machine, route, generation, context, str, slot, chain, self._endings, age=saved.age
        )
        bucket = slot.shared_bucket
        session.begin(engine.open_session(machine, side, options, self.memory, session, bucket), adopted=True)
        self.sessions[machine.session_id] = session
        route.stats.sessions_adopted += 1
        relay = session.relay
        relay.front.received_bytes, relay.back.received_bytes = saved.bytes_to_backend, saved.bytes_to_client
        relay.continue_moved(saved.pending, saved.age, saved.idle, is_reset=saved.backend_is_reset)
        termination = self.keep(session)
        if termination is not None:
            relay.terminate(termination)
        self._settle_expected(machine.session_id)
        return session

    def reject_adoption(self, machine: ServerSession, claim: SessionClaim, reason: Reason) -> None:
        """End a session of another process before it goes on here; its client learns the reason."""
        now = trio.current_time()
        machine.end(REASONS[reason].session_code or ResumeCode.ENDED_BY_RULE, reason.value, now)
        self._ended[machine.session_id] = _Remembered(machine, claim, now + machine.ttl)
        self._forget_old()
        self._settle_expected(machine.session_id)

    def _settle_expected(self, session_id: bytes) -> None:
        expected = self._expected.pop(session_id, None)
        if expected is not None:
            expected.set()

    def expect_no_more(self) -> int:
        """Note that nothing more is handed over: what has not come is lost; return how many these are."""
        lost = list(self._expected)
        self._elsewhere.update(lost)
        for session_id in lost:
            self._settle_expected(session_id)
        return len(lost)

    # ------------------------------------------------------------------ for operators, reload, drain

    def without_transport(self) -> list[ResumableSession]:
        """Return the sessions that no connection shows: they wait for their clients, or for their backends.

        For its backend waits a session that its client has closed, and of which that backend has not accepted all.
        """
        return [session for session in self.sessions.values() if session.is_without_transport]

    def set_routes(self, names: Container[str]) -> None:
        """Note which routes there are now: no client can come back to a session of another one, so that it ends."""
        self._routes = names
        for session in list(self.detached.values()):
            if session.route.name not in names:
                session.end(Reason.ROUTE_REMOVED, "")

    def end_of_routes(self, generation: Generation, routes: Container[str]) -> None:
        """End the sessions of routes that a reload has removed or changed."""
        for session in list(self.sessions.values()):
            if session.generation is generation and session.route.name in routes:
                session.end(Reason.ROUTE_REMOVED, "")

    def announce_drain(self, after: float, spread: float) -> None:
        """Announce to all clients that their connections will be closed.

        Args:
            after: Seconds after which they may try again.
            spread: Seconds over which they are to spread that.
        """
        for session in list(self.sessions.values()):
            session.go_away(after, spread)

    async def end_all(self, reason: Reason) -> None:
        """End all sessions for a reason of wsbridge, with turns of other tasks in between."""
        for number, (key, session) in enumerate(list(self.sessions.items()), 1):
            if self.sessions.get(key) is session:
                session.end(reason, "")
            if not number % MAX_ENDED_PER_TURN:
                await trio.lowlevel.checkpoint()

    async def wait_until_empty(self) -> None:
        """Wait until all sessions have ended."""
        while self.sessions:  # noqa: ASYNC110  an event would be set thousands of times for nothing
            await trio.sleep(0.05)

    def abort_all(self) -> None:
        """Reset the backends of sessions that have not ended."""
        for session in list(self.sessions.values()):
            session.abort()
