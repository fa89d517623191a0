"""Takeover: a new process gets the listening sockets of the running one, so that an upgrade refuses no connection.

```
new process                                          running process
 │ has read its configuration and built everything
 ├── POST /v1/takeover, Upgrade: wsbridge-takeover ──►│ checks the user ID of the peer (SO_PEERCRED)
 │◄──────────────────────── 101 Switching Protocols ──┤ lets reloads wait
 │◄── {"pid": …, "listeners": [{key, sockets, …}]} ───┤
 │◄── a byte with up to 128 descriptors, repeated ────┤ serves as before
 │ binds the addresses that it has not got
 ├── {"kept": [true, false, …], "session_state": 1} ─►│ stops accepting; closes its copies of what is kept
 │◄── {"released": true, "epoch": …, "sessions": […]} ┤
 │ accepts, also what has waited in the backlogs      │
 │◄─────────────── {"session": "…", "backend": true} ─┤ stops the session (`sessions.handover`)
 │◄────────── a byte with the state and the backend ──┤
 ├── {"adopted": true} ──────────────────────────────►│ 1012 to its client; the next session, until
 │◄────────────────────────────── {"finished": true} ─┤ finishes and unlinks the other listeners, drains, ends
```

Messages are lines of JSON. Instead of any of its messages the running process may send `{"error": "…"}`. Until it gets
`kept`, it goes on serving as if nothing had happened when the new process fails, is too slow, or disappears. A process
that reads another `session_state` gets no sessions: these stay where they are until the drain, and are lost then.

A session is the new process's from the moment at which it has written `adopted`. The running process waits for that for
a limited time, and shuts down reading before it ends the session: from then on, the new process cannot write it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

import h11
import trio

from wsbridge import __version__
from wsbridge.admin.api import TAKEOVER_PATH
from wsbridge.admin.endpoints import AdminEndpoint
from wsbridge.admin.http import AdminRequest, AdminResponse, error_response
from wsbridge.log.logger import log
from wsbridge.net.listeners import InheritedSockets, ListeningSockets, SocketFile
from wsbridge.reasons import Reason
from wsbridge.reload import Reloader
from wsbridge.server import Server
from wsbridge.sessions.handover import (
    LOST_DETAIL,
    MovedSessions,
    NotTakenError,
    ReceiverGoneError,
    SessionAdopter,
    StoppedSession,
    begin_handover,
    give_away,
)
from wsbridge.sessions.saved_state import MAX_SESSIONS, SAVED_STATE_VERSION
from wsbridge.sessions.store import SessionStore

TAKEOVER_TIMEOUT: Final = 60.0
"""Seconds from the request until the new process must be ready, and from then until the sockets must be released."""
SESSION_TIMEOUT: Final = 10.0
"""Seconds in which the new process must adopt a session."""
SEND_TIMEOUT: Final = 10.0
"""Seconds in which the other process must take a message."""
NEXT_SESSION_TIMEOUT: Final = 30.0
"""Seconds in which the running process must send the next session, or say that there are no more."""
RESPONSE_TIMEOUT: Final = 320.0
"""Seconds until the running process must have answered: a reload that it has begun may take long."""
MAX_DESCRIPTORS_PER_MESSAGE: Final = 128
"""Linux allows 253 (SCM_MAX_FD)."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Of one line of JSON."""
_PROTOCOL: Final = "wsbridge-takeover"
_MAX_READ_BYTES: Final = 65536


class TakeoverError(Exception):
    """The new process does not get the sockets; one sentence."""


