"""Problems: what a user is shown of a configuration that is wrong or risky.

Lives here: a problem with its place, its text and its JSON, the table of codes, and guessing what a typo meant.
Must not live here: finding problems.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDEST = 160
"""Characters of a source line that are shown."""

USER_AND_PASSWORD = re.compile(r"""(?<=://)(?:[^/\s:@"']+:(?!\d+/)[^\s"']+|[^/\s"']+)(?=@)""")
"""What stands before the host of a URL; `host:port/path@x` is none."""

SECRET_HEADER = re.compile(
    r"""(\b(?:authorization|cookie)(?:["']\s*:\s*|\s*:\s+))("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s{"'].*)""", re.IGNORECASE
)
"""A header that is a secret, and its value where that is written as text; a bare one hides all that follows."""

CODES: dict[str, str] = {
    "E001": "the file cannot be read",
    "E002": "the file is not YAML",
    "E003": "a feature of YAML that is not taken here: tags, merge keys, several documents, too much nesting",
    "E004": "a key stands twice in one mapping",
    "E005": "${NAME} is malformed or the variable is not set",
    "E006": "a key has no value",
    "E010": "unknown key",
    "E011": "a key is missing",
    "E012": "a value of the wrong form",
    "E013": "keys or values that do not go together",
    "E020": "a name that nothing bears",
    "E021": "a route that nothing can reach",
    "E022": "a route that others than this host can reach, without auth:",
    "E023": "two listeners on one address",
    "E024": "a listener that speaks tcp with a route that has no backend",
    "E025": "a way of authentication that needs HTTP, on a route that a listener with speaks: tcp names",
    "E026": "origins: any where a cookie lets in",
    "E027": "a route that gives tickets which the other route does not take",
    "E028": "authentication by certificate, at a listener that asks clients for none",
    "E031": "a certificate and a key that cannot be used together",
    "E032": "a certificate that does not hold now",
    "E033": "a list of users or tokens that cannot be used",
    "E034": "a key or a secret that its algorithm cannot use",
    "E035": "a library that is needed and not installed",
    "E040": "a field of a backend that the route has nothing for",
    "E041": "a backend chosen by a request, on a route that a listener with speaks: tcp names",
    "W001": "a plain listener on a loopback address whose route has no auth: a proxy on this host would publish it",
    "W002": "insecure: true, the backend's certificate is not verified",
    "W003": "origins: any, or null in their list: every page may connect",
    "W004": "secrets go to another host without TLS",
    "W005": "auth: none on a listener without TLS that other hosts can reach",
    "W006": "ping: off, peers that vanished are not noticed",
    "W007": "write: off, stalled peers hold their connection for ever",
    "W008": "a certificate that expires within 14 days",
    "W009": "a private key that every user of this host can read",
    "W010": "a Unix socket that every user of this host can use",
    "W011": "a listener that no route serves",
    "W012": "the file of a secret that every user of this host can read",
    "W013": "a secret that stands in the configuration as text",
    "W014": "more connections than the limit of open files allows; told at the start alone",
    "W015": "trusted_proxies that hold every address: any client may claim any other",
    "W016": "credentials on a listener without TLS that other hosts can reach",
    "W017": "audience: any, tokens that were made for other services let in",
}
"""Every code and what it stands for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning at its place.

    Attributes:
        file: As the user named it.
        line: From 1; 0 where there is no file.
        column: From 1, in characters; 0 where there is no file.
        path: Keys that lead to it, such as `routes.vnc.timeouts`; may be empty.
        message: One sentence without a full stop.
        source: The line of the file; empty where there is none.
        code: `E…` or `W…`, from `CODES`.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    source: str
    code: str

    @property
    def severity(self) -> Literal["error", "warning"]:
        """Whether it forbids to start."""
        return "warning" if self.code.startswith("W") else "error"

    def text(self) -> str:
        """Give `file:line:column: path: message`, and below it the source line and a caret."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        label, tail = ("warning: ", f" [{self.code}]") if self.severity == "warning" else ("", "")
        path = f"{self.path}: " if self.path else ""
        head = f"{place}: {label}{path}{self.message}{tail}"
        if not self.source.strip():
            return head
        line, at = _window(masked(self.source), self.column - 1)
        pad = "".join("\t" if char == "\t" else " " for char in line[:at])
        return f"{head}\n    {line}\n    {pad}^"

    def json(self) -> dict[str, str | int]:
        """Give the same as plain values."""
        return {
            "severity": self.severity,
            "code": self.code,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "source": masked(self.source),
        }


class ConfigError(Exception):
    """The configuration cannot be used.

    Attributes:
        problems: All of its errors, and its warnings where these could be found, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problem.text() for problem in self.problems))


def masked(line: str) -> str:
    """Hide user and password of URLs, headers that are secrets, and whatever a terminal would act on; the length stays.

    A password with "@" or "/" in it is hidden as a whole: it is an error, and so its line is shown.
    """
    line = SECRET_HEADER.sub(lambda found: found[1] + "*" * len(found[2]), line)
    line = USER_AND_PASSWORD.sub(lambda found: "*" * len(found[0]), line)
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in line)


def meant(word: str, choices: Iterable[str], alike: float = 0.6) -> str | None:
    """Guess which of the choices a word was meant to be; 1 is `alike` in every letter."""
    close = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=alike)
    return close[0] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Give ` (did you mean "…"?)`, or nothing where no choice is near."""
    guess = meant(word, choices)
    return f' (did you mean "{guess}"?)' if guess else ""


def _window(line: str, at: int) -> tuple[str, int]:
    """Cut a long line around the place that is pointed at."""
    if len(line) <= WIDEST:
        return line, at
    start = max(0, min(at - WIDEST // 2, len(line) - WIDEST))
    return line[start : start + WIDEST], at - start
