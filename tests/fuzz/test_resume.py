"""Fuzz: a client and a server of resumable sessions over transports that are cut anywhere, late, or there twice.

The model knows what each application has given and taken, and judges every RESUME by rules of its own. What arrives is
a prefix of what was given; in the end it is equal, or the session has ended with an error that the model has caused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsbridge.protocol.resume import Ended, Event, PeerFinished, Received, Session, SessionState, TransportUseless
from wsbridge.protocol.resume_client import ClientSession
from wsbridge.protocol.resume_frames import (
    Ack,
    Data,
    DataRun,
    Failure,
    Fin,
    Frame,
    FrameReader,
    FrameType,
    Ignored,
    Malformed,
    Open,
    Opened,
    Resume,
    Resumed,
    decode_message,
    encode_frame,
)
from wsbridge.protocol.resume_server import ServerSession, SessionTerms, reject_resume
from wsbridge.protocol.websocket import (
    CLOSE,
    WebSocketFraming,
    decode_close_body,
    encode_close_body,
)

PERIOD = 65521
"""Bytes after which a stream repeats itself: a prime, so that no other period hides a mistake."""

TABLES = {name: random.Random(name).randbytes(PERIOD) * 3 for name in ("client", "server")}
ENDINGS = [*["backend reset"] * 3, *["rule"] * 2, "client", "restart", "expiry"]
DETACHED, ENDED, OPENING = SessionState.DETACHED, SessionState.ENDED, SessionState.OPENING


def received_by(session: Session, frames: list[Frame], now: float) -> list[Event]:
    """Give frames to a machine, as a run where they are one."""
    acks = [frame.position for frame in frames if isinstance(frame, Ack)]
    payloads = [frame.payload for frame in frames if isinstance(frame, Data)]
    if len(acks) + len(payloads) < len(frames) or acks != sorted(acks) or not frames:
        return session.receive(frames, now)
    run = DataRun(payloads, sum(map(len, payloads)), acks[-1] if acks else None)
    if not session.receive_run(run, now):
        return session.receive(run.frames(), now)
    return [Received(payloads)] if payloads else []


@dataclass
class App:
    """What uses a session: gives a stream whose bytes are known by their position, and takes the other one.

    Attributes:
        name: `client` or `server`.
        session: The machine.
        given: Bytes that it has given.
        received: Bytes that the machine has reported.
        taken: Bytes that it has taken of them; the end of the stream is not among them.
        peer_finished: Whether the machine has reported the end of the peer's stream.
        took_end: Whether it has taken that.
        ended: How the machine has reported the end.
        sent: Highest position that the machine has said to have sent.
    """

    name: str
    session: Session
    given: int = 0
    received: int = 0
    taken: int = 0
    peer_finished: bool = False
    took_end: bool = False
    ended: Ended | None = None
    sent: int = 0

    def give(self, size: int) -> None:
        """Give the next bytes of its stream."""
        at = self.given % PERIOD
        self.session.send(TABLES[self.name][at : at + size])
        self.given += size

    def report(self, events: list[object], other: str) -> None:
        """Check what the machine reports: the bytes are those at this position of the other's stream."""
        for event in events:
            assert self.ended is None, "an event after the end"
            if isinstance(event, Received):
                assert not self.peer_finished
                for payload in event.payloads:
                    at = self.received % PERIOD
                    assert payload, "empty payload"
                    assert bytes(payload) == TABLES[other][at : at + len(payload)], "bytes of another position"
                    self.received += len(payload)
            elif isinstance(event, PeerFinished):
                assert not self.peer_finished
                self.peer_finished = True
            elif isinstance(event, Ended):
                self.ended = event
                assert self.session.ended == event

    def take(self, size: int, now: float) -> None:
        """Take bytes, and then the end."""
        size = min(size, self.received - self.taken)
        if size:
            self.taken += size
            self.session.consumed(size, now)
        if self.peer_finished and self.taken == self.received and not self.took_end:
            self.took_end = True
            self.session.consumed_fin()

    @property
    def acknowledgeable(self) -> int:
        """Position that it may acknowledge."""
        return self.taken + self.took_end


