"""Explanations are complete, say nothing that does not exist, and are what the documentation says."""

from __future__ import annotations

import re

import pytest

from tests.docs import explanations
from tests.docs.tables import SCHEMA
from wsbridge.cli.main import COMMAND_NAMES
from wsbridge.config.errors import PROBLEM_CODES
from wsbridge.explanations.codes import CLOSE_CODE_MEANINGS, EXTRA_STATUSES, STATUS_MEANINGS
from wsbridge.explanations.lookup import all_topics
from wsbridge.explanations.problems import PROBLEM_REMEDIES
from wsbridge.explanations.reasons import REASON_EXPLANATIONS
from wsbridge.log.events import LOG_EVENTS, LOG_KEYS
from wsbridge.reasons import REASONS, Reason

TEXT = (explanations.DOCS / "reasons.md").read_text()
OTHER_WORDS = {"true", "false", "same", "any", "proxy_read_timeout", "proxy_protocol on", "x", "off"}
"""Words in backticks that are values, or settings of other programs."""


def known_words() -> set[str]:
    """Give all names that users meet: keys, kinds and values of the configuration, reasons, events, keys of the log."""
    found = set(SCHEMA["properties"]) | set(LOG_EVENTS) | set(LOG_KEYS) | set(COMMAND_NAMES)
    found |= {reason.value for reason in Reason}

    def collect(part: object) -> None:
        if isinstance(part, dict):
            found.update(part.get("properties", ()))
            found.update(value for value in (*part.get("enum", ()), part.get("const")) if isinstance(value, str))
            for value in part.values():
                collect(value)
        elif isinstance(part, list):
            for value in part:
                collect(value)

    collect(SCHEMA)
    return found | OTHER_WORDS


@pytest.mark.parametrize("name", explanations.BLOCKS)
def test_the_page_of_reasons_is_made_of_them(name: str) -> None:
    """Where this fails, `python -m tests.docs.explanations` writes the page."""
    assert explanations.written_blocks(TEXT)[name] == explanations.made_block(name)


def test_everything_is_explained() -> None:
    """Each reason, code and status; and no other."""
    assert set(REASON_EXPLANATIONS) == set(Reason) - {Reason.SERVED}
    assert set(PROBLEM_REMEDIES) == set(PROBLEM_CODES)
    sent = {info.status for info in REASONS.values()} | {code for codes in EXTRA_STATUSES.values() for code in codes}
    assert set(STATUS_MEANINGS) == (sent - {None}) | {101}
    closing = {info.close_code for info in REASONS.values()} - {None}
    assert closing <= set(CLOSE_CODE_MEANINGS)
    assert set(EXTRA_STATUSES) <= set(REASON_EXPLANATIONS)


def test_statuses_and_codes_are_those_of_the_table() -> None:
    """What an explanation says of status and close code has the numbers that are sent."""
    for name, explanation in REASON_EXPLANATIONS.items():
        info = REASONS[Reason(name)]
        status, close_code, tcp = explanation.endings
        assert info.status is None or status == "" or str(info.status) in status, name
        assert not re.search(r"\d{3}", status) or info.status is not None, name
        assert close_code in ("", "dropped") or not close_code[0].isdigit() or str(info.close_code) in close_code, name
        assert tcp.startswith("reset" if info.reset else ("FIN", "stays connected")), name


def test_words_in_backticks_exist() -> None:
    """Settings, reasons, events and commands that explanations name are there."""
    known = known_words()
    for topic in all_topics():
        texts = [topic.meaning, topic.facts.get("remedy", ""), *(case.cause + case.remedy for case in topic.cases)]
        for text in re.findall(r"`([^`]+)`", " ".join(texts)) if topic.kind in ("reason", "problem") else ():
            if command := re.match(r"wsbridge ([a-z][a-z-]+)", text):
                assert command[1] in COMMAND_NAMES, (topic.name, text)
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", text) and text not in LOG_EVENTS:
                assert all(word in known for word in text.split(".")), (topic.name, text)
            elif setting := re.match(r"([a-z_]+): ", text):
                assert setting[1] in known, (topic.name, text)


def test_pages_exist() -> None:
    """Each page and heading that an explanation refers to."""
    for topic in all_topics():
        for page in topic.pages:
            file, _, anchor = page.partition("#")
            text = (explanations.DOCS / file).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
            assert not anchor or anchor in anchors, page