class Handover:
    """The running process's side.

    Args:
        server: What serves; it drains after the handover.
        endpoints: Whose sockets are handed over with those of the server.
        reloader: Must not reload while the sockets are handed over.
        environ: For NOTIFY_SOCKET and SYSTEMD_EXEC_PID (systemd.exec(5)).
    """

    def __init__(
        self, server: Server, endpoints: Sequence[AdminEndpoint], reloader: Reloader, environ: Mapping[str, str]
    ) -> None:
        self._server = server
        self._endpoints = endpoints
        self._reloader = reloader
        self._is_unit = bool(environ.get("NOTIFY_SOCKET")) or environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        self._successor: object = None

    async def handle(self, request: AdminRequest) -> AdminResponse:
        """Answer a request for the sockets: only this user and root get them, whatever mode and token allow."""
        uid = request.peer.get("uid")
        if uid not in (0, os.geteuid()):
            log.warning("admin.denied", method=request.method, path=request.path, status=403, **request.peer)
            text = f"only root and the user with ID {os.geteuid()} may take over, by a Unix socket"
            return error_response(HTTPStatus.FORBIDDEN, text)
        if request.headers.get("upgrade") != _PROTOCOL:
            text = "wsbridge run --takeover sends this request"
            return error_response(HTTPStatus.UPGRADE_REQUIRED, text, ("Upgrade", _PROTOCOL))
        if self._is_unit:
            text = "this is the main process of a systemd unit, which must not change: use socket activation instead"
            return error_response(HTTPStatus.CONFLICT, text)

        async def upgraded(stream: trio.SocketStream) -> None:
            await self._run(_Channel(stream), request.peer.get("pid"))

        headers = (("Connection", "upgrade"), ("Upgrade", _PROTOCOL))
        return AdminResponse(HTTPStatus.SWITCHING_PROTOCOLS, headers=headers, upgrade=upgraded)

    async def _run(self, channel: _Channel, pid: object) -> None:
        """Hand over the sockets once the other process is ready; or log why not, and go on."""
        if self._successor is not None:
            await channel.send({"error": f"another takeover is in progress, by process {self._successor}"})
            return
        self._successor = pid
        try:
            async with self._reloader.paused():
                await self._wait_for_adoption()
                sockets = self._open_sockets()
                kept, reads_sessions = await self._offer(channel, sockets)
                await self._release(sockets, kept)
                log.info("daemon.draining", successor=pid, reason="draining", connections=len(self._server.connections))
                try:
                    await self._give_away_sessions(channel, reads_sessions=reads_sessions)
                    await self._server.finish_listeners()
                finally:
                    self._server.stop(Reason.DRAINING)  # whatever has happened: others have its listeners
        except TakeoverError as error:
            log.warning("takeover.failed", pid=pid, detail=str(error))
            await channel.send({"error": str(error)})
        finally:
            self._successor = None

    async def _wait_for_adoption(self) -> None:
        """Wait until this process has all sessions of the one before it, since only then it can list them.

        Raises:
            TakeoverError: That takes too long.
        """
        with trio.move_on_after(TAKEOVER_TIMEOUT) as deadline:
            await self._server.services.sessions.wait_until_all_adopted()
        if deadline.cancelled_caught:
            raise TakeoverError(f"the running process has not adopted all sessions within {TAKEOVER_TIMEOUT:g} s")

    def _open_sockets(self) -> list[ListeningSockets]:
        endpoints = [endpoint.sockets for endpoint in self._endpoints if endpoint.sockets is not None]
        return [opened.listening for opened in self._server.listeners] + endpoints

    async def _give_away_sessions(self, channel: _Channel, *, reads_sessions: bool) -> None:
        """Say that the sockets are released, and give the sessions to the other process."""
        store, timeouts = self._server.services.sessions, self._server.generation.config.timeouts
        listed = begin_handover(store)
        ids = [session_id.hex() for session_id in listed.session_ids]
        try:
            counts = MovedSessions(left=len(store.sessions))
            if not reads_sessions:
                await channel.send({"released": True})
                counts.problem = "the next process reads another version of its state"
            elif await channel.send({"released": True, "epoch": listed.epoch, "sessions": ids}):
                counts = await give_away(store, _ChannelReceiver(channel), 0.0, timeouts.drain_spread)
                await channel.send({"finished": True})
            else:
                counts.problem = "the next process has ended, or does not respond"
        finally:
            store.end_handover()
        if counts.moved or counts.lost or counts.left:
            facts = {"count": counts.moved, "lost": counts.lost, "left": counts.left}
            log.info("sessions.handed_over", **facts, **({"detail": counts.problem} if counts.problem else {}))
        for session in list(store.detached.values()):
            session.end(Reason.SESSION_LOST, counts.problem or LOST_DETAIL)

    async def _offer(self, channel: _Channel, sockets: Sequence[ListeningSockets]) -> tuple[list[bool], bool]:
        """Send the sockets, and wait until the other process is ready.

        Returns:
            For each of them, whether the other process keeps it; and whether it can read the state of sessions.

        Raises:
            TakeoverError: It is not ready in time, or not at all, or this process is shutting down.
        """
        stopping = self._server.services.stop_requested
        answer: dict[str, Any] = {}
        with trio.move_on_after(TAKEOVER_TIMEOUT) as deadline:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, stopping, nursery.cancel_scope)
                listeners = [
                    {"key": one.key, "sockets": len(one.sockets), "file": asdict(one.file) if one.file else None}
                    for one in sockets
                ]
                await channel.send({"pid": os.getpid(), "listeners": listeners})
                await channel.send_descriptors([sock.fileno() for one in sockets for sock in one.sockets])
                answer = await channel.receive()
                nursery.cancel_scope.cancel()
        if stopping.is_set():
            raise TakeoverError("the running process is shutting down")
        if deadline.cancelled_caught:
            raise TakeoverError(f"the new process was not ready within {TAKEOVER_TIMEOUT:g} s")
        kept = answer.get("kept")
        if not isinstance(kept, list) or len(kept) != len(sockets):
            raise TakeoverError("the new process has ended before it was ready")
        if channel.is_closed_by_peer():
            raise TakeoverError("the new process has ended")
        return kept, answer.get("session_state") == SAVED_STATE_VERSION

    async def _release(self, sockets: Sequence[ListeningSockets], kept: Sequence[bool]) -> None:
        """Leave to the other process what it keeps, and close the endpoints that it does not keep."""
        keeps = [one for one, is_kept in zip(sockets, kept, strict=True) if is_kept]
        server = self._server
        server.has_successor = True
        await server.release_listeners([opened for opened in server.listeners if opened.listening in keeps])
        for endpoint in self._endpoints:
            if endpoint.sockets in keeps:
                await endpoint.release()
            else:
                endpoint.close()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class _ChannelReceiver:
    """Sends sessions to the other process; see `SessionReceiver`.

    Args:
        channel: To it.
    """

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    async def put(self, session: StoppedSession, state: int) -> None:
        """See `SessionReceiver.put`."""
        channel = self._channel
        answer: dict[str, Any] = {}
        try:
            with trio.move_on_after(SESSION_TIMEOUT):
                await channel.send({"session": session.session_id.hex(), "backend": session.backend is not None})
                await channel.send_descriptors(
                    [state] if session.backend is None else [state, session.backend.fileno()]
                )
                answer = await channel.receive()
        finally:
            is_gone = not answer
            if is_gone:  # it may take the session at this very moment
                answer = channel.revoke()
            session.is_taken = answer.get("adopted") is True
        if is_gone:
            raise ReceiverGoneError(f"the next process has ended, or has not responded within {SESSION_TIMEOUT:g} s")
        if not session.is_taken:
            raise NotTakenError("the next process could not adopt it, and its log says why")


