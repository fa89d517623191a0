"""Fuzz: any file in place of the configuration is put into effect, or rejected with places; the server goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.served import ServedInThread, served_in_thread

BASE: dict[str, Any] = {
    "listeners": {"web": {"bind": "127.0.0.1:0"}},
    "routes": {
        "app": {"match": {"path": "/app"}, "backend": "tcp://127.0.0.1:1", "auth": "none"},
        "rest": {"match": "any", "respond": "204", "auth": "none"},
    },
    "timeouts": {"close": "1s", "drain": "1s"},
    "limits": {"connections": 100},
    "log": {"level": "info"},
}
TEXT = json.dumps(BASE).encode()

scalars = st.one_of(
    st.sampled_from(["any", "none", "off", "auto", "0", "-1", "1s", "90%", "/x/*", "tcp://a:1", "unix:/nowhere/s", ""]),
    st.text(max_size=6),
    st.none() | st.booleans() | st.integers() | st.floats(),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "path", "x", "<<"]), inner, max_size=2)
    ),
    max_leaves=6,
)
paths = st.sampled_from(
    [
        ("routes", "app", "match", "path"), ("routes", "app", "backend"), ("routes", "app", "auth"), ("routes", "rest"),
        ("routes", "app", "timeouts"), ("routes", "app", "limits"), ("routes", "new"), ("timeouts", "drain"), ("log",),
        ("timeouts", "new"), ("limits", "connections"), ("limits", "max_memory"), ("limits", "per_address"),
        ("log", "loop_lag"), ("log", "level"), ("listeners", "web", "tls"), ("listeners", "web", "connections"), ("x",),
        ("listeners", "web", "protocol"), ("listeners", "web", "trusted_proxies"), ("routes", "app", "allowed_origins"),
        ("routes",),
    ]
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """Change some values of a valid file."""
    config = json.loads(TEXT)
    for path in draw(st.lists(paths, min_size=1, max_size=3)):
        section = config
        for key in path[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[path[-1]] = draw(values)
    return json.dumps(config).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Cut a valid file off, or put something into it."""
    place = draw(st.integers(0, len(TEXT)))
    return (
        TEXT[:place]
        + draw(st.binary(max_size=8) | st.text(max_size=8).map(str.encode))
        + draw(st.sampled_from([TEXT[place:], b""]))
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedInThread]:
    """Run a server."""
    with served_in_thread(TEXT.decode(), tmp_path_factory.mktemp("reload") / "wsbridge.yaml") as running:
        yield running


@given(data=st.one_of(changed(), damaged(), st.binary(max_size=100)))
def test_any_file(served: ServedInThread, data: bytes) -> None:
    """What is in effect afterwards is the new configuration, or the one before, and the log has the cause."""
    before = served.server.generation
    result = served.reload(data)
    if result.error is None:
        assert served.server.generation.number == result.generation == before.number + 1
        assert served.reload(TEXT).error is None
    else:
        assert "internal" not in result.error
        assert served.server.generation is before
        errors = [problem for problem in result.problems if problem.severity == "error"]
        assert errors or "listener" in result.error, result.error
        for problem in errors:
            assert problem.file == str(served.config)
            assert problem.line >= 1
            assert problem.column >= 1
    answer = served.send(("127.0.0.1", served.port), b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204 ")
