"""Sessions go on in the next process: they are stopped, saved and given away one by one, and adopted there.

```
this process                                          the next one
 │ from now on, no session begins here
 ├── which sessions there are ───────────────────────►│ lets their clients wait
 │ session stops: nothing is read or written
 ├── its state, the descriptor of its backend ───────►│ checks route and limits
 │                                                    │ takes it, and goes on: detached
 │ GOAWAY and 1012 for its client                     │◄── RESUME
```

At most one process owns a session at any time: this one until the next one has taken it. Once this one has stopped
waiting for that, the next one can no longer take it. In between, when nobody reads or writes the connection to the
backend, closing its last descriptor resets it.

Who carries that is up to `admin.takeover` (from process to process) and `admin.stored_sessions` (by way of systemd).
The next process knows the ids of all sessions that had not ended, also of those that it does not get: their clients
learn that they are lost (4004). Those that had ended before are unknown to it (4001).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from wsbridge.admission import UNLIMITED, acquire_route_slot, relay_options
from wsbridge.auth.access_list import ListEntry
from wsbridge.auth.identity import Identity
from wsbridge.config.digest import digest_sections
from wsbridge.config.model import RouteConfig
from wsbridge.context import ConnectionContext
from wsbridge.generation import Generation, Route
from wsbridge.log.logger import log
from wsbridge.net.address import Peer
from wsbridge.net.loop_detection import OutgoingChain
from wsbridge.net.sealed_file import SealedFileError, read_sealed_file, write_sealed_file
from wsbridge.net.shared_socket import reset_shared_socket, resets_on_close, set_reset_on_close
from wsbridge.net.transport import SocketTransport, reset_socket
from wsbridge.protocol.resume_frames import TOKEN_BYTES
from wsbridge.protocol.resume_server import ServerSession
from wsbridge.reasons import Reason, Rejected, Termination
from wsbridge.relay.endpoint import Side
from wsbridge.services import Services
from wsbridge.sessions.saved_state import (
    MAX_LIST_BYTES,
    MAX_SESSIONS,
    MAX_STATE_BYTES,
    SavedIdentity,
    SavedList,
    SavedSession,
    StateError,
    decode_list,
    decode_session,
    encode_list,
    encode_session,
)
from wsbridge.sessions.session import ResumableSession
from wsbridge.sessions.store import SessionStore
from wsbridge.worker_thread import NoThreadError, run_in_thread

_Result = TypeVar("_Result")

JITTER_PER_SESSION: Final = 0.005
"""Seconds over which clients spread their return, for each that is sent away."""

LOST_DETAIL: Final = "its backend speaks TLS or WebSocket, and only this process can go on with that"


def digest_route(section: RouteConfig) -> bytes:
    """Return a digest of the settings of a route that a session depends on: who may use it, and where it leads."""
    return digest_sections({name: getattr(section, name) for name in ("backend", "auth", "allowed_targets")})


# ------------------------------------------------------------------ giving away


class NotTakenError(Exception):
    """The next process cannot have a session; one sentence."""


class ReceiverGoneError(NotTakenError):
    """The next process takes no further sessions; `StoppedSession.is_taken` says whether it has this one."""


@dataclass(slots=True)
class StoppedSession:
    """A session on its way.

    Attributes:
        state: Its state.
        backend: Connected to its backend; None where that connection is over.
        is_taken: Whether the next process has it, and this one has not.
    """

    state: SavedSession
    backend: socket.socket | None
    is_taken: bool = False

    @property
    def session_id(self) -> bytes:
        """Its id."""
        found: bytes = self.state.machine["session_id"]
        return found

    def release(self) -> None:
        """Close the descriptor of the backend here; unless another process has the session, end the connection."""
        if self.backend is not None and self.is_taken:
            self.backend.close()
        elif self.backend is not None:
            reset_shared_socket(self.backend)


class SessionReceiver(Protocol):
    """What takes sessions to the next process."""

    async def put(self, session: StoppedSession, state: int) -> None:
        """Take one; its `is_taken` is right afterwards, also where this is cancelled.

        Args:
            session: The session.
            state: Descriptor of a sealed file with its state.

        Raises:
            NotTakenError: It has not arrived.
            ReceiverGoneError: No other will.
        """


@dataclass(slots=True)
class MovedSessions:
    """How many sessions were given away.

    Attributes:
        moved: Those that go on in the next process.
        lost: Those that could not go on, and have ended.
        left: Those that were not moved, and have not ended.
        problem: Why sessions were left that could have moved; empty for none.
    """

    moved: int = 0
    lost: int = 0
    left: int = 0
    problem: str = ""


def begin_handover(store: SessionStore) -> SavedList:
    """Return the list of the sessions that have not ended: from now on none begins here, until `store.end_handover`."""
    store.begin_handover()
    going_on = [session_id for session_id, session in store.sessions.items() if session.machine.ended is None]
    return SavedList(store.epoch, tuple(going_on[:MAX_SESSIONS]))


async def write_list(sessions: SavedList) -> int:
    """Write a list into a sealed file; return its descriptor.

    Raises:
        OSError: See `write_sealed_file`.
    """
    return await _run_off_loop(lambda: write_sealed_file("wsbridge-sessions", encode_list(sessions)))


async def give_away(store: SessionStore, receiver: SessionReceiver, after: float, spread: float) -> MovedSessions:
    """Give all sessions that can move to the next process, one after the other, as long as there is one.

    Args:
        store: Has them; after `begin_handover`.
        receiver: Takes them there.
        after: Seconds after which their clients may come back.
        spread: Seconds over which they are to spread that, at most.
    """
    counts = MovedSessions()
    waiting = store.by_age()
    jitter = min(spread, len(waiting) * JITTER_PER_SESSION)
    digests: dict[tuple[int, str], bytes] = {}
    for session in waiting:
        await trio.lowlevel.checkpoint()
        if not session.relay.can_move:
            continue
        key = (session.generation.number, session.route.name)
        if key not in digests:
            digests[key] = digest_route(session.generation.config.routes[session.route.name])
        stopped = save_session(session, digests[key])
        try:
            await _move(session, stopped, receiver, after, jitter)
        except ReceiverGoneError as error:
            counts.problem = str(error)
            break
        finally:
            counts.moved += stopped.is_taken
            counts.lost += not stopped.is_taken
    counts.left = sum(not session.relay.front.closed for session in waiting)
    return counts


async def _move(
    session: ResumableSession, stopped: StoppedSession, receiver: SessionReceiver, after: float, jitter: float
) -> None:
    """Give one session to the next process; it ends here, whether that succeeds or not.

    Raises:
        ReceiverGoneError: See `SessionReceiver.put`.
    """
    detail = "the shutdown was cut short"
    try:
        await _put(stopped, receiver)
    except (OSError, StateError, NotTakenError) as error:
        detail = str(error)
        if isinstance(error, ReceiverGoneError):
            raise
    finally:
        stopped.release()
        end = Termination(Reason.HANDED_OVER, "wsbridge")
        if not stopped.is_taken:
            end = Termination(Reason.SESSION_LOST, "wsbridge", detail)
        session.relay.end_move(end, int(after * 1000), int(jitter * 1000))


def save_session(session: ResumableSession, route_digest: bytes) -> StoppedSession:
    """Stop a session that can move, and return all that it is."""
    relay, context = session.relay, session.context
    moved = relay.stop_to_move()
    now = relay.loop.now
    identity, peer = context.identity, context.peer
    expires = relay.options.auth_expires
    state = SavedSession(
        saved_at=time.monotonic(),
        machine=session.machine.export_state(now),
        pending=moved.pending,
        backend_is_reset=moved.is_reset,
        route=session.route.name,
        route_digest=route_digest,
        identity=SavedIdentity(
            name=identity.name,
            method=identity.method,
            expires_in=None if expires is None else max(0.0, expires - now),
            target=identity.target,
            token_name=session.token_name,
            entries=tuple(
                (entry.access_list.key[0], str(entry.access_list.key[1]), entry.key, entry.subject)
                for entry in identity.entries
            ),
        ),
        target=context.target,
        backend=context.backend,
        backend_address=context.backend_address,
        listener=context.listener,
        peer_host=peer.host,
        peer_port=peer.port,
        peer_family=int(peer.family),
        via=peer.via,
        tls=context.tls,
        age=time.monotonic() - session.began,
        idle=max(0.0, now - relay.last_payload),
        bytes_to_backend=relay.front.received_bytes,
        bytes_to_client=relay.back.received_bytes,
    )
    return StoppedSession(state, moved.sock)


async def _put(session: StoppedSession, receiver: SessionReceiver) -> None:
    """Write the state of a session in a thread, and give it away.

    Raises:
        NotTakenError: See `SessionReceiver.put`.
        OSError: There is no memory, or no descriptor.
        StateError: It is larger than what is read.
    """
    name = f"wsbridge-session-{session.session_id.hex()}"
    descriptor = await _run_off_loop(lambda: write_sealed_file(name, encode_session(session.state)))
    try:
        if session.backend is not None:
            set_reset_on_close(session.backend, resets=True)
        await receiver.put(session, descriptor)
    finally:
        os.close(descriptor)


def end_left(store: SessionStore, problem: str = "") -> int:
    """End the sessions that were not given away, and return how many these are; others have ended before.

    Args:
        store: Has them.
        problem: Why they were not; empty: they cannot move.
    """
    return sum([session.end(Reason.SESSION_LOST, problem or LOST_DETAIL) for session in store.by_age()])


async def _run_off_loop(work: Callable[[], _Result]) -> _Result:
    """Call in a thread what takes the longer the more a session holds; here if there is none: else it would be lost."""
    try:
        return await run_in_thread(work, trio.to_thread.current_default_thread_limiter(), abandon_on_cancel=False)
    except NoThreadError:
        return work()


# ------------------------------------------------------------------ adopting


async def read_list(descriptor: int) -> SavedList:
    """Read the list in a sealed file.

    Raises:
        StateError: It cannot be used.
    """
    return await _run_off_loop(lambda: decode_list(_read(descriptor, MAX_LIST_BYTES)))


def _read(descriptor: int, max_bytes: int) -> bytes:
    try:
        return read_sealed_file(descriptor, max_bytes)
    except SealedFileError as error:
        raise StateError(f"a descriptor {error}") from None


@dataclass(slots=True)
class AdoptedSessions:
    """How many sessions came from another process.

    Attributes:
        adopted: Those that go on here.
        ended: Those that have ended by the configuration or a limit of this process.
        lost: Those that could not be adopted, or did not come.
    """

    adopted: int = 0
    ended: int = 0
    lost: int = 0


class SessionAdopter:
    """Adopts sessions of another process.

    Args:
        services: What connections share.
        current_generation: Returns the generation in effect; a reload may replace it at any time.
        new_id: Returns the id of a new connection, for the context of an adopted session.

    Attributes:
        counts: What has come so far.
    """

    def __init__(
        self, services: Services, current_generation: Callable[[], Generation], new_id: Callable[[], int]
    ) -> None:
        self._services = services
        self._current_generation = current_generation
        self._new_id = new_id
        self._digests: dict[tuple[int, str], bytes] = {}
        self.counts = AdoptedSessions()

    async def adopt(
        self, session_id: str, state: int, backend: socket.socket | None, take: Callable[[], bool] = lambda: True
    ) -> bool:
        """Adopt a session, or end it; return whether its state could be used.

        Args:
            session_id: Its id as the list or the store has it, in hexadecimal.
            state: Descriptor of a sealed file, which the caller closes.
            backend: Connected to its backend; belongs to this method.
            take: Called once it is certain that its state can be used; returns whether this process has it now.
        """
        with contextlib.ExitStack() as unused:
            if backend is not None:
                unused.callback(reset_socket, backend)
            try:
                saved = await _run_off_loop(lambda: decode_session(_read(state, MAX_STATE_BYTES)))
                self._continue(session_id, saved, backend, take)
            except (StateError, ValueError, OSError) as error:
                log.warning("session.lost", session=session_id, detail=str(error))
                return False
            except Exception:  # a bug with one session ends that one alone
                log.exception("internal_error", component="sessions", detail=f"while {session_id} was adopted")
                return False
            unused.pop_all()
        return True

    def finish(self) -> None:
        """Note that nothing more comes, and log what has."""
        counts = self.counts
        counts.lost += self._services.sessions.expect_no_more()
        if counts.adopted or counts.ended or counts.lost:
            log.info("sessions.adopted", count=counts.adopted, ended=counts.ended, lost=counts.lost)

    def _continue(
        self, expected: str, saved: SavedSession, backend: socket.socket | None, take: Callable[[], bool]
    ) -> None:
        """Go on with a session, or end it.

        Raises:
            StateError, ValueError: Its state contradicts itself, or this process has not got it.
            OSError: There is no descriptor.
        """
        store, now = self._services.sessions, trio.current_time()
        session_id: bytes = saved.machine["session_id"]
        if session_id.hex() != expected:
            raise StateError(f"the state is that of the session {session_id.hex()}")
        if saved.machine["epoch"] != store.epoch or not store.is_expected(session_id):
            raise StateError(f"the session {session_id.hex()} is not in the list of sessions")
        away = max(0.0, time.monotonic() - saved.saved_at)
        expires_in = saved.identity.expires_in
        saved = replace(
            saved,
            machine={**saved.machine, "detached_seconds": saved.machine["detached_seconds"] + away},
            identity=replace(saved.identity, expires_in=None if expires_in is None else max(0.0, expires_in - away)),
            age=saved.age + away,
            idle=saved.idle + away,
        )
        machine = ServerSession.restore(saved.machine, now, lambda: secrets.token_bytes(TOKEN_BYTES))
        if backend is None and not (machine.finished or machine.is_failing):
            raise StateError(f"the session {session_id.hex()} came without its backend")
        if backend is not None and not resets_on_close(backend):  # a process adopted it, and crashed
            raise StateError(f"the session {session_id.hex()} has gone on since this state of it was saved")
        entries = self._find_entries(saved.identity)
        generation = self._current_generation()
        reason, detail = self._find_obstacle(saved, machine, generation, entries)
        sock = backend or _closed_socket()
        if not take():
            sock.close()
            raise StateError("the other process has given it up")
        if reason is None:
            set_reset_on_close(sock, resets=False)
            self._adopt(saved, machine, generation, sock, entries or ())
            return
        reset_socket(sock)
        claim = (saved.route, saved.identity.name, saved.identity.target, saved.target)
        store.reject_adoption(machine, claim, reason)
        self.counts.ended += 1
        if saved.route in generation.routes:
            generation.routes[saved.route].stats.sessions_closed[reason.value, "wsbridge"] += 1
        self._log_rejected(saved, machine, reason, detail)

    def _log_rejected(self, saved: SavedSession, machine: ServerSession, reason: Reason, detail: str) -> None:
        """Write the line and the audit record of a session that ends because of what is configured here."""
        facts: dict[str, object] = {
            "peer": str(_peer_of(saved)),
            "listener": saved.listener,
            **({"via": list(saved.via)} if saved.via else {}),
            "session": machine.session_id.hex(),
            "route": saved.route,
            **({"identity": saved.identity.name} if saved.identity.name else {}),
            **({"target": saved.target} if saved.target is not None else {}),
            **({"backend_address": saved.backend_address} if saved.backend_address is not None else {}),
            "reason": reason.value,
            "initiator": "wsbridge",
            "detail": detail,
            "duration_seconds": round(saved.age, 3),
            "bytes_to_backend": saved.bytes_to_backend,
            "bytes_to_client": saved.bytes_to_client,
            "transports": machine.transports,
            "replayed_bytes": machine.replayed_bytes,
        }
        log.info("session.closed", **facts)
        audit_log = self._services.audit_log
        if audit_log is not None:
            method = {"auth_method": saved.identity.method} if saved.identity.method else {}
            audit_log.emit("session.ended", {**facts, **method})

    def _find_obstacle(
        self,
        saved: SavedSession,
        machine: ServerSession,
        generation: Generation,
        entries: tuple[ListEntry, ...] | None,
    ) -> tuple[Reason | None, str]:
        """Return why a session does not go on here, with a sentence; None if it does."""
        route, memory = generation.routes.get(saved.route), self._services.sessions.memory
        if route is None or route.backend is None or route.session_terms is None:
            return Reason.ROUTE_REMOVED, "the route is gone, or has no resume"
        key = (generation.number, route.name)
        if key not in self._digests:
            self._digests[key] = digest_route(generation.config.routes[route.name])
        if self._digests[key] != saved.route_digest:
            return Reason.ROUTE_REMOVED, "backend, auth or allowed_targets of the route have changed"
        if entries is None:
            return Reason.ACCESS_REVOKED, "the list of users or tokens is not used any more"
        held = machine.replay_bytes + len(saved.pending)
        if held and memory.used + held > memory.limit:
            text = f"it holds {held} bytes, all others {memory.used}, and limits.replay_memory is {memory.limit}"
            return Reason.OVERLOAD, text
        return None, ""

    def _find_entries(self, identity: SavedIdentity) -> tuple[ListEntry, ...] | None:
        """Return the entries of lists that an identity depends on; None if a list is not in use."""
        found = []
        for kind, file, key, subject in identity.entries:
            access_list = self._services.access_lists.get((kind, Path(file)))
            if access_list is None:
                return None
            found.append(ListEntry(access_list, key, subject))
        return tuple(found)

    def _adopt(
        self,
        saved: SavedSession,
        machine: ServerSession,
        generation: Generation,
        backend: socket.socket,
        entries: tuple[ListEntry, ...],
    ) -> None:
        services, route = self._services, generation.routes[saved.route]
        context = self._context(saved, route, generation.number, entries)
        identity = context.identity
        refusal: Rejected | None = None
        slot = UNLIMITED
        try:
            slot = acquire_route_slot(
                route, identity, saved.identity.token_name, services.connection_counts, services.shared_buckets
            )
        except Rejected as rejected:
            refusal = rejected
        try:
            session = services.sessions.adopt(
                machine,
                Side(SocketTransport(backend)),
                saved,
                relay_options(route, identity),
                services.engine,
                route=route,
                generation=generation,
                context=context,
                slot=slot,
                chain=OutgoingChain(services.own_connections, (route.mark,)),
            )
        except BaseException:
            slot.release()
            raise
        if refusal is not None:
            session.end(refusal.reason, refusal.detail)
        if session.relay.front.closed:
            self.counts.ended += 1
        else:
            self.counts.adopted += 1

    def _context(
        self, saved: SavedSession, route: Route, generation: int, entries: tuple[ListEntry, ...]
    ) -> ConnectionContext:
        """Return the context of an adopted session: its latest connection was one of another process."""
        known = saved.identity
        identity = Identity(
            name=known.name,
            method=known.method,
            expires=None if known.expires_in is None else time.time() + known.expires_in,
            target=known.target,
            token_name=known.token_name,
            entries=entries,
        )
        return ConnectionContext(
            self._new_id(),
            saved.listener,
            generation,
            _peer_of(saved),
            tls=saved.tls,
            route=route.name,
            route_stats=route.stats,
            backend=saved.backend,
            auth_required=route.auth is not None,
            identity=identity,
            target=saved.target,
            backend_address=saved.backend_address,
            started=time.monotonic() - saved.age,
        )


def _peer_of(saved: SavedSession) -> Peer:
    return Peer(saved.peer_host, saved.peer_port, saved.peer_family, via=saved.via)


def _closed_socket() -> socket.socket:
    """Return a socket whose peer has closed it: for a session that waits for its client alone."""
    one, other = socket.socketpair()
    other.close()
    return one
