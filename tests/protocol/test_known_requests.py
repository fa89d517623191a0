"""Requests that are like one before: the same as if they had been parsed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.rejections import outcome
from wsbridge.protocol.handshake import (
    MAX_KNOWN_HEAD_BYTES,
    MAX_KNOWN_REQUESTS,
    MAX_KNOWN_SUBPROTOCOLS,
    KnownRequests,
)
from wsbridge.protocol.http1 import HeadLimits, Request, RequestParser
from wsbridge.reasons import Rejected

KEYS = [base64.b64encode(bytes([number]) * 16) for number in (0, 97, 251, 255)]
KEY_LINE = b"Sec-WebSocket-Key: "


def head(*lines: bytes, key: bytes = KEYS[0], target: bytes = b"/ws") -> bytes:
    """Write an upgrade request, with more lines."""
    usual = (b"Host: gw:8443", b"Upgrade: websocket", b"Connection: Upgrade", KEY_LINE + key)
    return b"\r\n".join((b"GET " + target + b" HTTP/1.1", *usual, b"Sec-WebSocket-Version: 13", *lines, b"", b""))


def parsed(data: bytes) -> Request | Rejected | None:
    """Parse what should be one head; None if it is not whole, or if more follows."""
    parser = RequestParser(HeadLimits())
    found = outcome(parser.feed, data)
    return None if parser.trailing_data else found


def knowing(*heads: bytes) -> KnownRequests[bytes]:
    """Add those that are valid, as admitted by themselves."""
    known: KnownRequests[bytes] = KnownRequests()
    for data in heads:
        request = outcome(RequestParser(HeadLimits()).feed, data)
        if isinstance(request, Request):
            known.add(data, request, data)
    return known


def values(request: Request, key: bytes) -> tuple[object, ...]:
    """Return all that a request says that has this key, apart from the order of its headers."""
    of_request = request.method, request.target, request.path, request.version, request.host
    headers = {*request.headers, (b"sec-websocket-key", key)}
    return *of_request, request.wants_websocket, request.keep_alive, headers


def assert_equal_to_parsed(known: KnownRequests[bytes], data: bytes) -> None:
    """Hold that what is found is what the parser finds."""
    found = known.find(data)
    if found is not None:
        whole = parsed(data)
        assert isinstance(whole, Request), whole
        same, key = found
        assert whole.headers.get_all(b"sec-websocket-key") == [key]
        assert values(same.request, key) == values(whole, key)
        assert len(list(same.request.headers)) == len(list(whole.headers)) - 1


def test_another_key() -> None:
    """A request with another key is found, with that key, and as what the first was admitted."""
    known = knowing(head())

    found = known.find(head(key=KEYS[1]))

    assert found is not None
    same, key = found
    assert key == KEYS[1]
    assert same.admitted == head()
    assert values(same.request, key) == values(RequestParser(HeadLimits()).feed(head(key=KEYS[1])), key)


def test_what_is_dropped_of_the_first_is_kept() -> None:
    """While the first one is relayed most of its headers are dropped; those that are like it have them."""
    first = RequestParser(HeadLimits()).feed(head(b"Origin: https://gw"))
    known: KnownRequests[str] = KnownRequests()
    known.add(head(b"Origin: https://gw"), first, "admitted")
    first.headers.keep_only([b"host"])
    found = known.find(head(b"Origin: https://gw", key=KEYS[1]))
    assert found is not None
    assert found[0].request.headers.get(b"origin") == b"https://gw"


@pytest.mark.parametrize(
    "data",
    [
        head(target=b"/ws?token=a"),
        head(b"Cookie: session=a"),
        head(b"Authorization: Bearer a"),
        head(b"X-Token: a"),
        head(b"Sec-WebSocket-Protocol: binary, wsbridge.token.a"),
        head(b"Sec-WebSocket-Protocol: 0123456789abcdef0123456789abcdef"),
    ],
)
def test_what_may_be_a_secret_is_not_remembered(data: bytes) -> None:
    """Nothing stays in memory that could be one."""
    assert isinstance(parsed(data), Request)
    assert len(knowing(data)) == 0


@pytest.mark.parametrize(
    "data",
    [
        head(b"Origin: https://gw", b"Sec-Fetch-Mode: websocket", b"Accept-Language: en"),
        head(b"Sec-WebSocket-Protocol: binary, base64"),
    ],
)
def test_what_browsers_send_is(data: bytes) -> None:
    """Headers that many clients send alike hold none."""
    assert len(knowing(data)) == 1


@pytest.mark.parametrize(
    "data",
    [
        head() + b"x",
        head() + head(),
        head()[:-1],
        head(b"Origin: " + b"a" * MAX_KNOWN_HEAD_BYTES),
        head(KEY_LINE + KEYS[1]),
        head(key=b"short"),
        head(key=KEYS[0] + b"more"),
        head(key=b""),
        b"\r\n" + head()[:-2],
    ],
)
def test_only_whole_heads_with_one_key_are(data: bytes) -> None:
    """Whatever else there is in the bytes would have to be looked at again."""
    assert len(knowing(data)) == 0


def test_a_head_whose_key_is_elsewhere() -> None:
    """Without its 24 bytes it looks like the known one, and is no request with a key."""
    known = knowing(head())
    rest = head().replace(KEYS[0], b"")
    for at in range(len(rest)):
        assert_equal_to_parsed(known, rest[:at] + KEYS[1] + rest[at:])


def test_it_is_bounded() -> None:
    """As many requests as may be are remembered; then it begins anew."""
    known = knowing(*(head(target=f"/{number}".encode()) for number in range(MAX_KNOWN_REQUESTS + 1)))
    assert len(known) == 1


@pytest.mark.parametrize("in_lines", [False, True])
def test_many_subprotocols_are_not_remembered(in_lines: bool) -> None:
    """A list of short names takes many times the bytes of its head, which the limit of the head would let pass."""
    names = [f"a{number}".encode() for number in range(MAX_KNOWN_SUBPROTOCOLS + 1)]
    for count, remembered in ((MAX_KNOWN_SUBPROTOCOLS, 1), (MAX_KNOWN_SUBPROTOCOLS + 1, 0)):
        values = names[:count] if in_lines else [b", ".join(names[:count])]
        data = head(*(b"Sec-WebSocket-Protocol: " + value for value in values))
        assert isinstance(parsed(data), Request)
        assert len(knowing(data)) == remembered


LINES = st.sampled_from(
    [
        *(b"Origin: https://gw", b"Sec-WebSocket-Protocol: binary", b"Upgrade: h2c", b"Content-Length: 0"),
        *(KEY_LINE + KEYS[1], b"Host: other", b"Cookie: a=b", b"X: \x01", b" folded", b"Connection: close", b""),
    ]
)


@st.composite
def cut_and_pasted(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Make a head, and another one out of it."""
    data = head(*draw(st.lists(LINES, max_size=3)), key=draw(st.sampled_from(KEYS)))
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 60)))
    pasted = draw(st.one_of(st.sampled_from([*KEYS, b"\r\n", b"\r\n" + KEY_LINE, b": ", b"?"]), st.binary(max_size=24)))
    return data, data[:start] + pasted + data[end:]


@settings(max_examples=150)
@example((head(), head(key=KEYS[1])))
@given(cut_and_pasted())
def test_the_same_as_parsed(heads: tuple[bytes, bytes]) -> None:
    """Of any two heads, whichever came first."""
    for first, second in (heads, heads[::-1]):
        known = knowing(first)
        assert_equal_to_parsed(known, first)
        assert_equal_to_parsed(known, second)
        for key in KEYS:
            assert_equal_to_parsed(known, second.replace(KEYS[0], key))