class Takeover:
    """The new process's side. `begin` makes it.

    Attributes:
        sockets: What the running process has handed over.
        pid: Its process ID.
    """

    def __init__(self, channel: _Channel, sockets: InheritedSockets, pid: object) -> None:
        self._channel = channel
        self.sockets = sockets
        self.pid = pid

    @classmethod
    async def begin(cls, path: str) -> Takeover | None:
        """Ask a running process for its sockets.

        Args:
            path: Its admin socket.

        Returns:
            None if no process listens there.

        Raises:
            TakeoverError: It does not hand them over.
        """
        try:
            channel = _Channel(await trio.open_unix_socket(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            log.info("takeover.no_process", address=path, detail=(error.strerror or "").lower())
            return None
        except OSError as error:
            raise TakeoverError(f"takeover from {path}: {(error.strerror or str(error)).lower()}") from None
        with contextlib.ExitStack() as failed:
            failed.callback(channel.close)
            try:
                with trio.fail_after(RESPONSE_TIMEOUT):
                    await channel.upgrade()
                    offer = _checked(await channel.receive())
                    sockets = await channel.receive_sockets(sum(one["sockets"] for one in offer["listeners"]))
                    for sock in sockets:
                        failed.callback(sock.close)
                    found = cls(channel, InheritedSockets(_group(offer["listeners"], sockets)), offer["pid"])
            except (KeyError, TypeError, ValueError, AttributeError):
                raise TakeoverError(f"takeover from {path}: the response is that of another protocol") from None
            except trio.TooSlowError:
                raise TakeoverError(f"takeover from {path}: no response within {RESPONSE_TIMEOUT:g} s") from None
            except TakeoverError as error:
                raise TakeoverError(f"takeover from {path}: {error}") from None
            failed.pop_all()
        return found

    async def complete(self, sessions: SessionStore) -> None:
        """Have the running process release what is kept, and own it: this process is ready to accept.

        Args:
            sessions: Learns which sessions come; see `adopt_sessions`.

        Raises:
            TakeoverError: It goes on serving itself.
        """
        answer: dict[str, Any] = {}
        with trio.move_on_after(TAKEOVER_TIMEOUT) as deadline:
            await self._channel.send({"kept": self.sockets.claimed, "session_state": SAVED_STATE_VERSION})
            answer = await self._channel.receive()
        if deadline.cancelled_caught:
            if not self._channel.has_unread:
                text = f"the running process did not release its sockets within {TAKEOVER_TIMEOUT:g} s"
                raise TakeoverError(text)
            with trio.move_on_after(SEND_TIMEOUT):  # it has, while this process was stopped: nobody else accepts
                answer = await self._channel.receive()
        if answer or not self.sockets.files_exist():
            _checked(answer)
        log.info("takeover.completed", pid=self.pid, count=sum(self.sockets.claimed))
        self.sockets.own()
        epoch, listed = answer.get("epoch"), answer.get("sessions")
        if isinstance(epoch, int) and isinstance(listed, list):
            with contextlib.suppress(ValueError, TypeError):
                sessions.expect(epoch, [bytes.fromhex(one) for one in listed[:MAX_SESSIONS]])
        if not listed:
            self.close()

    async def adopt_sessions(self, adopter: SessionAdopter) -> None:
        """Adopt the sessions of the running process, until it has given away all; then close the connection."""
        try:
            while "session" in (message := await self._receive_in_time()):
                if not await self._adopt(adopter, str(message["session"]), has_backend=bool(message.get("backend"))):
                    break
        finally:
            adopter.finish()
            self.close()

    async def _receive_in_time(self) -> dict[str, Any]:
        with trio.move_on_after(NEXT_SESSION_TIMEOUT):
            return await self._channel.receive()
        return {}

    async def _adopt(self, adopter: SessionAdopter, session_id: str, *, has_backend: bool) -> bool:
        """Adopt one session, whose descriptors follow; return whether more can come."""
        descriptors: list[int] = []
        detail = f"its descriptors have not come within {NEXT_SESSION_TIMEOUT:g} s"
        with trio.move_on_after(NEXT_SESSION_TIMEOUT):
            try:
                descriptors = await self._channel.receive_descriptors(1 + has_backend)
            except ValueError as error:
                detail = str(error)
        if not descriptors:
            log.warning("session.lost", session=session_id, detail=detail)
            return False
        is_answered = False

        def take() -> bool:
            nonlocal is_answered
            is_answered = self._channel.send_at_once({"adopted": True})
            return is_answered

        state, *others = descriptors
        try:
            await adopter.adopt(session_id, state, _socket_of(others[0]) if others else None, take)
        except ValueError as error:
            log.warning("session.lost", session=session_id, detail=str(error))
        finally:
            os.close(state)
        if not is_answered:
            await self._channel.send({"adopted": False})
        return True

    def close(self) -> None:
        """Close the connection, and the sockets that no listener has."""
        self.sockets.close()
        self._channel.close()


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that is no error.

    Raises:
        TakeoverError: It is one.
    """
    if not message or "error" in message:
        raise TakeoverError(message.get("error") or "the running process has ended")
    return message


def _group(
    listeners: Sequence[Mapping[str, Any]], sockets: Sequence[socket.socket]
) -> list[tuple[ListeningSockets, SocketFile | None]]:
    """Assign sockets to the listeners of the running process.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The message is malformed.
    """
    found = []
    remaining = iter(sockets)
    for one in listeners:
        bind, ipv6_only, name = one["key"]
        own = list(islice(remaining, one["sockets"]))
        addresses = [bind] if bind.startswith("unix:") else []
        file = None if one["file"] is None else SocketFile(**one["file"])
        is_passed = bind.startswith("fd:")
        listening = ListeningSockets(name, (bind, ipv6_only, name), own, addresses, is_passed=is_passed)
        found.append((listening, file))
    return found


class _Channel:
    """Messages and descriptors on a Unix socket. A peer that is gone is found by `receive`, not by `send`.

    Args:
        stream: The connection.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = bytearray()
        self._searched = 0  # bytes of it that have no line break
        self._descriptors: list[int] = []
        self._is_truncated = False

    def close(self) -> None:
        """Close the connection, and descriptors that were received and not used. Safe to call twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._stream.socket.close()

    def is_closed_by_peer(self) -> bool:
        """Return whether the peer has closed its end; there may be messages that it has sent before."""
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    @property
    def has_unread(self) -> bool:
        """Whether there is the beginning of a message, or the end."""
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), select.POLLIN)
        return bool(self._data.strip() or poll.poll(0))

    async def send(self, message: Mapping[str, object]) -> bool:
        """Send a message; False: the peer is gone, or has not accepted it for SEND_TIMEOUT and gets nothing more."""
        with trio.move_on_after(SEND_TIMEOUT):
            try:
                await self._stream.send_all(_encode(message))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            return True
        self._shut_down(socket.SHUT_RDWR)
        return False

    def send_at_once(self, message: Mapping[str, object]) -> bool:
        """Send a short message, all of it or nothing; return whether the peer gets it, unless it ends."""
        line = _encode(message)
        try:
            return os.write(self._stream.socket.fileno(), line) == len(line)
        except OSError:
            return False

    async def send_descriptors(self, descriptors: Sequence[int]) -> None:
        """Send open files, each batch with an empty line; as `send` does."""
        with trio.move_on_after(SEND_TIMEOUT) as deadline:
            for start in range(0, len(descriptors), MAX_DESCRIPTORS_PER_MESSAGE):
                batch = array.array("i", descriptors[start : start + MAX_DESCRIPTORS_PER_MESSAGE])
                with contextlib.suppress(OSError):
                    await self._stream.socket.sendmsg([b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, batch)])
        if deadline.cancelled_caught:
            self._shut_down(socket.SHUT_RDWR)

    def revoke(self) -> dict[str, Any]:
        """Receive nothing more: from now on, `send_at_once` of the peer fails.

        Returns:
            The message that it has sent before; an empty one for none.
        """
        self._shut_down(socket.SHUT_RD)  # unix(7) stream: the peer's next write fails, what is in the queue can be read
        with contextlib.suppress(OSError):
            while data := os.read(self._stream.socket.fileno(), _MAX_READ_BYTES):
                self._data += data
        return _decode(self._take_line())

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._stream.socket.shutdown(how)

    async def receive(self) -> dict[str, Any]:
        """Receive a message; an empty one if the peer is gone, or sends something else."""
        while not (line := self._take_line()):
            if len(self._data) > MAX_MESSAGE_BYTES or not await self._read():
                return {}
        return _decode(line)

    async def receive_descriptors(self, count: int) -> list[int]:
        """Receive exactly so many descriptors, which belong to the caller.

        Raises:
            ValueError: There are fewer, or more; one sentence.
        """
        await self._wait_for_descriptors(count)
        found, self._descriptors = self._descriptors, []
        if len(found) == count and not self._is_truncated:
            return found
        for descriptor in found:
            os.close(descriptor)
        if self._is_truncated:
            raise ValueError(f"{count} descriptors are too many open files (raise LimitNOFILE)")
        raise ValueError(f"the running process has sent {len(found)} descriptors in place of {count}")

    async def _wait_for_descriptors(self, count: int) -> None:
        while len(self._descriptors) < count and not self._is_truncated and await self._read():
            pass

    async def receive_sockets(self, count: int) -> list[socket.socket]:
        """Receive listening sockets, which belong to the caller.

        Raises:
            TakeoverError: Not all of them can be received.
            ValueError: One of the descriptors is something else.
        """
        await self._wait_for_descriptors(count)
        with contextlib.ExitStack() as failed:
            sockets: list[socket.socket] = []
            while self._descriptors and len(sockets) < count:
                sockets.append(failed.enter_context(_socket_of(self._descriptors.pop(0))))
            if self._is_truncated:
                raise TakeoverError(f"{count} sockets are too many open files (raise LimitNOFILE)")
            if len(sockets) < count:
                raise TakeoverError("the running process has ended")
            if not all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets):
                raise TakeoverError("the running process has sent sockets that do not listen")
            failed.pop_all()
        return sockets

    async def upgrade(self) -> None:
        """Send the HTTP request of the new process, and receive the response.

        Raises:
            TakeoverError: The running process has rejected it.
        """
        http = h11.Connection(h11.CLIENT)
        headers = {"Host": "localhost", "User-Agent": f"wsbridge/{__version__}", "Content-Length": "0"}
        headers |= {"Connection": "upgrade", "Upgrade": _PROTOCOL}
        head = http.send(h11.Request(method="POST", target=TAKEOVER_PATH, headers=list(headers.items()))) or b""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_all(head + (http.send(h11.EndOfMessage()) or b""))
        status, text = 0, b""
        try:
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    await self._read()
                    http.receive_data(bytes(self._data))
                    self._data.clear()
                elif isinstance(event, h11.InformationalResponse):
                    self._data += http.trailing_data[0]
                    return
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    text += event.data
        except h11.RemoteProtocolError:
            raise TakeoverError("the response is not that of an admin API") from None
        raise TakeoverError(f"{text.decode('utf-8', 'replace').strip()} (status {status})")

    def _take_line(self) -> bytes:
        """Take a line from what was read, without empty ones; empty if none is complete."""
        while (end := self._data.find(b"\n", self._searched)) >= 0:
            line = bytes(self._data[:end])
            del self._data[: end + 1]
            self._searched = 0
            if line:
                return line
        self._searched = len(self._data)
        return b""

    async def _read(self) -> bool:
        """Read bytes and descriptors; return whether there were any before the end."""
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS_PER_MESSAGE * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = await self._stream.socket.recvmsg(
                _MAX_READ_BYTES, space, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
                self._descriptors += descriptors
        self._is_truncated = self._is_truncated or bool(flags & socket.MSG_CTRUNC)
        self._data += data
        return bool(data)


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any]:
    """Read a message; an empty one if it is malformed."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _socket_of(descriptor: int) -> socket.socket:
    """Return the socket that has a descriptor.

    Raises:
        ValueError: It is something else; it is closed.
    """
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise ValueError(f"descriptor {descriptor} is not a socket") from None
