"""The order of the steps: from the URL to an open connection that is watched and pinged."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from wsbridge.log.format import redact
from wsbridge.net.resolver import Resolver
from wsbridge.net.transport import SocketTransport
from wsbridge.probe.answers import (
    HttpFacts,
    answer_notes,
    diagnose_answer,
    diagnose_bad_switch,
    diagnose_no_answer,
    read_facts,
    subprotocol_diagnosis,
)
from wsbridge.probe.explanations import explain_close, explain_reason, reason_of
from wsbridge.probe.idle import IdleFinder, IdleReport
from wsbridge.probe.options import ProbeOptions
from wsbridge.probe.peers import describe_greeting, name_service
from wsbridge.probe.session import ConnectionEnd, ProbeSession
from wsbridge.probe.steps import STEP_EXIT_CODES, Diagnosis, ProbeStep, StepFailedError, StepReport
from wsbridge.probe.transport_faults import diagnose_tls_alert
from wsbridge.probe.transport_path import TransportPath
from wsbridge.probe.upgrade import UpgradeAnswer, ask_for_upgrade
from wsbridge.protocol.handshake import check_upgrade_response
from wsbridge.reasons import Reason, Rejected

REASKED_STATUSES: Final = frozenset((400, 403, 404, 426, 500))
"""Statuses after which the request is repeated without Origin or subprotocols, to see whether these are the cause."""


@dataclass(slots=True)
class ProbeOutcome:
    """What a probe has found so far.

    Attributes:
        steps: All steps, in order.
        diagnosis: Of the step that failed; None where none has.
        round_trips: Seconds of each ping.
        idle: What was found out about idle connections; None where that was not asked for or not reached.
        interrupted: Number of the signal that ended the probe; 0 for none.
    """

    steps: list[StepReport] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    round_trips: list[float] = field(default_factory=list)
    idle: IdleReport | None = None
    interrupted: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.diagnosis is not None:
            return STEP_EXIT_CODES[self.diagnosis.step]
        return 128 + self.interrupted if self.interrupted else 0


class Walk:
    """One probe.

    Args:
        options: What is asked for.
        resolver: Looks names up; used within its block.
        on_step: Gets each step as soon as it is done.
        on_progress: Gets sentences about a step that takes long.

    Attributes:
        outcome: What has been found so far, also after a cancellation.
    """

    def __init__(
        self,
        options: ProbeOptions,
        resolver: Resolver,
        on_step: Callable[[StepReport], None],
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.outcome = ProbeOutcome()
        self._options = options
        self._on_step = on_step
        self._on_progress = on_progress
        self._path = TransportPath(options, resolver, self._report)

    def _report(self, report: StepReport) -> None:
        self.outcome.steps.append(report)
        self._on_step(report)

    async def run(self) -> None:
        """Walk the path until its end, or until a step fails; `outcome` has what was found."""
        try:
            transport = await self._path.open_first()
            try:
                await (self._walk_websocket if self._options.is_websocket else self._walk_raw)(transport)
            finally:
                transport.abort()
            if self._options.idle is not None:
                await self._find_idle()
        except StepFailedError as failed:
            self.outcome.diagnosis = failed.diagnosis
            self._report(failed.report)

    # ---- services without WebSocket

    async def _walk_raw(self, transport: SocketTransport) -> None:
        session = ProbeSession(transport, websocket=False)
        started = trio.current_time()
        await session.watch(self._options.wait, until_data=True)
        seconds = trio.current_time() - started
        end = session.ended
        if end is not None and not session.received:
            if "alert" in end.text:
                raise StepFailedError(diagnose_tls_alert(end.text), end.text, seconds=seconds)
            raise StepFailedError(
                Diagnosis(
                    ProbeStep.BACKEND,
                    "The service accepted the connection and closed it at once.",
                    (
                        (
                            "See its log: it may reject this address (hosts.allow, pg_hba.conf), be full, or "
                            "have no service "
                            "behind it (a forwarded port of ssh, Docker or socat)"
                        ),
                        (
                            "It may expect TLS or a PROXY header first: tls:// for tcp://; wsbridge.yaml: "
                            "proxy_protocol of the "
                            "backend"
                        ),
                    ),
                ),
                f"{'reset' if end.kind == 'reset' else 'closed'} by the service without a byte",
                seconds=seconds,
            )
        if not session.received:
            text = f"open, and silent for {self._options.wait:g} s, as services are that wait for the client"
            self._report(StepReport(ProbeStep.BACKEND, "ok", text))
        else:
            text = f"sends {describe_greeting(session.greeting)}"
            facts = {"greeting": name_service(session.greeting)}
            self._report(StepReport(ProbeStep.BACKEND, "ok", text, seconds, facts=facts))
        await session.close()

    # ---- WebSocket

    async def _ask(self, transport: SocketTransport, *, origin: str | None, subprotocols: bool = True) -> UpgradeAnswer:
        options = self._options
        return await ask_for_upgrade(
            transport,
            options.host,
            options.target.path,
            subprotocols=options.subprotocols if subprotocols else (),
            headers=options.sent_headers,
            origin=origin,
            timeout=options.timeout,
        )

    async def _walk_websocket(self, transport: SocketTransport) -> None:
        answer = await self._ask(transport, origin=self._options.origin)
        if answer.response is None:
            await self._fail_without_response(answer)
        facts = read_facts(answer, self._options)
        if answer.status != 101:
            await self._fail_with_status(answer, facts)
        chosen = self._check_switch(answer, facts)
        self._report_accepted(chosen)
        session = ProbeSession(transport, websocket=True, early=answer.body)
        await self._watch_backend(session)
        await self._measure_round_trip(session)
        await session.close()

    async def _fail_without_response(self, answer: UpgradeAnswer) -> None:
        """Report a request that got no valid response.

        Raises:
            StepFailedError: Always.
        """
        options = self._options
        if options.context is not None:
            alert = answer.detail if " alert " in answer.detail else ""
            if answer.problem in ("closed", "reset"):
                alert = alert or await self._path.alert_after_handshake()
            if alert:
                raise StepFailedError(diagnose_tls_alert(alert), alert, seconds=answer.seconds)
        plain = options.context is None and answer.problem in ("timeout", "closed", "reset", "not_http", "invalid")
        speaks_tls = plain and not answer.first_bytes and await self._path.speaks_tls()
        diagnosis = diagnose_no_answer(answer, options, speaks_tls=speaks_tls)
        text = answer.detail.replace("the backend", "the server")
        raise StepFailedError(diagnosis, text, seconds=answer.seconds, facts={"problem": answer.problem})

    async def _fail_with_status(self, answer: UpgradeAnswer, facts: HttpFacts) -> None:
        """Report an answer other than 101.

        Raises:
            StepFailedError: Always.
        """
        diagnosis = diagnose_answer(facts, self._options)
        if facts.reason is None and diagnosis.step not in (ProbeStep.SUBPROTOCOL, ProbeStep.TLS):
            diagnosis = await self._ask_differently(facts, diagnosis)
        notes = answer_notes(facts, self._options)
        values: dict[str, object] = {"status": facts.status, "answered_by": facts.who}
        if facts.reason is not None:
            values["reason"] = facts.reason.value
        if diagnosis.step is not ProbeStep.HTTP and diagnosis.step is not ProbeStep.TLS:
            self._report(StepReport(ProbeStep.HTTP, "ok", facts.text, answer.seconds, notes, values))
            raise StepFailedError(diagnosis, _failed_text(diagnosis.step, facts), facts=values)
        raise StepFailedError(diagnosis, facts.text, seconds=answer.seconds, notes=notes, facts=values)

    async def _ask_differently(self, facts: HttpFacts, diagnosis: Diagnosis) -> Diagnosis:
        """Find out by another request whether Origin or subprotocols are the cause of a rejection."""
        options = self._options
        if facts.status not in REASKED_STATUSES:
            return diagnosis
        same = f"{'https' if options.context is not None else 'http'}://{options.host}"
        other_origin = same if options.origin is None else None
        if await self._is_accepted(origin=other_origin):
            return _origin_diagnosis(options, same)
        if options.subprotocols and await self._is_accepted(origin=options.origin, subprotocols=False):
            return subprotocol_diagnosis(options)
        return diagnosis

    async def _is_accepted(self, *, origin: str | None, subprotocols: bool = True) -> bool:
        """Return whether another request, on another connection, gets a 101."""
        try:
            transport = await self._path.open_again()
        except StepFailedError:
            return False
        try:
            return (await self._ask(transport, origin=origin, subprotocols=subprotocols)).status == 101
        finally:
            transport.abort()

    def _check_switch(self, answer: UpgradeAnswer, facts: HttpFacts) -> str | None:
        """Check a 101; return the subprotocol that the server chose."""
        assert answer.response is not None  # noqa: S101  (checked by the caller)
        notes = answer_notes(facts, self._options)
        try:
            chosen = check_upgrade_response(answer.response, answer.key, self._options.subprotocols)
        except Rejected as rejected:
            detail = rejected.detail
            diagnosis = diagnose_bad_switch(detail, self._options)
            text = detail.replace("the backend's", "the server's").replace("the backend", "the server")
            raise StepFailedError(diagnosis, text, seconds=answer.seconds, notes=notes) from None
        values: dict[str, object] = {"status": 101, "answered_by": facts.who}
        self._report(StepReport(ProbeStep.HTTP, "ok", facts.text, answer.seconds, notes, values))
        return chosen

    def _report_accepted(self, chosen: str | None) -> None:
        """Report what a 101 says about Origin, subprotocol and authentication."""
        options = self._options
        if options.origin is None:
            text = "none sent, as by programs; a page sends its own: try --origin https://HOST"
            self._report(StepReport(ProbeStep.ORIGIN, "skipped", text))
        else:
            self._report(StepReport(ProbeStep.ORIGIN, "ok", f"{options.origin} accepted"))
        if options.subprotocols and chosen is None:
            diagnosis = Diagnosis(
                ProbeStep.SUBPROTOCOL,
                f"The server selected none of the offered subprotocols ({options.shown_subprotocols}): "
                "browsers close such "
                "a connection.",
                (
                    "wsbridge.yaml: routes.NAME.subprotocols; a server of your own has to select one",
                    "Offer none, if the server knows none: a page: new WebSocket(url)",
                ),
            )
            raise StepFailedError(diagnosis, f"offered {options.shown_subprotocols}, none selected")
        if options.subprotocols:
            chosen = redact(chosen or "")
            text = f"offered {options.shown_subprotocols}, selected {chosen}"
            self._report(StepReport(ProbeStep.SUBPROTOCOL, "ok", text, facts={"selected": chosen}))
        else:
            self._report(StepReport(ProbeStep.SUBPROTOCOL, "skipped", "none offered"))
        if options.credential:
            self._report(StepReport(ProbeStep.AUTHENTICATION, "ok", f"accepted with {options.credential}"))
        else:
            self._report(StepReport(ProbeStep.AUTHENTICATION, "ok", "no credentials sent, none demanded"))

    async def _watch_backend(self, session: ProbeSession) -> None:
        """Watch the connection for some time: what the backend sends, and whether it stays open."""
        started = trio.current_time()
        await session.watch(self._options.wait, until_data=True)
        seconds = trio.current_time() - started
        if session.ended is not None:
            raise self._closed_early(session, session.ended, seconds)
        if not session.received:
            text = f"open, and silent for {self._options.wait:g} s, as services are that wait for the client"
            self._report(StepReport(ProbeStep.BACKEND, "ok", text))
            return
        text = f"sends {describe_greeting(session.greeting)}"
        facts = {"greeting": name_service(session.greeting)}
        self._report(StepReport(ProbeStep.BACKEND, "ok", text, seconds, facts=facts))

    def _closed_early(self, session: ProbeSession, end: ConnectionEnd, seconds: float) -> StepFailedError:
        """Return the failure of a connection that ended soon after its 101."""
        if end.kind == "close":
            diagnosis = explain_close(end.code, end.text)
        elif end.kind == "violation":
            diagnosis = explain_reason(Reason.PROTOCOL_ERROR)
        else:
            diagnosis = Diagnosis(
                ProbeStep.BACKEND,
                f"The connection ended {'by a reset' if end.kind == 'reset' else ''} after the 101, without a "
                "Close frame: "
                "the server or its backend crashed, or a proxy on the path does not relay WebSocket.".replace(
                    "  ", " "
                ),
                (
                    "See the log of the server: with wsbridge, the reason of this connection",
                    "Probe the server without the proxy in front",
                ),
            )
        step = diagnosis.step if diagnosis.step in (ProbeStep.AUTHENTICATION, ProbeStep.PING) else ProbeStep.BACKEND
        before = f" after {session.received} bytes ({describe_greeting(session.greeting)})" if session.received else ""
        facts: dict[str, object] = {"close_code": end.code, "end": end.kind}
        if reason_of(end.text) is not None:
            facts["reason"] = end.text
        text = f"{end}{before}, {seconds * 1000:.1f} ms after the 101"
        text = self._options.secrets.hide_in_text(text)
        return StepFailedError(Diagnosis(step, diagnosis.cause, diagnosis.remedies), text, facts=facts)

    async def _measure_round_trip(self, session: ProbeSession) -> None:
        times = self.outcome.round_trips
        for _ in range(self._options.pings):
            seconds = await session.ping(self._options.timeout)
            if seconds is None:
                break
            times.append(seconds)
        if session.ended is not None and len(times) < self._options.pings:
            raise self._closed_early(session, session.ended, self._options.wait)
        if len(times) < self._options.pings:
            raise StepFailedError(
                Diagnosis(
                    ProbeStep.PING,
                    "The WebSocket is open, and a ping is not answered: a proxy on the path accepted the "
                    "upgrade and does "
                    "not pass frames on, or the server does not answer pings.",
                    (
                        (
                            "Probe the server without the proxy: if its pings are answered, the proxy is the "
                            "cause (buffering, "
                            "inspection)"
                        ),
                        (
                            "A server that must answer pings (RFC 6455 section 5.5.2) and does not: wsbridge "
                            "as its client needs "
                            "ping_interval: off"
                        ),
                    ),
                ),
                f"no pong within {self._options.timeout:g} s, after {len(times)} that came",
            )
        if not times:
            return
        low, middle, high = min(times), statistics.median(times), max(times)
        text = (
            f"round trip {low * 1000:.1f} / {middle * 1000:.1f} / {high * 1000:.1f} ms (min, median, max "
            f"of {len(times)})"
        )
        facts = {"min_seconds": round(low, 6), "median_seconds": round(middle, 6), "max_seconds": round(high, 6)}
        self._report(StepReport(ProbeStep.PING, "ok", text, facts=facts))

    # ---- idle connections

    async def _open_session(self) -> ProbeSession:
        """Open another WebSocket, as the first one.

        Raises:
            StepFailedError: It is not accepted.
        """
        transport = await self._path.open_again()
        answer = None
        try:
            answer = await self._ask(transport, origin=self._options.origin)
        finally:
            if answer is None or answer.status != 101:
                transport.abort()
        if answer.status != 101:
            text = answer.detail or read_facts(answer, self._options).text
            raise StepFailedError(Diagnosis(ProbeStep.IDLE, "Another connection is not accepted."), text)
        return ProbeSession(transport, websocket=True, early=answer.body)

    async def _find_idle(self) -> None:
        assert self._options.idle is not None  # noqa: S101  (checked by the caller)
        finder = IdleFinder(self._open_session, self._options.idle, self._options.timeout, self._on_progress)
        self.outcome.idle = finder.result
        try:
            report, diagnosis = await finder.run()
        except StepFailedError:
            raise
        except BaseException:  # a cancellation, of several tasks at once
            self._report(finder.partial())
            raise
        if diagnosis is not None:
            raise StepFailedError(
                diagnosis, report.text, seconds=report.seconds, notes=report.notes, facts=report.facts
            )
        self._report(report)


def _failed_text(step: ProbeStep, facts: HttpFacts) -> str:
    return f"rejected: {facts.reason.value}" if facts.reason is not None else f"rejected with {facts.status}"


def _origin_diagnosis(options: ProbeOptions, same: str) -> Diagnosis:
    """Say that the answer depends on the Origin: another one gets a 101."""
    if options.origin is None:
        return Diagnosis(
            ProbeStep.ORIGIN,
            f"The server requires an Origin: with {same} it accepts the request.",
            (f"Send one: --origin {same}; wsbridge as the client: origin of the backend",),
        )
    return Diagnosis(
        ProbeStep.ORIGIN,
        f"The server does not accept the Origin {options.origin}; without one it accepts the request.",
        (
            (
                "Allow it at the server: wsbridge.yaml: routes.NAME.allowed_origins; websockets: origins=[…]; "
                "nginx: $http_origin"
            ),
            "wsbridge as the client: origin of the backend sends one that the server accepts",
        ),
    )
