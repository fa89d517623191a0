"""What is wrong with a configuration: Problem, ConfigError, and the table of codes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

MAX_SOURCE_CHARS = 160
"""Characters of a source line that are shown."""
MIN_BEGINNING = 4
"""Letters of a word that may be the beginning of the one that is meant."""
MAX_SAME_SETTINGS = 20
"""Further settings with the same warning that are named in its line."""
MAX_MESSAGE_CHARS = 1000
"""Characters of a message, which may quote a value; the middle is left out."""

PROBLEM_CODES: dict[str, str] = {
    "E001": "the file cannot be read",
    "E002": "the file is not YAML",
    "E003": "unsupported YAML feature: tags, merge keys, multiple documents, too many levels",
    "E004": "duplicate key",
    "E005": "${NAME} is malformed, or the variable is not set",
    "E006": "a key has no value",
    "E007": "included file that every user of this host can change",
    "E010": "unknown key",
    "E011": "missing key",
    "E012": "invalid value",
    "E013": "conflicting settings",
    "E020": "undefined name of a listener or route",
    "E021": "unreachable route",
    "E022": "route reachable from other hosts without auth:",
    "E023": "two listeners on one address",
    "E024": "listener with protocol: tcp whose route has no backend",
    "E025": "authentication method that requires HTTP, on a route of a listener with protocol: tcp",
    "E026": "allowed_origins: any on a route that accepts cookies (cross-site WebSocket hijacking)",
    "E027": "issue_tickets and the auth of its route do not match",
    "E028": "authentication by client certificate on a listener that does not request one",
    "E029": "any_of with a method that admits every other client",
    "E031": "certificate and key cannot be used together",
    "E033": "unusable users file or token file",
    "E034": "key or secret that does not suit its algorithm",
    "E035": "required Python package not installed",
    "E036": "files: of a directory that contains a secret file or the configuration",
    "E037": "{credential: NAME} that systemd did not pass to this process",
    "E040": "undefined field in the URL of a backend",
    "E041": "backend chosen by a request, on a route of a listener with protocol: tcp",
    "E042": "backend that leads back to its own route: every connection would open the next",
    "E043": "no usable socket was passed for a listener with bind: fd:NAME; found only at start and reload",
    "E044": "engine: native, and the native engine cannot be used",
    "W001": (
        "listener without TLS on a loopback address whose route has no auth: a reverse proxy on "
        "this host would expose it"
    ),
    "W002": "insecure: true, the server's certificate is not verified",
    "W003": "allowed_origins: any, or null in the list: every page may connect",
    "W004": "secrets are sent to another host without TLS",
    "W005": "auth: none on a listener without TLS that other hosts can reach",
    "W006": "ping_interval: off, dead peers are not detected",
    "W007": "write: off, stalled peers keep their connection open forever",
    "W008": "certificate that has expired, is not yet valid, or expires within 14 days (or a third of its lifetime)",
    "W009": "world-readable private key",
    "W010": "world-accessible Unix socket",
    "W011": "listener without routes",
    "W012": "world-readable secret file",
    "W013": "plaintext secret in the configuration",
    "W014": "more connections than the limit of open files allows; checked only at start",
    "W015": "trusted_proxies that include nearly every address: any client may claim any address",
    "W016": "credentials on a listener without TLS that other hosts can reach",
    "W017": "audience: any, tokens for other services are accepted",
    "W018": "bad file in a directory of target tokens; the other files are used",
    "W019": "limited address space (LimitAS=, ulimit -v); checked only at start",
    "W020": "authentication that admits nearly every client",
    "W021": "open proxy: anyone may connect to nearly any address",
    "W022": "file that every user of this host can change",
    "W023": "network rule that includes a trusted proxy",
    "W024": "limits that exempt nearly every address",
    "W025": "route that accepts only IP addresses as Host (DNS rebinding protection)",
    "W026": "route behind proxies without host names, credentials or allowed origins (DNS rebinding)",
    "W027": "certificate that clients may reject: incomplete chain, or not for servers",
    "W028": "owner: of a Unix socket that this process may not set",
    "W029": "Proxy-Authorization for a backend, which only a proxy reads",
    "W030": "on_client_lost: reset with a Unix socket, which has no reset",
    "W031": "backend that may lead back to its own route; a connection is rejected when it comes there again",
    "W032": "monitoring endpoint that other hosts can reach",
    "W033": "a socket was passed that no listener binds: its clients wait forever; found only at start and reload",
    "W034": "the native engine is installed and cannot be used, so Python relays; found only at start",
    "W035": "changed setting that only a restart puts into effect; found only at reload",
    "W036": "resumable sessions on a listener without TLS that other hosts can reach",
}
"""Every code and its meaning."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning at its place.

    Attributes:
        file: As the user named it.
        line: From 1; 0 where there is no file.
        column: From 1, in characters; 0 where there is no file.
        setting: Keys that lead to it, such as `routes.vnc.timeouts`; may be empty. Printable.
        message: One sentence without a full stop; printable, and not longer than MAX_MESSAGE_CHARS.
        source: The line of the file; empty where there is none, or where it may hold a secret.
        code: `E…` or `W…`, from `PROBLEM_CODES`.
    """

    file: str
    line: int
    column: int
    setting: str
    message: str
    source: str
    code: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", with_escapes(readable_name(_clip_middle(self.setting))))
        object.__setattr__(self, "message", with_escapes(readable_name(_clip_middle(self.message))))

    @property
    def severity(self) -> Literal["error", "warning"]:
        """Whether it forbids to start."""
        return "warning" if self.code.startswith("W") else "error"

    def text(self) -> str:
        """Return `file:line:column: path: message`, and below it the source line and a caret."""
        file = printable(readable_name(self.file))
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        label = "warning: " if self.severity == "warning" else ""
        path = f"{self.setting}: " if self.setting else ""
        head = f"{place}: {label}{path}{readable_name(self.message)} [{self.code}]"
        if not self.source.strip():
            return head
        line, at = _clip_line(printable(self.source), self.column - 1)
        pad = "".join("\t" if char == "\t" else " " for char in line[:at])
        return f"{head}\n    {line}\n    {pad}^"

    def json(self) -> dict[str, str | int]:
        """Return the same as plain values."""
        return {
            "severity": self.severity,
            "code": self.code,
            "file": readable_name(self.file),
            "line": self.line,
            "column": self.column,
            "setting": self.setting,
            "message": readable_name(self.message),
            "source": printable(self.source),
        }


def merge_warnings(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems with one for all warnings that say the same of several settings, such as of many routes.

    It has the place of the first, and names the others.
    """
    same: dict[tuple[str, str], list[Problem]] = {}
    merged: list[list[Problem]] = []
    for problem in problems:
        group = [problem]
        if problem.severity == "warning" and problem.setting:
            group = same.setdefault((problem.code, problem.message), [])
            group.append(problem)
        if len(group) == 1:
            merged.append(group)
    return [_merge_same(group) for group in merged]


