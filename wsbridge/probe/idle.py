"""How long a connection may be idle: finds what cuts idle connections on the path, and the ping interval that survives.

Several WebSockets are held open at the same time. Some carry nothing for different times and are then pinged once;
others are pinged in different intervals all the time. A connection that is closed before its ping gives the exact time;
where packets are only dropped, a pong that does not come bounds it, and further connections within the bounds narrow it
down.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from wsbridge.probe.explanations import EXPLANATIONS
from wsbridge.probe.session import ConnectionEnd, ProbeSession
from wsbridge.probe.steps import Diagnosis, ProbeStep, StepFailedError, StepReport

IDLE_FRACTIONS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Idle times that are tried at first, as parts of the longest one."""
PING_FRACTIONS: Final = (1 / 30, 1 / 15, 1 / 10, 1 / 6, 1 / 4, 1 / 2)
"""Ping intervals that are tried, likewise."""
NARROWING: Final = 6
"""Idle times between the one that survived and the one that did not, where packets are dropped silently."""
OPENING_PAUSE: Final = 0.06
"""Seconds between the beginnings of two connections, at most: below the handshake rate that servers allow."""
ENOUGH_CUTS: Final = 2.5
"""How many times the idle time that was cut connections with pings have to last, to be regarded as surviving."""

_TYPICAL: Final = (
    (
        60.0,
        "nginx: proxy_read_timeout and proxy_send_timeout (default 60s); AWS: idle timeout of the load balancer (60 s)",
    ),
    (100.0, "Cloudflare: 100 s, which cannot be changed"),
    (240.0, "Azure: idle timeout of the load balancer (4 minutes)"),
    (350.0, "AWS: network load balancer and NAT gateway, 350 s"),
    (3600.0, "HAProxy: timeout tunnel (1h in many configurations)"),
)

TryState = Literal["waiting", "open", "survived", "cut", "stopped"]


@dataclass(slots=True)
class IdleTry:
    """One connection.

    Attributes:
        seconds: Its idle time, or its ping interval.
        pinging: Whether it is the interval of pings.
        state: How it is; `stopped` where its end was not worth waiting for.
        lasted: Seconds that it was idle when it was cut; for one with pings, since it was open.
        end: How it was cut; None where packets were dropped silently.
        after_ping: Whether it was still open, as far as this side knew, when the ping was sent.
        answered: Pings that were answered.
    """

    seconds: float
    pinging: bool
    state: TryState = "waiting"
    lasted: float = 0.0
    end: ConnectionEnd | None = None
    after_ping: bool = False
    answered: int = 0

    @property
    def how(self) -> str:
        """How it was cut, and what may have cut it."""
        if self.end is None:
            return "packets are dropped silently, as by a NAT or firewall that has forgotten the connection"
        if self.end.kind == "close":
            return f"the server closed it: {self.end}"
        if self.after_ping:
            return (
                f"{self.end} in answer to the next packet: a NAT, firewall or load balancer had forgotten "
                "the connection"
            )
        if self.end.kind == "fin":
            return "FIN without a Close frame: a proxy on the path closed it"
        return f"{self.end}: a firewall or a proxy on the path, or the server, reset it"

    def __str__(self) -> str:
        what = f"pinged each {seconds_text(self.seconds)}" if self.pinging else f"idle for {seconds_text(self.seconds)}"
        if self.state != "cut":
            return f"{what}: {self.state}"
        after = f" after {seconds_text(self.lasted)}" if self.pinging or not self.after_ping else ""
        return f"{what}: cut{after}: {self.how}"


