"""A server of resumable sessions whose answers a test can choose: refusals, lost answers, errors, announcements."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable

import trio

from tests.serving import accept_upgrade, read_head, reset
from wsbridge.protocol.resume import Ended, PeerFinished, Received
from wsbridge.protocol.resume_frames import (
    RESUME_SUBPROTOCOL,
    Failure,
    Frame,
    FrameReader,
    Open,
    Resume,
    encode_frame,
)
from wsbridge.protocol.resume_server import ServerSession, SessionTerms
from wsbridge.protocol.websocket import CLOSE, PING, PONG, WebSocketFraming, decode_close_body, encode_close_body

EPOCH = 11


class Held:
    """A session and what it received.

    Attributes:
        session: The state machine.
        received: All that came.
        stream: Of its transport; None while it has none.
        ended: How it ended.
        wake: Where the task waits that sends what the session wants to send.
        sending: Held by the task that writes to the transport.
    """

    def __init__(self, session: ServerSession, *, echoes: bool) -> None:
        self.session = session
        self.received = bytearray()
        self.stream: trio.SocketStream | None = None
        self.ended: Ended | None = None
        self.wake = trio.lowlevel.ParkingLot()
        self.sending = trio.Lock()
        self._echoes = echoes
        self._waiting = bytearray()

    def take(self, events: list[object]) -> None:
        """Accept what came, and send it back as the window allows."""
        for event in events:
            if isinstance(event, Received):
                for payload in event.payloads:
                    self.received += payload
                    if self._echoes:
                        self._waiting += payload
                    self.session.consumed(len(payload), trio.current_time())
            elif isinstance(event, PeerFinished):
                self.session.consumed_fin()
            elif isinstance(event, Ended):
                self.ended = event
        size = min(self.session.room, len(self._waiting))
        if size:
            self.session.send(bytes(self._waiting[:size]))
            del self._waiting[:size]
        if self._echoes and self.session.peer_finished and not self._waiting:
            self.session.finish()
        self.wake.unpark_all()

    def cut(self) -> None:
        """Lose the transport."""
        if self.stream is not None:
            reset(self.stream)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.002)


class ResumeService:
    """What the test reads and changes.

    Attributes:
        port: Where it listens.
        terms: What sessions are granted.
        echoes: Whether a session sends back what it receives.
        requests: The heads of all requests.
        refusals: HTTP responses that the next requests get, in order.
        failures: ERROR frames that the next OPEN or RESUME frames get, in order.
        held: All sessions.
        subprotocol: Whether it speaks the subprotocol.
        answers: Whether it answers OPEN and RESUME.
    """

    def __init__(self, port: int, terms: SessionTerms, *, echoes: bool) -> None:
        self.port = port
        self.terms = terms
        self.echoes = echoes
        self.requests: list[str] = []
        self.refusals: deque[bytes] = deque()
        self.failures: deque[Failure] = deque()
        self.held: list[Held] = []
        self.subprotocol = True
        self.answers = True

    @property
    def url(self) -> str:
        """Its URL."""
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def last(self) -> Held:
        """The session that was opened last."""
        return self.held[-1]

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            if self.refusals:
                self.requests.append(await read_head(stream))
                await stream.send_all(self.refusals.popleft())
                await stream.send_eof()
                return
            chosen = (f"Sec-WebSocket-Protocol: {RESUME_SUBPROTOCOL}",) if self.subprotocol else ()
            self.requests.append(await accept_upgrade(stream, *chosen))
            await self._carry(stream)
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)

    async def _carry(self, stream: trio.SocketStream) -> None:
        framing, reader = WebSocketFraming("server"), FrameReader()
        held: Held | None = None
        async with trio.open_nursery() as nursery:
            while data := await _read(stream):
                while data:
                    used, chunks, marks, controls, violation = framing.decode(data)
                    data = data[used:]
                    assert violation is None, violation
                    frames = reader.read(chunks, marks or [])
                    if held is None and frames:
                        held = await self._begin(stream, framing, frames.pop(0))
                        if held is None:
                            return
                        nursery.start_soon(self._write, stream, framing, held)
                    if held is not None and held.stream is stream:
                        held.take([*held.session.receive(frames, trio.current_time())])
                        await self._answer_control(stream, framing, held, controls or [])
                        if held.stream is None:
                            nursery.cancel_scope.cancel()
            if held is not None and held.stream is stream:
                held.stream = None
                held.session.transport_lost(trio.current_time())
            nursery.cancel_scope.cancel()

    async def _answer_control(
        self, stream: trio.SocketStream, framing: WebSocketFraming, held: Held, controls: list[tuple[int, bytes]]
    ) -> None:
        for opcode, body in controls:
            if opcode == PING:
                async with held.sending:
                    await stream.send_all(framing.encode_control(PONG, body))
            elif opcode == CLOSE:
                code, text = decode_close_body(body)
                now = trio.current_time()
                held.take([*held.session.transport_lost(now, 1005 if code is None else code, text)])
                held.stream = None
                async with held.sending:
                    await stream.send_all(framing.encode_control(CLOSE, encode_close_body(code)))

    async def _begin(self, stream: trio.SocketStream, framing: WebSocketFraming, frame: Frame) -> Held | None:
        if not self.answers:
            await trio.sleep_forever()
        now = trio.current_time()
        failure = self.failures.popleft() if self.failures else None
        if failure is None and isinstance(frame, Open):
            session = ServerSession(
                frame, epoch=EPOCH, session_id=os.urandom(16), terms=self.terms, new_token=lambda: os.urandom(32)
            )
            held = Held(session, echoes=self.echoes)
            self.held.append(held)
            session.opened(now)
            held.stream = stream
            return held
        if failure is None:
            assert isinstance(frame, Resume), frame
            held = next(one for one in self.held if one.session.session_id == frame.session_id)
            if held.session.state.value == "attached":
                held.session.transport_lost(now)
            result = held.session.resume(frame, now)
            held.stream = stream
            held.wake.unpark_all()
            if result.refusal is None:
                return held
            failure = Failure(*result.refusal)
        error = b"".join(framing.encode_messages([(encode_frame(failure), b"")]))
        await stream.send_all(error + framing.encode_control(CLOSE, encode_close_body(failure.code, failure.text)))
        await stream.send_eof()
        return None

    async def _write(self, stream: trio.SocketStream, framing: WebSocketFraming, held: Held) -> None:
        session = held.session
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while held.stream is stream:
                now = trio.current_time()
                session.on_deadline(now)
                messages = session.take(65536, now)
                if messages:
                    async with held.sending:
                        await stream.send_all(b"".join(framing.encode_messages(messages)))
                    continue
                closing = session.closing
                if closing is not None:
                    async with held.sending:
                        await stream.send_all(framing.encode_control(CLOSE, encode_close_body(*closing)))
                    return
                with trio.move_on_at(session.deadline or now + 10):
                    await held.wake.park()


async def _read(stream: trio.SocketStream) -> bytes:
    """Wait for bytes; empty at the end, however it comes."""
    try:
        return bytes(await stream.receive_some(65536))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


@contextlib.asynccontextmanager
async def resume_service(
    terms: SessionTerms | None = None, *, echoes: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ResumeService]:
    """Run one on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    service = ResumeService(listener.socket.getsockname()[1], terms or SessionTerms(), echoes=echoes)
    async with trio.open_nursery() as nursery:
        listeners = [listener if tls is None else trio.SSLListener(listener, tls, https_compatible=True)]
        nursery.start_soon(trio.serve_listeners, service.serve, listeners)
        yield service
        nursery.cancel_scope.cancel()