@dataclass
class Pipe:
    """One direction of a transport: bytes on their way, framed by one side and read by the other."""

    writer: WebSocketFraming
    reader: WebSocketFraming
    data: bytes = b""
    undecoded: bytes = b""
    frames: FrameReader = field(default_factory=FrameReader)
    error_sent: bool = False
    close_sent: bool = False

    def write(self, messages: list[tuple[bytes, bytes]]) -> None:
        """Put messages on the way."""
        self.data += b"".join(bytes(part) for part in self.writer.encode_messages(messages))
        self.error_sent |= any(head[:1] == bytes([FrameType.ERROR]) for head, _ in messages)

    def close(self, code: int | None, text: str = "") -> None:
        """Put a close frame on the way, once."""
        if not self.close_sent:
            self.close_sent = True
            self.data += self.writer.encode_control(CLOSE, encode_close_body(code, text))

    def read(self, size: int) -> tuple[list[object], int | None]:
        """Let bytes arrive; gives the frames among them, and the close code (0: none came)."""
        arrived, self.data = self.undecoded + self.data[:size], self.data[size:]
        frames: list[object] = []
        close: int | None = 0
        while arrived:
            used, payloads, headers, controls, violation = self.reader.decode(arrived)
            assert violation is None
            frames += self.frames.read(payloads, headers or [])
            for opcode, body in controls or ():
                assert opcode == CLOSE
                close = decode_close_body(body)[0] or 1005
            if not used:
                break
            arrived = arrived[used:]
        self.undecoded = arrived
        return frames, close


class Transport:
    """A WebSocket connection.

    Attributes:
        up: From client to server.
        down: From server to client.
        cut: Nothing arrives any more.
        greeted: Whether the server has read its first frame.
    """

    def __init__(self) -> None:
        self.up = Pipe(WebSocketFraming("client"), WebSocketFraming("server"))
        self.down = Pipe(WebSocketFraming("server"), WebSocketFraming("client"))
        self.cut = False
        self.greeted = False


def no_answer(session: Session, code: int | None) -> int | None:
    """Give the code with which a transport is cut: after our close frame, one without a code would be an answer."""
    return None if code == 1005 and session.closing is not None else code