@dataclass(slots=True)
class IdleReport:
    """What was found out about idle connections so far.

    Attributes:
        limit: Seconds of the longest idle time that is tried.
        tries: All connections.
        server_pings: Seconds between pings of the server, or until its first; None where it sends none.
        not_opened: Connections that were not accepted.
    """

    limit: float
    tries: list[IdleTry] = field(default_factory=list)
    server_pings: float | None = None
    not_opened: int = 0

    def _idle(self, state: TryState) -> list[IdleTry]:
        return [one for one in self.tries if not one.pinging and one.state == state]

    @property
    def survived(self) -> float:
        """Seconds of the longest idle time that a connection survived, below that of a cut; 0 for none.

        A middlebox that looks at its connections now and then also spares some that were idle for longer.
        """
        cut = self.cut
        found = [one.seconds for one in self._idle("survived")]
        return max((seconds for seconds in found if cut is None or seconds <= cut), default=0.0)

    @property
    def cut(self) -> float | None:
        """Seconds of idleness after which connections are cut, or a bound for it; None where none was cut."""
        found = self._idle("cut")
        closed = [one.lasted for one in found if not one.after_ping]
        if closed:
            return statistics.median(closed)
        return min((one.seconds for one in found), default=None)

    @property
    def is_exact(self) -> bool:
        """Whether the time is exact: connections were closed, and not only found dead."""
        return any(not one.after_ping for one in self._idle("cut"))

    @property
    def first_cut(self) -> IdleTry | None:
        """The connection that shows how connections are cut."""
        found = self._idle("cut")
        closed = [one for one in found if not one.after_ping]
        return min(closed or found, key=lambda one: one.seconds, default=None)

    @property
    def ping_interval(self) -> float | None:
        """The longest ping interval that survived and leaves a margin; None for none."""
        survived = [one.seconds for one in self.tries if one.pinging and one.state == "survived"]
        cut = self.cut
        safe = [seconds for seconds in survived if cut is None or seconds <= cut * 0.7]
        return max(safe, default=min(survived, default=None))

    def facts(self) -> dict[str, object]:
        """Describe it for scripts."""
        first = self.first_cut
        return {
            "tried_seconds": self.limit,
            "survived_seconds": round(self.survived, 3),
            "cut_seconds": None if self.cut is None else round(self.cut, 3),
            "cut_is_exact": self.is_exact,
            "cut_by": None if first is None else ("silent" if first.end is None else first.end.kind),
            "ping_interval_seconds": None if self.ping_interval is None else round(self.ping_interval, 3),
            "server_ping_seconds": None if self.server_pings is None else round(self.server_pings, 3),
            "tries": [
                {"seconds": round(one.seconds, 3), "pinging": one.pinging, "result": one.state} for one in self.tries
            ],
        }


