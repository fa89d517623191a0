"""Whatever a file holds, the answer is a configuration or a list of problems."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from wsbridge.config.errors import ConfigError
from wsbridge.config.load import load_text
from wsbridge.registry import CONFIG_REGISTRY

FEWER = settings(max_examples=settings.default.max_examples // 3)
"""For files of which each takes some 30 ms."""
KEYS = st.sampled_from(
    [
        "listeners",
        "routes",
        "bind",
        "protocol",
        "route",
        "match",
        "backend",
        "url",
        "files",
        "respond",
        "issue_tickets",
        "tls",
        "auth",
        "certificates",
        "cert",
        "key",
        "timeouts",
        "idle",
        "limits",
        "headers",
        "log",
        "allowed_origins",
        "allowed_targets",
        "subprotocols",
        "text_messages",
        "on_client_fin",
        "dial",
        "include",
        "defaults",
        "host",
        "path",
        "web",
        "vnc",
        "<<",
        "x",
    ]
)
TEXTS = st.sampled_from(
    [
        "127.0.0.1:80",
        "[::]:80",
        "unix:/s",
        "*.a.b",
        "{x}.a.b",
        "/{x}/y",
        "tcp://{x}:1",
        "bytes",
        "hold",
        "conf.d/*",
        "/none/*.yaml",
        "tcp",
        "any",
        "none",
        "vnc",
        "web",
        "tcp://a:1",
        "wss://a/b",
        "20s",
        "off",
        "same",
        "/x/*",
        "204",
        "",
        "${X}",
        "$${",
        "${",
        "https://a",
    ]
)
VALUES = st.recursive(
    TEXTS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
FILES = st.fixed_dictionaries(
    {
        "listeners": st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=3) | VALUES,
        "routes": st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=3) | VALUES,
    },
    optional={"include": VALUES, "defaults": VALUES, "timeouts": VALUES, "limits": VALUES, "log": VALUES, "x": VALUES},
)


def judge(text: str, included: str | None = None) -> None:
    """Hold that a text is read or refused, and that each problem has its place in it or in the included one."""
    with tempfile.TemporaryDirectory() as directory:
        if included is not None:
            (Path(directory) / "included").write_text(included)
        try:
            problems = load_text(
                text,
                file="w.yaml",
                registry=CONFIG_REGISTRY,
                environ={"X": "1"},
                directory=Path(directory),
                check_files=False,
            ).warnings
        except ConfigError as error:
            problems = error.problems
            assert any(problem.severity == "error" for problem in problems)
    lines = {"w.yaml": text.splitlines(), "included": (included or "").splitlines()}
    for problem in problems:
        assert 1 <= problem.line <= len(lines[problem.file]) + 1
        assert problem.column >= 1
        assert problem.text()
    assert len({(p.file, p.line, p.column, p.setting, p.message) for p in problems}) == len(problems)


@given(st.text())
def test_any_text(text: str) -> None:
    """Any characters give a configuration or problems within the file."""
    judge(text)


@given(st.text(alphabet="ab:[]{}&*!|>-? \n'\"#,$<%@\t"))
def test_any_signs(text: str) -> None:
    """Any heap of YAML's own signs gives a configuration or problems within the file."""
    judge(text)


@FEWER
@given(FILES)
def test_any_structure(value: object) -> None:
    """Known keys in any wrong place give a configuration, or problems within the file, each reported once."""
    judge(json.dumps(value))


MAINS = st.just({"listeners": {"web": {"bind": "127.0.0.1:8080"}}}) | FILES


@FEWER
@given(MAINS, FILES.map(json.dumps) | st.text(alphabet="ab:[]{}&*!|>-? \n'\"#,$<%@\t"))
def test_any_included_file(value: dict[str, object], included: str) -> None:
    """The same for a file that another one includes, and for what both have together."""
    judge(json.dumps({**value, "include": ["included"]}), included)
