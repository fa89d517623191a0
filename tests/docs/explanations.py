"""Blocks of docs/ that are made of `wsbridge.explanations`; `python -m tests.docs.explanations` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from wsbridge.explanations.codes import CLOSE_CODE_MEANINGS, STATUS_MEANINGS
from wsbridge.explanations.lookup import Topic, find_topics
from wsbridge.explanations.reasons import REASON_EXPLANATIONS
from wsbridge.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs"


def cell(text: str) -> str:
    """Write the text of a cell; none is a dash."""
    return text.replace("|", "\\|") or "–"  # noqa: RUF001


def topic_of(name: str, kind: str) -> Topic:
    """Give the topic of a name that may have several."""
    (found,) = [topic for topic in find_topics(name) if topic.kind == kind]
    return found


def title(page: str) -> str:
    """Give the title of a page."""
    return (DOCS / page.partition("#")[0]).read_text().partition("\n")[0].removeprefix("# ")


def reasons() -> Iterator[str]:
    """Give the table of reasons, line by line."""
    yield "| reason | HTTP status before the 101 | close code after it | TCP side | meaning |"
    yield "|---|---|---|---|---|"
    for reason in Reason:
        if reason is not Reason.SERVED:
            explanation = REASON_EXPLANATIONS[reason.value]
            cells = map(cell, (*explanation.endings, explanation.meaning))
            yield f"| [`{reason.value}`](#{reason.value}) | {' | '.join(cells)} |"


def causes() -> Iterator[str]:
    """Give a section for each reason, with its causes and remedies."""
    for reason in Reason:
        if reason is not Reason.SERVED:
            explanation = REASON_EXPLANATIONS[reason.value]
            yield f"### {reason.value}"
            yield ""
            more = "".join(f" See [{title(page)}]({page})." for page in explanation.pages)
            yield f"Caused by {explanation.caused_by}.{more}"
            yield ""
            yield "| cause | what to change |"
            yield "|---|---|"
            yield from (f"| {cell(case.cause)} | {cell(case.remedy)} |" for case in explanation.cases)
            yield ""


def statuses() -> Iterator[str]:
    """Give the table of HTTP statuses, line by line."""
    yield "| status | meaning | reasons |"
    yield "|---|---|---|"
    for status in STATUS_MEANINGS:
        topic = topic_of(str(status), "http_status")
        yield f"| {status} {topic.facts['phrase']} | {cell(topic.meaning)} | {linked(topic)} |"


def close_codes() -> Iterator[str]:
    """Give the table of close codes, line by line."""
    yield "| close code | meaning | reasons |"
    yield "|---|---|---|"
    for code in CLOSE_CODE_MEANINGS:
        topic = topic_of(str(code), "close_code")
        yield f"| {code} | {cell(topic.meaning)} | {linked(topic)} |"


def linked(topic: Topic) -> str:
    """Give the reasons of a status or code."""
    return cell(", ".join(f"`{name}`" for name in topic.facts.get("reasons", "").split(", ") if name))


BLOCKS = {"reasons": reasons, "causes": causes, "statuses": statuses, "close codes": close_codes}


def written_blocks(text: str) -> dict[str, str]:
    """Give what docs/reasons.md has between the marks of each block."""
    found = re.findall(r"<!-- begin: ([a-z ]+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    return dict(found)


def made_block(name: str) -> str:
    """Give what it should have there."""
    return "\n".join(BLOCKS[name]()).rstrip("\n") + "\n"


def main() -> None:
    """Write all blocks."""
    file = DOCS / "reasons.md"
    text = file.read_text()
    for name, old in written_blocks(text).items():
        text = text.replace(f"<!-- begin: {name} -->\n{old}", f"<!-- begin: {name} -->\n{made_block(name)}")
    file.write_text(text)


if __name__ == "__main__":
    main()