class Sessions(RuleBasedStateMachine):
    """Two applications, the server's table of sessions, and all transports that there are."""

    # ------------------------------------------------------------------ the model's server and client

    @initialize(
        window=st.sampled_from([16, 100, 5000, 100000]),
        wanted=st.sampled_from([0, 0, 4096]),
        keepalive=st.sampled_from([0, 20]),
        opened=st.sampled_from([True, True, True, False]),
    )
    def start(self, window: int, wanted: int, keepalive: int, opened: bool) -> None:
        """A client that has no session yet, or one on which nothing has happened."""
        self.now = 0.0
        self.terms = SessionTerms(window=window, keepalive=keepalive)
        self.server_window = min(window, max(wanted, 4096)) if wanted else window
        self.client = App("client", ClientSession(wanted))
        self.server: App | None = None  # the session that the server knows
        self.epoch = 1
        self.issued: list[bytes] = []
        self.valid: set[bytes] = set()  # tokens that the server has to accept
        self.attempt = 0  # of the last RESUME that was accepted
        self.resumes: list[Resume] = []
        self.transports: list[Transport] = []
        self.at_client: Transport | None = None
        self.at_server: Transport | None = None
        self.causes: set[int | None] = set()  # codes with which the client's session may end by the server
        self.client_ends = False
        if opened:
            self.open_transport()
            self.move_everything(True)
            self.backend_connects(False)
            self.move_everything(True)
            assert self.client.session.state is self.server.session.state is SessionState.ATTACHED

    def new_token(self) -> bytes:
        """Issue a token."""
        token = len(self.issued).to_bytes(32, "big")
        self.issued.append(token)
        return token

    def report_client(self, events: list[object]) -> None:
        """Check what the client's machine reports."""
        self.client.report(events, "server")
        if self.client.ended is not None:
            self.check_client_end(self.client.ended)
        for event in events:
            if isinstance(event, TransportUseless):
                self.drop_client_transport()

    def check_client_end(self, ended: Ended) -> None:
        """The client's session ends as it has to, or for what the model has caused."""
        if ended.by == "peer":
            assert ended.code in self.causes, f"{ended} was not caused"
        else:
            assert ended.code is None or self.client_ends or ended.complete, f"{ended} was not caused"
        if ended.complete:
            assert self.server is not None
            assert self.client.acknowledgeable == self.server.given + 1
            assert self.server.acknowledgeable == self.client.given + 1

    def report_server(self, events: list[object]) -> None:
        """Check what the server's machine reports."""
        assert self.server is not None
        self.server.report(events, "client")
        ended = self.server.ended
        if ended is None:
            return
        if ended.by == "peer" and not self.client_ends:
            lost_before_opened = not self.valid and ended.code != 1000
            assert lost_before_opened or ended.complete or self.client.ended is not None, f"{ended} was not caused"
        elif ended.by == "us":
            assert ended.code in (None, 4009, 4010, 4012), f"{ended} was not caused"
        self.causes.add(ended.code if ended.code in (4009, 4010, 4012) else 4001)

    def drop_client_transport(self) -> None:
        """The client closes a transport of no use, and knows it no more."""
        if self.at_client is not None and self.client.session.closing:
            self.at_client.up.close(4003)
        self.at_client = None

    def client_reads(self, transport: Transport, size: int) -> None:
        """Let bytes arrive at the client."""
        frames, close = transport.down.read(size)
        if transport is not self.at_client:
            return
        self.report_client(received_by(self.client.session, frames, self.now))
        if close != 0 and transport is self.at_client:
            self.report_client(self.client.session.transport_lost(self.now, close))
            transport.up.close(close)
            self.at_client = None

    def server_reads(self, transport: Transport, size: int) -> None:
        """Let bytes arrive at the server."""
        frames, close = transport.up.read(size)
        if frames and not transport.greeted:
            transport.greeted = True
            self.greet(transport, frames.pop(0))
        if transport is not self.at_server or self.server is None:
            return
        confirms = any(isinstance(frame, Ack | Data | Fin) for frame in frames)
        if len(self.valid) > 1 and confirms and self.server.session.state is SessionState.ATTACHED:
            self.valid = {self.issued[-1]}
        self.report_server(received_by(self.server.session, frames, self.now))
        if close != 0:
            self.report_server(self.server.session.transport_lost(self.now, close))
            transport.down.close(close)
            self.at_server = None

    def greet(self, transport: Transport, frame: object) -> None:
        """Act on the first frame of a transport, as a server does."""
        if isinstance(frame, Open):
            if transport is not self.at_client:
                return  # a session that nobody will use
            session = ServerSession(
                frame, epoch=self.epoch, session_id=bytes(16), terms=self.terms, new_token=self.new_token
            )
            self.server = App("server", session)
            self.at_server = transport
            self.valid, self.attempt = set(), 0
            return
        assert isinstance(frame, Resume)
        refusal = self.judge(frame)
        if frame.epoch == self.epoch and self.server is not None:
            had = self.server.session.state not in (DETACHED, ENDED)
            result = self.server.session.resume(frame, self.now)
            assert (result.refusal[0] if result.refusal else None) == refusal
            if refusal is None:
                assert result.replaced == had
        if refusal is not None:
            transport.down.write([(encode_frame(Failure(refusal, "")), b"")])
            transport.down.close(refusal)
            return
        if self.at_server is not None:
            self.at_server.down.write([(encode_frame(Failure(4003, "")), b"")])
            self.at_server.down.close(4003)
        self.at_server = transport
        self.attempt = frame.attempt
        self.valid = {frame.token, self.issued[-1]}

    def judge(self, frame: Resume) -> int | None:
        """Say by the rules of the page what a RESUME gets; positions always fit here."""
        if frame.epoch != self.epoch:
            return 4004
        if self.server is None or frame.token not in self.valid:
            return 4001
        ended = self.server.session.ended
        if ended is not None:
            return ended.code if (ended.code or 0) >= 4000 else 4001
        return 4003 if frame.attempt <= self.attempt else None

    # ------------------------------------------------------------------ what happens

    @rule(replaces=st.sampled_from([False, False, False, True]), arrives=st.booleans())
    def connect(self, replaces: bool, arrives: bool) -> None:
        """The client opens a transport; an earlier one may still be there."""
        alive = self.at_client is not None and not self.at_client.cut
        if self.client.session.state is ENDED or (alive and not replaces):
            return
        self.open_transport()
        if arrives:
            self.move_everything(False)

    def open_transport(self) -> None:
        """Begin a transport of the client; its first frame is on the way."""
        session = self.client.session
        transport = Transport()
        session.connect(self.now)
        self.at_client = transport
        self.transports = [*self.transports[-3:], transport]
        ((head, _),) = session.take(0, self.now)
        transport.up.write([(head, b"")])
        if head[0] == 3:
            (frame,), _ = Pipe(WebSocketFraming("client"), WebSocketFraming("server"), transport.up.data).read(1000)
            self.resumes.append(frame)

    @precondition(lambda self: self.server is not None and self.server.session.state is OPENING)
    @rule(refused=st.sampled_from([False] * 19 + [True]))
    def backend_connects(self, refused: bool) -> None:
        """Or not."""
        assert self.server is not None
        if refused:
            self.causes.add(4010)
            self.server.session.end(4010, "backend refused", self.now)
            self.server.ended = self.server.session.ended
            return
        self.server.session.opened(self.now)
        self.valid = {self.issued[-1]}

    def apps(self) -> list[App]:
        """Give the applications that there are."""
        return [self.client] if self.server is None else [self.client, self.server]

    def app(self, name: str) -> App | None:
        """Give an application."""
        return self.client if name == "client" else self.server

    @rule(
        name=st.sampled_from(["client", "server"]),
        size=st.sampled_from([1, 2, 7, 50, 3000, 70000]),
        written=st.sampled_from([None, 5, 40, 1000000, 1000000]),
        arrives=st.sampled_from([0, 1, 4, 30, 1000000]),
    )
    def give(self, name: str, size: int, written: int | None, arrives: int) -> None:
        """An application gives bytes; some of them go on the way, some of these arrive."""
        app = self.app(name)
        if app is None or not app.session.room:
            return
        app.give(min(size, app.session.room))
        if written is not None:
            self.write(name, written)
            self.arrive(-1, name == "client", arrives)

    @rule(
        name=st.sampled_from(["client", "server"]),
        size=st.sampled_from([1, 3, 60, 100000]),
        acknowledges=st.booleans(),
    )
    def take(self, name: str, size: int, acknowledges: bool) -> None:
        """An application takes bytes; an ACK may arrive."""
        app = self.app(name)
        if app is None:
            return
        app.take(size, self.now)
        if acknowledges:
            self.wait(0.25)
            self.write(name, 0)
            self.arrive(-1, name == "client", 1000000)

    @rule(name=st.sampled_from(["client", "server"]), size=st.sampled_from([0, 1, 5, 40, 40000, 1000000]))
    def write(self, name: str, size: int) -> None:
        """A machine's messages go on the way, and its close frame behind them."""
        app = self.app(name)
        transport = self.at_client if name == "client" else self.at_server
        if app is None:
            return
        messages = app.session.take(size, self.now)
        if transport is None:
            assert not messages or app.session.state is ENDED
            return
        pipe = transport.up if name == "client" else transport.down
        if pipe.close_sent:
            return
        pipe.write(messages)
        if app.session.closing and not app.session.wants_to_send:
            code, text = app.session.closing
            assert pipe.error_sent or code < 4000 or (app.ended and app.ended.by == "peer"), (
                "a close frame without ERROR"
            )
            pipe.close(code, text)

    @rule(takes=st.booleans())
    def move_everything(self, takes: bool) -> None:
        """All that is to be sent arrives, and may be taken."""
        self.write("client", 1000000)
        self.write("server", 1000000)
        for transport in self.transports:
            if not transport.cut:
                self.server_reads(transport, 1000000)
                self.client_reads(transport, 1000000)
        for app in self.apps() if takes else ():
            app.take(1000000, self.now)

    @rule(
        which=st.sampled_from([-1, -1, -1, -2, -3]),
        up=st.booleans(),
        size=st.sampled_from([1, 2, 3, 10, 30, 100, 20000, 1000000, 1000000]),
    )
    def arrive(self, which: int, up: bool, size: int) -> None:
        """Bytes arrive, on this transport or on an older one."""
        if not self.transports or self.transports[max(which, -len(self.transports))].cut:
            return
        transport = self.transports[max(which, -len(self.transports))]
        if up:
            self.server_reads(transport, size)
        else:
            self.client_reads(transport, size)

    @rule(
        how=st.sampled_from(["cut", "cut", "notice", "4003", "hand over"]),
        client=st.booleans(),
        server=st.booleans(),
        code=st.sampled_from([None, None, 1006, 1005, 1001, 1012]),
        reconnects=st.booleans(),
    )
    def interrupt(self, how: str, client: bool, server: bool, code: int | None, reconnects: bool) -> None:
        """The transport is cut, and each side notices or does not yet; the client may come again at once."""
        if how == "cut" and self.transports:
            self.transports[-1].cut = True
        elif how == "4003" and self.at_client is not None and self.client.ended is None:
            self.at_client.up.close(4003)  # as a page does
            self.open_transport()
        elif how == "hand over":
            self.hand_over()
        self.notice(client, server, code)
        if reconnects:
            self.connect(False, True)

    def notice(self, client: bool, server: bool, code: int | None) -> None:
        """A side notices that its transport is cut."""
        if client and self.at_client is not None and self.at_client.cut:
            self.at_client = None
            self.report_client(self.client.session.transport_lost(self.now, no_answer(self.client.session, code)))
        if server and self.at_server is not None and self.at_server.cut:
            self.at_server = None
            assert self.server is not None
            self.report_server(self.server.session.transport_lost(self.now, no_answer(self.server.session, code)))

    def hand_over(self) -> None:
        """Another process goes on with the session: what was not taken is not in it."""
        if self.server is None or self.server.session.state is OPENING:
            return
        self.stop_server()
        session = self.server.session
        assert isinstance(session, ServerSession)
        restored = ServerSession.restore(session.export_state(self.now), self.now, self.new_token)
        finished = self.server.peer_finished and self.server.took_end
        self.server = replace(self.server, session=restored, received=self.server.taken, peer_finished=finished)

    def stop_server(self) -> None:
        """The server's process ends, and all transports with it."""
        self.at_server = None
        for transport in self.transports:
            transport.cut = True

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.25, 3.0, 21.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what is due is done."""
        self.now += seconds
        for app, report in ((self.client, self.report_client), (self.server, self.report_server)):
            if app is not None and app.session.deadline is not None and app.session.deadline <= self.now:
                report(app.session.on_deadline(self.now))
                due = app.session.deadline
                assert due is None or due > self.now, "a deadline that stays"

    @rule(what=st.sampled_from([*["finish client", "finish server"] * 5, *["-"] * 40, *ENDINGS]))
    def end(self, what: str) -> None:
        """A stream ends; seldom, a session ends otherwise."""
        server = self.server
        if what.startswith("finish"):
            app = self.app(what.split()[1])
            if app is not None:
                app.session.finish()
        elif what == "expiry" and self.client.session.state is DETACHED:
            self.wait(121.0)
        elif server is None or server.session.state in (OPENING, ENDED):
            pass
        elif what == "rule":
            self.causes.add(4009)
            server.session.end(4009, "max_lifetime", self.now)
            server.ended = server.session.ended
        elif what == "backend reset":
            self.causes.add(4012)
            server.session.end_after_data(4012, "backend reset")
        elif what == "client":
            self.client_ends = True
            self.client.session.end(1000, "", self.now)
            self.client.ended = self.client.session.ended
        elif what == "restart":
            self.causes.add(4004)
            self.epoch += 1
            self.stop_server()
            server.session.transport_lost(self.now)  # nobody will use it any more

    @rule(which=st.integers(0, 30), attempt=st.integers(1, 2**31))
    def intrude(self, which: int, attempt: int) -> None:
        """A RESUME arrives that was sent once; somebody comes with a token that is not valid any more."""
        if self.resumes:
            frame = self.resumes[which % len(self.resumes)]
            if self.judge(frame) is not None:  # else it would be the one that is awaited
                self.greet(Transport(), frame)
        if not self.issued or self.server is None:
            return
        session = self.server.session
        token = self.issued[which % len(self.issued)]
        if token in self.valid or session.state is OPENING:
            return
        assert isinstance(session, ServerSession)
        before = session.export_state(self.now)
        frame = Resume(self.epoch, session.session_id, token, attempt, session.acked_position, 0)
        assert session.resume(frame, self.now) == reject_resume(frame)
        assert session.export_state(self.now) == before

    # ------------------------------------------------------------------ what holds at every moment

    @invariant()
    def buffers_are_within_the_window(self) -> None:
        """What is held to be sent again, what was not taken, and what is on the way."""
        windows = {"client": self.terms.window, "server": self.server_window}
        for app in self.apps():
            window, session = windows[app.name], app.session
            assert 0 <= session.replay_bytes <= window
            assert 0 <= session.room <= window
            assert session.unconsumed_bytes == app.received - app.taken
        if self.server is not None and self.client.session.session_id:
            for app, other in ((self.client, self.server), (self.server, self.client)):
                assert app.given - other.taken <= windows[app.name]
                assert 0 <= app.received - app.taken <= windows[other.name]

    @invariant()
    def positions_are_true(self) -> None:
        """Received is given, acknowledged is taken; the end comes behind all bytes."""
        if self.server is None or not self.client.session.session_id:
            return
        for app, other in ((self.client, self.server), (self.server, self.client)):
            session = app.session
            assert app.received <= other.given
            assert session.acked_position <= other.acknowledgeable
            assert session.received_position == app.received + app.peer_finished
            assert session.consumed_position == app.acknowledgeable
            assert app.sent <= session.sent_position <= app.given + session.finished
            app.sent = session.sent_position
            if app.peer_finished:
                assert other.session.finished
                assert app.received == other.given

    # ------------------------------------------------------------------ in the end

    def teardown(self) -> None:
        """Without faults from now on, all that was given is acknowledged; both streams end, and all has arrived."""
        if not hasattr(self, "client"):
            return
        acknowledged = self.go_on_until(lambda: all(app.session.acked_position >= app.given for app in self.apps()))
        assert acknowledged, "something that was given is not acknowledged"
        for app in self.apps():
            app.session.finish()
        self.go_on_until(lambda: False)
        ended = self.client.ended
        assert ended is not None, "the session does not come to its end"
        if ended.complete:
            assert self.server is not None
            assert (self.client.taken, self.server.taken) == (self.server.given, self.client.given)
        elif ended.code == 4012:
            assert self.server is not None
            assert self.client.received == self.server.given

    def go_on_until(self, reached: Callable[[], bool]) -> bool:
        """Let everything arrive; gives whether something is reached, or the session has ended."""
        for _ in range(20):
            if self.client.ended is not None or (self.client.session.session_id and reached()):
                return True
            if self.at_client is None or self.at_client.cut or self.client.session.state is DETACHED:
                self.open_transport()
            if self.server is not None and self.server.session.state is OPENING:
                self.backend_connects(False)
            for _ in range(4):
                self.move_everything(True)
            self.buffers_are_within_the_window()
            self.positions_are_true()
            self.wait(0.25)
            self.notice(True, True, None)
        return False


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=min(settings.default.max_examples * 2 // 3, 1500), stateful_step_count=80, deadline=None
)


positions = st.one_of(st.integers(0, 40), st.sampled_from([2**32, 2**64 - 1]))
tokens = st.sampled_from([bytes(32), bytes([1]) * 32])
texts = st.text(max_size=130)
anything = st.one_of(
    st.builds(lambda payload: b"\x05" + payload, st.binary(max_size=20)),
    st.builds(encode_frame, st.builds(Ack, positions) | st.builds(Fin, positions)),
    st.builds(lambda code, text: encode_frame(Failure(code, text)), st.integers(0, 65535), texts),
    st.builds(
        lambda *values: encode_frame(Opened(*values)),
        positions,
        st.just(bytes(16)),
        tokens,
        *[st.integers(0, 2**32 - 1)] * 3,
        *[st.integers(0, 65535)] * 2,
        st.just("n"),
    ),
    st.builds(lambda *values: encode_frame(Resumed(*values)), positions, tokens, st.integers(0, 2**32 - 1)),
    st.builds(lambda frame, cut: encode_frame(frame)[:cut], st.builds(Ack, positions), st.integers(0, 9)),
    st.binary(max_size=80),
)


def begun(role: str) -> Session:
    """Give a session that has begun, with some bytes sent."""
    if role == "client":
        client = ClientSession()
        client.connect(0.0)
        client.take(0, 0.0)
        client.receive([Opened(1, bytes(16), bytes(32), 120, 1000, 100, 250, 20)], 0.0)
        session: Session = client
    else:
        server = ServerSession(
            Open(), epoch=1, session_id=bytes(16), terms=SessionTerms(window=1000), new_token=lambda: bytes(32)
        )
        server.opened(0.0)
        session = server
    session.send(b"some bytes")
    session.take(1000, 0.0)
    return session


@given(
    st.sampled_from(["client", "server", "resuming"]),
    st.lists(anything, max_size=12),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_messages_give_events_or_the_documented_end(role: str, messages: list[bytes], cuts: list[int]) -> None:
    """Never an exception; bytes only within the window; a violation ends with 4002 or 4008, and says so once."""
    session = begun("client" if role == "resuming" else role)
    if isinstance(session, ClientSession) and role == "resuming":
        session.transport_lost(0.0)
        session.connect(0.0)
        session.take(0, 0.0)
    pipe = Pipe(WebSocketFraming("client"), WebSocketFraming("server"))
    pipe.write([(message[:1], message[1:]) for message in messages])
    events = []
    for cut in [*cuts, len(pipe.data)]:
        frames, _ = pipe.read(cut)
        events += session.receive(frames, 0.0)
    received = sum(len(payload) for event in events if isinstance(event, Received) for payload in event.payloads)
    ends = [event for event in events if isinstance(event, Ended)]

    assert received == session.unconsumed_bytes <= 1000
    assert ends == ([session.ended] if session.ended else [])
    assert events[-1:] == ends or not ends
    if session.ended and session.ended.by == "us":
        assert session.ended.code in (4002, 4008)
        assert session.ended.text
        assert [head[0] for head, _ in session.take(1000, 0.0)] == [FrameType.ERROR]


@given(st.binary(max_size=100) | anything)
def test_any_message_is_a_frame_or_malformed(message: bytes) -> None:
    """What is decoded is encoded to the same."""
    frame = decode_message(message)
    if isinstance(frame, Data):
        assert b"\x05" + bytes(frame.payload) == message
    elif not isinstance(frame, Ignored | Malformed):
        assert encode_frame(frame) == message
