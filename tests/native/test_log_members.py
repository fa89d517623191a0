"""The values of log lines: the extension writes the same bytes as Python."""

import json
import math
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.log.test_format import NASTY
from wsbridge.log import format as python
from wsbridge.native import load

pytestmark = pytest.mark.skipif(load() is None, reason="without the extension")

KEYS = [
    *(
        "id",
        "peer",
        "via",
        "listener",
        "reason",
        "detail",
        "route",
        "backend",
        "identity",
        "path",
        "host",
        "user_agent",
    ),
    *("tls", "target", "backend_address", "subprotocol", "connect_seconds", "close_code", "engine", "exception"),
    *("password", "x-token", "session", "url", "ünïcode", 'quo"te', "a\x7fb", ""),
]
TEXTS = [
    *("", "echo", "/ws/chat", "127.0.0.1:4711", "[2001:db8::1]:80", "tcp://127.0.0.1:5900", "gw.example.org:8443"),
    *("closed by the client, 1000", "/x?token=geheim", "//user:geheim@host", "a%3Ftoken%3Dgeheim", "bearer.geheim"),
    *("wsbridge.token.geheim", "token.geheim", "bea.de", "a" * 100, "a" * 101, "ä" * 60, "a" * 5000, "0" * 101),
    *("Mozilla/5.0 (X11; Linux x86_64)", "key=geheim", "\x7f", *NASTY),
]
NUMBERS = [0, -1, 2**63 - 1, 2**63, -(2**63), 2**64, -(2**64), 10**400, True, 0.0, -0.0, 1e16, 0.1, 5e-324, math.inf]


class Text(str):
    """A text of another type."""

    __slots__ = ()


values = st.one_of(
    st.sampled_from([*TEXTS, *NUMBERS, None, math.nan, b"bytes", Text("echo"), ["a", {"token": "geheim"}]]),
    st.text(max_size=20),
    st.text("0123456789abcdefk.:[]=-_ /", max_size=30),
    st.integers(),
    st.floats(),
)


def writer():
    """Make one that knows nothing yet."""
    return load().MemberWriter(python.describe_key, python.write_member)


def written(fields):
    """Write what there is to write by Python alone."""
    return "".join(python.write_member(key, value) for key, value in fields.items())


@settings(max_examples=60)
@example([{"peer": "127.0.0.1:1", "host": "gw:1"}, {"host": "gw:1", "peer": "token.geheim", "detail": "gw:1"}])
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), max_size=4))
def test_the_same_as_python(lines):
    """Whatever the values are, and whatever was written before."""
    made = writer()
    for fields in [*lines, *lines]:
        assert made.members(fields) == written(fields)


@pytest.mark.parametrize("key", KEYS)
def test_every_value_under_every_key(key):
    """No value is taken for plain that Python changes."""
    made = writer()
    for value in [*TEXTS, *NUMBERS, *TEXTS]:
        assert made.members({key: value}) == written({key: value})


def test_values_are_bounded():
    """Many values of a key that should have few: they are forgotten, and still right."""
    made = writer()
    for number in range(1000):
        fields = {"route": f"r{number}", f"key{number}": number}
        assert made.members(fields) == written(fields)
        assert json.loads(f"{{{made.members(fields)[1:]}}}") == fields


def test_python_is_asked_once_for_what_is_plain():
    """After the first line, a line like it is written without Python."""
    asked = []

    def write(key, value):
        asked.append(key)
        return python.write_member(key, value)

    made = load().MemberWriter(python.describe_key, write)
    line = {"id": 1, "peer": "127.0.0.1:4711", "host": "gw.example.org", "path": "/ws", "duration_seconds": 0.25}
    made.members(line)
    assert asked == list(line)
    made.members({**line, "id": 2, "peer": "[::1]:80"})
    assert asked == list(line)
    made.members({**line, "path": "/ws?token=geheim", "peer": "x.y"})
    assert asked == [*line, "peer", "path"]


def test_what_python_raises_is_raised():
    """A value that cannot be written is Python's to judge."""

    def fail(key, value):
        raise ValueError(key)

    made = load().MemberWriter(python.describe_key, fail)
    with pytest.raises(ValueError, match="odd"):
        made.members({"odd": object()})


def test_logging_while_a_value_is_written():
    """Another thread, or a signal handler, may log while Python writes a value: neither waits for the other."""
    written_elsewhere = []

    def write(key, value):
        if value == "outer":
            thread = threading.Thread(target=lambda: written_elsewhere.append(made.members({"id": 1, "peer": "::1"})))
            thread.start()
            thread.join(10)
            written_elsewhere.append(made.members({"id": 2, "listener": "web"}))
        return python.write_member(key, value)

    made = load().MemberWriter(python.describe_key, write)
    assert made.members({"route": "outer"}) == ',"route":"outer"'
    assert written_elsewhere == [',"id":1,"peer":"::1"', ',"id":2,"listener":"web"']


INTERRUPTED = """
import signal
from wsbridge.log import format as python
from wsbridge.native import load

made = load().MemberWriter(python.describe_key, python.write_member)
line = {f"key{number}": number + 0.5 for number in range(500)}
expected = "".join(python.write_member(key, value) for key, value in line.items())
count = 0

def log(*_):
    global count
    count += 1
    assert made.members(line) == expected

signal.signal(signal.SIGALRM, log)
for before in range(50):
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    while count == before:
        assert made.members(line) == expected
"""
"""A process of its own, which may hang."""


def test_logging_in_a_signal_handler_while_numbers_are_written():
    """A signal that comes while numbers become text: its handler may log."""
    subprocess.run([sys.executable, "-c", INTERRUPTED], check=True, timeout=60)