def _merge_same(group: Sequence[Problem]) -> Problem:
    """Return the first problem of a group, with the settings of the others in its message."""
    first, names = group[0], [problem.setting for problem in group[1:]]
    if not names:
        return first
    rest = len(names) - MAX_SAME_SETTINGS
    more = f" and {rest} more" if rest > 0 else ""
    return replace(first, message=f"{first.message}; the same for {', '.join(names[:MAX_SAME_SETTINGS])}{more}")


class ConfigError(Exception):
    """The configuration cannot be used.

    Attributes:
        problems: All of its errors, and its warnings where these could be found, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problem.text() for problem in self.problems))


UNDECODED_BYTE: Final = re.compile("[\udc80-\udcff]")
"""What `os.fsdecode` makes of a byte that is not UTF-8."""


def readable_name(text: str) -> str:
    r"""Write bytes of a file name that are not UTF-8 as `\xe9`: JSON readers reject what Python has for them."""
    return UNDECODED_BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def printable(line: str) -> str:
    """Replace whatever a terminal would act on; the length stays, so that the caret fits."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in line)


def with_escapes(text: str) -> str:
    """Write whatever a terminal would act on or not show as an escape, so that it is found in the file."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def closest_match(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the choice that a word resembles most, whatever its case, or None."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=cutoff)
    begun = [choice for choice in by_lower_case if len(word) >= MIN_BEGINNING and choice.startswith(word.lower())]
    if close and len(begun) == 1:
        close = begun
    return by_lower_case[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ` (did you mean "…"?)`, or nothing where no choice is near."""
    guess = closest_match(word, choices)
    return f' (did you mean "{guess}"?)' if guess else ""


def _clip_middle(text: str) -> str:
    half = MAX_MESSAGE_CHARS // 2
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:half]}…{text[-half + 1 :]}"


def _clip_line(line: str, column: int) -> tuple[str, int]:
    """Cut a long line around the place that is pointed at."""
    if len(line) <= MAX_SOURCE_CHARS:
        return line, column
    start = max(0, min(column - MAX_SOURCE_CHARS // 2, len(line) - MAX_SOURCE_CHARS))
    return line[start : start + MAX_SOURCE_CHARS], column - start