class IdleFinder:
    """Finds out how long connections may be idle.

    Args:
        open_session: Opens a WebSocket.
        limit: Seconds of the longest idle time to try.
        timeout: Seconds for a pong.
        on_progress: Gets a sentence about each connection that ends, and about how long it takes.

    Attributes:
        result: What was found so far, also after a cancellation.
    """

    def __init__(
        self,
        open_session: Callable[[], Awaitable[ProbeSession]],
        limit: float,
        timeout: float,
        on_progress: Callable[[str], None],
    ) -> None:
        self.result = IdleReport(limit)
        self._open_session = open_session
        self._limit = limit
        self._timeout = timeout
        self._on_progress = on_progress
        self._scopes: dict[int, trio.CancelScope] = {}
        self._opening = trio.Lock()
        self._unopened = len(IDLE_FRACTIONS)
        self._all_idle_opened = trio.Event()
        self._failure: StepFailedError | None = None

    async def run(self) -> tuple[StepReport, Diagnosis | None]:
        """Try; return the line about it, and why it failed if it did.

        Raises:
            StepFailedError: No connection could be opened.
        """
        found = self.result
        idle = [IdleTry(self._limit * part, pinging=False) for part in IDLE_FRACTIONS]
        pinged = [IdleTry(self._limit * part, pinging=True) for part in PING_FRACTIONS]
        found.tries = [*idle, *pinged]
        self._on_progress(
            f"{len(found.tries)} connections are idle, or pinged, for up to {seconds_text(self._limit)} each; "
            "a silent cut "
            "takes up to as long again to narrow down. Ctrl-C prints what is known so far."
        )
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for one in pinged:
                nursery.start_soon(self._keep_pinging, one)
            await self._hold_all(idle)
            await self._narrow()
            until = started + self._limit if found.cut is None else trio.current_time()
            for one in pinged:
                scope = self._scopes.get(id(one))
                if scope is not None:
                    enough = started + ENOUGH_CUTS * max(found.cut or 0.0, one.seconds)
                    scope.deadline = max(until, min(enough, started + self._limit))
        if self._failure is not None and not any(one.state in ("survived", "cut") for one in idle):
            raise self._failure
        return self._finish(trio.current_time() - started)

    def partial(self) -> StepReport:
        """Return the line about what is known before the end."""
        found = self.result
        text = "interrupted"
        if found.survived:
            text += f"; idle for {seconds_text(found.survived)} survived"
        if found.cut is not None:
            text += f"; {self._cut_text()}"
        if not found.survived and found.cut is None:
            text += ", and nothing is known so far"
        return StepReport(ProbeStep.IDLE, "skipped", text, notes=self._notes(), facts=found.facts())

    async def _hold_all(self, tries: Sequence[IdleTry]) -> None:
        async with trio.open_nursery() as nursery:
            for one in tries:
                nursery.start_soon(self._hold, one)

    async def _narrow(self) -> None:
        """Try idle times between the longest that survived and the shortest that was found dead."""
        low, high = self.result.survived, self.result.cut
        if high is None or self.result.is_exact or low >= high:
            return
        self._on_progress(f"a silent cut between {seconds_text(low)} and {seconds_text(high)}: narrowing it down")
        step = (high - low) / (NARROWING + 1)
        more = [IdleTry(low + step * at, pinging=False) for at in range(1, NARROWING + 1)]
        self.result.tries += more
        await self._hold_all(more)

    async def _open(self, one: IdleTry) -> ProbeSession | None:
        """Open a connection; not all at once, since servers limit that."""
        async with self._opening:
            await trio.sleep(min(OPENING_PAUSE, self._limit / 100))
            try:
                session = await self._open_session()
            except StepFailedError as failed:
                self._failure = failed
                self.result.not_opened += 1
                one.state = "stopped"
                return None
        one.state = "open"
        return session

    async def _hold(self, one: IdleTry) -> None:
        """Let a connection be idle, then ping it."""
        session = await self._open(one)
        self._unopened -= 1
        if self._unopened == 0:
            self._all_idle_opened.set()
        if session is None:
            return
        opened = trio.current_time()
        try:
            with trio.CancelScope() as scope:
                self._scopes[id(one)] = scope
                await session.watch(one.seconds)
                if session.ended is None:
                    one.after_ping = True
                    one.answered += await session.ping(self._timeout) is not None
                self._judge(one, session, opened)
        finally:
            session.abort()

    def _judge(self, one: IdleTry, session: ProbeSession, opened: float) -> None:
        """Note how an idle connection went."""
        if session.server_pings:
            times = [opened, *session.server_pings]
            self.result.server_pings = statistics.median(b - a for a, b in itertools.pairwise(times))
        if one.answered:
            one.state, one.after_ping = "survived", False
            self._on_progress(str(one))
            return
        one.state, one.end = "cut", session.ended
        last = session.server_pings[-1] if session.server_pings else opened
        one.lasted = (trio.current_time() if session.ended is None or one.after_ping else session.ended.at) - last
        self._on_progress(str(one))
        if one.after_ping:
            for other in self.result.tries:
                if not other.pinging and other.state == "open" and other.seconds > one.seconds:
                    other.state = "stopped"
                    self._scopes[id(other)].cancel()

    async def _keep_pinging(self, one: IdleTry) -> None:
        """Ping a connection in its interval, until it is cut or has lasted long enough."""
        await self._all_idle_opened.wait()  # a server may accept only some connections: these come first
        session = await self._open(one)
        if session is None:
            return
        opened = trio.current_time()
        cut = False
        try:
            with trio.CancelScope(deadline=opened + self._limit) as scope:
                self._scopes[id(one)] = scope
                while not cut:
                    await session.watch(one.seconds)
                    one.after_ping = session.ended is None
                    cut = session.ended is not None or await session.ping(self._timeout) is None
                    one.answered += not cut
        finally:
            session.abort()
        if cut:
            one.state, one.end, one.lasted = "cut", session.ended, trio.current_time() - opened
            self._on_progress(str(one))
        else:
            one.state = "survived" if one.answered >= 2 else "stopped"

    # ---- what it means

    def _cut_text(self) -> str:
        found = self.result
        assert found.cut is not None  # noqa: S101  (checked by the callers)
        if found.is_exact:
            return f"idle connections are cut after {seconds_text(found.cut)}"
        return f"idle connections are cut between {seconds_text(found.survived)} and {seconds_text(found.cut)}"

    def _notes(self) -> tuple[str, ...]:
        found = self.result
        notes = []
        if found.first_cut is not None:
            notes.append(f"how: {found.first_cut.how}")
            if found.survived:
                notes.append(f"idle for {seconds_text(found.survived)}: survived")
        pinged = [one for one in found.tries if one.pinging]
        for state, word in (("survived", "survive"), ("cut", "do not survive")):
            times = ", ".join(seconds_text(one.seconds) for one in pinged if one.state == state)
            if times:
                notes.append(f"ping intervals that {word}: {times}")
        if found.server_pings is not None:
            text = f"the server pings each {seconds_text(found.server_pings)}, so no connection was idle for longer"
            notes.append(f"{text} (wsbridge: timeouts.ping_interval)")
        if found.not_opened:
            notes.append(f"{found.not_opened} connections were not accepted: the result is coarser")
        return tuple(notes)

    def _finish(self, seconds: float) -> tuple[StepReport, Diagnosis | None]:
        found = self.result
        notes = self._notes()
        if found.cut is None:
            text = (
                f"connections that are idle for {seconds_text(found.survived)} survive, the longest time that was tried"
            )
            return StepReport(ProbeStep.IDLE, "ok", text, seconds, notes, found.facts()), None
        report = StepReport(ProbeStep.IDLE, "failed", self._cut_text(), seconds, notes, found.facts())
        return report, self._diagnose(found.cut)

    def _diagnose(self, cut: float) -> Diagnosis:
        found = self.result
        first = found.first_cut
        end = None if first is None else first.end
        known = None if end is None else EXPLANATIONS.get(end.text)
        if known is not None:
            return Diagnosis(ProbeStep.IDLE, known.cause, known.remedies)
        remedies = []
        interval = found.ping_interval
        if interval is not None:
            remedies.append(
                f"Ping each {seconds_text(interval)} or more often, which survives: timeouts.ping_interval: "
                f"{duration_text(interval)} in wsbridge.yaml (default 20s); --ping-interval of `bridge`"
            )
        else:
            remedies.append(
                "No ping interval that was tried survives: what cuts the connections counts only payload, or their age "
                "(max_lifetime); pings do not help, so it has to be changed itself"
            )
        where = [text for seconds, text in _TYPICAL if abs(cut - seconds) <= max(2.0, 0.03 * seconds)]
        if end is None or (first is not None and first.after_ping):
            where.append(
                "NAT, firewall: the timeout of established TCP connections (nf_conntrack_tcp_timeout_established)"
            )
        else:
            where.append(
                "Or raise the timeout: nginx: proxy_read_timeout; HAProxy: timeout tunnel, timeout client, "
                "timeout server"
            )
        who = "The server" if end is not None and end.kind == "close" else "Something on the path"
        return Diagnosis(ProbeStep.IDLE, f"{who} cuts connections that are idle.", (*remedies, *dict.fromkeys(where)))


def duration_text(seconds: float) -> str:
    """Write seconds, rounded down, as the configuration has them."""
    return f"{int(seconds)}s" if seconds >= 1 else f"{max(1, int(seconds * 1000))}ms"


def seconds_text(seconds: float) -> str:
    """Write seconds for people: `0.35 s`, `12.5 s`, `90 s`, `5 min`."""
    if seconds >= 120 and round(seconds) % 60 == 0:
        return f"{round(seconds) // 60} min"
    if seconds >= 60:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
