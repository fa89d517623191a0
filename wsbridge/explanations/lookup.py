"""Finds what a word means: a reason, a code, an HTTP status, a close code, a log event or a key of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wsbridge.config.errors import PROBLEM_CODES
from wsbridge.explanations.codes import CLOSE_CODE_MEANINGS, EXTRA_STATUSES, STATUS_MEANINGS
from wsbridge.explanations.problems import PROBLEM_REMEDIES
from wsbridge.explanations.reasons import REASON_EXPLANATIONS, Case
from wsbridge.log.events import LOG_EVENTS, LOG_KEYS
from wsbridge.protocol.http1 import reason_phrase
from wsbridge.reasons import REASONS, Reason


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that a word means.

    Attributes:
        name: The word.
        kind: What it is: reason, problem, http_status, close_code, event or key.
        meaning: One or more sentences.
        facts: More about it, by name.
        cases: Causes, and what to change.
        pages: Where it is documented, below docs/; the first is the nearest.
    """

    name: str
    kind: str
    meaning: str
    facts: dict[str, str]
    cases: tuple[Case, ...]
    pages: tuple[str, ...]

    def json(self) -> dict[str, object]:
        """Return the same as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "meaning": self.meaning,
            **self.facts,
            "causes": [{"cause": case.cause, "remedy": case.remedy} for case in self.cases],
            "documentation": [f"docs/{page}" for page in self.pages],
        }


KINDS: Final = {
    "reason": "Reasons: why a connection ended (reason)",
    "http_status": "HTTP statuses, of requests that were not accepted",
    "close_code": "WebSocket close codes (close_code)",
    "problem": "Errors and warnings of the configuration (problem)",
    "event": "Events of the log (event)",
    "key": "Keys of the log",
}
"""Kinds in the order in which they are listed, with their headings."""


_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def all_topics() -> Iterator[Topic]:
    """Return all topics, kind by kind."""
    yield from map(_reason_topic, Reason)
    yield from map(_status_topic, STATUS_MEANINGS)
    yield from map(_close_code_topic, CLOSE_CODE_MEANINGS)
    yield from map(_problem_topic, PROBLEM_CODES)
    yield from map(_event_topic, LOG_EVENTS)
    yield from (Topic(key, "key", _sentence(LOG_KEYS[key]), {}, (), ("logs.md#events",)) for key in LOG_KEYS)


def find_topics(word: str) -> list[Topic]:
    """Return what a word means, empty if that is not known.

    Its case does not matter, nor do quotes and brackets, as in `[E012]`, nor zeros, as in W5 for W005.
    """
    wanted = word.strip().strip('"[]').lower()
    if code := re.fullmatch("([ew])0*([0-9]{1,3})", wanted, re.ASCII):
        wanted = f"{code[1]}{code[2]:>03}"
    return [topic for topic in all_topics() if topic.name.lower() == wanted]


def topic_names() -> list[str]:
    """Return all words, each once."""
    return list(dict.fromkeys(topic.name for topic in all_topics()))


def _reason_topic(reason: Reason) -> Topic:
    if reason is Reason.SERVED:
        text = "Not a fault: wsbridge answered the request itself (`files`, `respond`, `issue_tickets`)."
        return Topic(reason.value, "reason", text, {}, (), ("logs.md",))
    info, explanation = REASONS[reason], REASON_EXPLANATIONS[reason.value]
    status, close_code, tcp = explanation.endings
    facts = {
        "caused_by": explanation.caused_by,
        "http_status": status or "none",
        "close_code": close_code or "none",
        "tcp": tcp,
        "log_level": info.level,
        **({"client_reads": info.advice} if info.advice else {}),
    }
    pages = tuple(dict.fromkeys((f"reasons.md#{reason.value}", *explanation.pages)))
    return Topic(reason.value, "reason", _LINK.sub(r"\1", explanation.meaning), facts, explanation.cases, pages)


def _status_topic(status: int) -> Topic:
    reasons = [
        reason.value
        for reason, info in REASONS.items()
        if info.status == status or status in EXTRA_STATUSES.get(reason.value, ())
    ]
    facts = {"phrase": reason_phrase(status), **({"reasons": ", ".join(reasons)} if reasons else {})}
    return Topic(str(status), "http_status", STATUS_MEANINGS[status], facts, (), ("reasons.md#http-statuses",))


def _close_code_topic(code: int) -> Topic:
    reasons = [reason.value for reason, info in REASONS.items() if code in (info.close_code, info.session_code)]
    facts = {"reasons": ", ".join(reasons)} if reasons else {}
    return Topic(str(code), "close_code", CLOSE_CODE_MEANINGS[code], facts, (), ("reasons.md#close-codes",))


def _problem_topic(code: str) -> Topic:
    warning = code.startswith("W")
    severity = (
        "warning: logged at each start and reload" if warning else "error: wsbridge does not start; a reload fails"
    )
    facts = {"severity": severity, "remedy": PROBLEM_REMEDIES[code]}
    return Topic(code, "problem", _sentence(PROBLEM_CODES[code]), facts, (), ("configuration.md#errors-and-warnings",))


def _event_topic(name: str) -> Topic:
    event = LOG_EVENTS[name]
    facts = {"levels": ", ".join(event.levels), "keys": " ".join(event.keys)}
    return Topic(name, "event", event.meaning, facts, (), ("logs.md#events",))


def _sentence(text: str) -> str:
    first_word = text.partition(" ")[0]
    if not first_word.isalpha() and "-" not in first_word:  # a key of the configuration file, such as auth:
        return f"{text}."
    return f"{text[:1].upper()}{text[1:]}."
