"""The steps of a probe, their exit codes, and what is reported about each."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal


class ProbeStep(enum.StrEnum):
    """A step of the path of a client, in their order; the value is the name in JSON."""

    DNS = "dns"
    TCP = "tcp"
    PROXY = "proxy"
    TLS = "tls"
    HTTP = "http"
    ORIGIN = "origin"
    SUBPROTOCOL = "subprotocol"
    AUTHENTICATION = "authentication"
    BACKEND = "backend"
    PING = "ping"
    IDLE = "idle"


STEP_EXIT_CODES: Final = {step: 10 + at for at, step in enumerate(ProbeStep)}
"""Exit code where a step fails: 10 for `dns` to 20 for `idle`; below those of sysexits.h and above those of shells."""

STEP_LABELS: Final = {
    ProbeStep.DNS: "DNS",
    ProbeStep.TCP: "TCP",
    ProbeStep.PROXY: "proxy",
    ProbeStep.TLS: "TLS",
    ProbeStep.HTTP: "HTTP",
    ProbeStep.ORIGIN: "Origin",
    ProbeStep.SUBPROTOCOL: "subprotocol",
    ProbeStep.AUTHENTICATION: "authentication",
    ProbeStep.BACKEND: "backend",
    ProbeStep.PING: "ping",
    ProbeStep.IDLE: "idle",
}
"""How a step is printed."""

StepResult = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What is reported about one step.

    Attributes:
        step: The step.
        result: How it ended.
        text: One line.
        seconds: How long it took; None where that means nothing.
        notes: Further lines.
        facts: What of it scripts may use, by stable names; JSON values.
        label: How the step is printed where another name than its own fits better; empty for its own.
    """

    step: ProbeStep
    result: StepResult
    text: str
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a step failed.

    Attributes:
        step: The step.
        cause: One or two sentences.
        remedies: What to change, and where; the most likely first.
    """

    step: ProbeStep
    cause: str
    remedies: tuple[str, ...] = ()


class StepFailedError(Exception):
    """A step failed, and the probe ends.

    Attributes:
        report: Its line.
        diagnosis: Why, and what to do.
    """

    def __init__(
        self,
        diagnosis: Diagnosis,
        text: str,
        *,
        seconds: float | None = None,
        notes: tuple[str, ...] = (),
        facts: Mapping[str, object] | None = None,
        label: str = "",
    ) -> None:
        super().__init__(text)
        self.diagnosis = diagnosis
        self.report = StepReport(diagnosis.step, "failed", text, seconds, notes, facts or {}, label)
