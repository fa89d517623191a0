"""`wsbridge explain`: what a reason, a code or an event means, and what to change."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import Final

import click
from click.shell_completion import CompletionItem

from wsbridge.cli.main import EXIT_OK, EXIT_USAGE, CliError, PreformattedCommand
from wsbridge.config.errors import closest_match
from wsbridge.explanations.lookup import KINDS, Topic, all_topics, find_topics, topic_names

MAX_WIDTH: Final = 100
"""Columns of the text, on a terminal that has as many."""
_LABELS: Final = {
    "caused_by": "caused by",
    "http_status": "HTTP status",
    "close_code": "close code",
    "tcp": "TCP side",
    "log_level": "log level",
    "client_reads": "client gets",
    "phrase": "phrase",
    "reasons": "reasons",
    "severity": "severity",
    "remedy": "remedy",
    "levels": "log levels",
    "keys": "keys",
}
_KIND_NAMES: Final = {
    "reason": "reason of a disconnect",
    "http_status": "HTTP status",
    "close_code": "WebSocket close code",
    "problem": "problem of the configuration",
    "event": "event of the log",
    "key": "key of the log",
}


def _complete_word(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [
        CompletionItem(topic.name, help=topic.meaning.partition(". ")[0])
        for topic in all_topics()
        if topic.kind != "key" and topic.name.lower().startswith(begun.lower())
    ]


@click.command("explain", cls=PreformattedCommand)
@click.argument("word", required=False, shell_complete=_complete_word)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(word: str | None, as_json: bool) -> int:
    """Explain a reason, a code, a status or a log event.

    WORD is a reason (backend_tls), a code of an error or warning (E012, W003), an HTTP status (502), a WebSocket close
    code (1006), an event (connection.rejected) or a key of the log (initiator). It prints what that means, who causes
    it, and what to change. Without WORD it lists all of them.

    Exit codes: 0 explained, 64 unknown word.

    Examples:
      wsbridge explain backend_tls
      wsbridge explain 1006
      wsbridge explain W001 --json
    """
    topics = list(all_topics()) if word is None else find_topics(word)
    if not topics:
        guess = closest_match(word or "", topic_names())
        hint = f' (did you mean "{guess}"?)' if guess else '; "wsbridge explain" lists what can be explained'
        raise CliError(f'nothing is known about "{word}"{hint}', EXIT_USAGE)
    if as_json:
        click.echo(json.dumps([topic.json() for topic in topics], indent=2, ensure_ascii=False))
    else:
        click.echo(_list_text() if word is None else "\n\n".join(map(_topic_text, topics)))
    return EXIT_OK


def _list_text() -> str:
    """Return all words with the beginning of their meanings, kind by kind."""
    parts = []
    topics = list(all_topics())
    for kind, heading in KINDS.items():
        rows = [topic for topic in topics if topic.kind == kind]
        longest = max(len(topic.name) for topic in rows)
        lines = [_clip(f"  {topic.name:{longest}}  {topic.meaning}", _width()) for topic in rows]
        parts.append("\n".join([f"{heading}:", *lines]))
    return "\n\n".join(parts)


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)


def _clip(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 2].rsplit(' ', 1)[0]} …"


def _topic_text(topic: Topic) -> str:
    paragraphs = [f"{topic.name}: {_KIND_NAMES[topic.kind]}", _wrapped(topic.meaning)]
    if topic.facts:
        width = max(len(_LABELS[key]) for key in topic.facts)
        rows = [_wrapped(text, f"{_LABELS[key]:{width}}  ", " " * (width + 2)) for key, text in topic.facts.items()]
        paragraphs.append("\n".join(rows))
    if topic.cases:
        lines = ["Causes, and what to change:"]
        for case in topic.cases:
            lines += [_wrapped(case.cause, "- ", "  "), _wrapped(case.remedy, "    ", "    ")]
        paragraphs.append("\n".join(lines))
    paragraphs.append(f"Documentation: {', '.join(f'docs/{page}' for page in topic.pages)}")
    return "\n\n".join(paragraphs)


def _wrapped(text: str, first: str = "", other: str = "") -> str:
    return textwrap.fill(
        text, _width(), initial_indent=first, subsequent_indent=other, break_long_words=False, break_on_hyphens=False
    )
