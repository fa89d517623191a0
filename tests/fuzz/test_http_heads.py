"""Fuzz: any bytes give a request, a refusal or a wait, the same however they are cut, and never an exception."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.rejections import outcome
from wsbridge.protocol.handshake import (
    OriginPolicy,
    UpgradeRequest,
    check_upgrade_response,
    generate_key,
    parse_upgrade,
)
from wsbridge.protocol.http1 import HeadLimits, Request, RequestParser, Response, ResponseParser
from wsbridge.protocol.uri import HostPatterns, is_safe_from_rebinding, normalise_host, normalise_target
from wsbridge.reasons import Rejected

LIMITS = HeadLimits(max_head_bytes=512, max_head_line_bytes=160, max_headers=8)
SAME = OriginPolicy("same")

names = st.sampled_from(
    [
        "Host", "host", "Upgrade", "Connection", "Origin", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "X-A",
        "Sec-WebSocket-Protocol", "Sec-WebSocket-Accept", "Content-Length", "Transfer-Encoding", "A b", "", "X\xe4",
    ]
)  # fmt: skip
values = st.one_of(
    st.sampled_from(
        [
            "gw", "gw:80", "websocket", "Upgrade", "keep-alive, upgrade", "dGhlIHNhbXBsZSBub25jZQ==", "13", "0", "1",
            "", " ", "binary, base64", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "http://gw", "null", "chunked", "a" * 150,
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=30),
)  # fmt: skip
ends = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", "\r\n ", "\r\n\t", "\0"])
separators = st.sampled_from([": "] * 8 + [":", " : ", "", ":\t"])
lines = st.builds("{}{}{}{}".format, names, separators, values, ends)
targets = st.one_of(st.sampled_from(["/", "/ws?a=b", "/a/../b", "*", "http://gw/", "/a#b", "//"]), st.text(max_size=8))
firsts = st.one_of(
    st.builds(
        "{}{}{}{}{}{}".format,
        st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "PRI", "get", "", "X" * 30]),
        st.sampled_from([" "] * 6 + ["  ", "\t", ""]),
        targets,
        st.sampled_from([" "] * 6 + ["  ", ""]),
        st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "RTSP/1.0"]),
        ends,
    ),
    st.builds(
        "HTTP/{} {}{}{}".format,
        st.sampled_from(["1.1"] * 4 + ["1.0", "2"]),
        st.sampled_from(["101", "101", "100", "103", "200", "302", "99"]),
        st.sampled_from([" OK", "", "  ", " \xe4"]),
        ends,
    ),
)


def assemble(first: str, body: list[str], end: str, rest: bytes) -> bytes:
    """Put a head together."""
    return (first + "".join(body) + end).encode("latin-1", "replace") + rest


heads = st.builds(
    assemble, firsts, st.lists(lines, max_size=11), st.sampled_from(["\r\n"] * 6 + ["\n", ""]), st.binary(max_size=20)
)
good_heads = st.builds(
    lambda target, extra, rest: (
        f"GET {target} HTTP/1.1\r\nHost: gw\r\n".encode() + "".join(extra).encode("latin-1") + b"\r\n" + rest
    ),
    st.sampled_from(["/", "/ws?a", "/a"]),
    st.lists(st.builds("{}: {}\r\n".format, names, values), max_size=8),
    st.binary(max_size=20),
)
streams = st.one_of(heads, good_heads, st.lists(heads, max_size=7).map(b"".join), st.binary(max_size=700))


def parser(role: str) -> RequestParser | ResponseParser:
    """Make the parser of a server, or of a client."""
    return RequestParser(LIMITS) if role == "server" else ResponseParser(LIMITS.max_head_bytes)


def result(data: bytes, cuts: list[int], role: str) -> tuple[object, ...]:
    """Feed in pieces until there is an outcome; give it in a form that compares, with all bytes past the head."""
    reader = parser(role)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    found = None
    for start, stop in pairwise(edges):
        found = outcome(reader.feed, data[start:stop])
        if isinstance(found, Rejected):
            return "bad", found.args
    if isinstance(found, Request):
        return "request", found.method, found.target, list(found.headers), reader.trailing_data
    if isinstance(found, Response):
        return "response", found.status, found.reason, found.version, list(found.headers), reader.trailing_data
    assert found is None
    return ("more",)


@given(streams, st.lists(st.integers(1, 700), max_size=8), st.sampled_from(["server", "client"]))
def test_cuts_do_not_matter(data: bytes, cuts: list[int], role: str) -> None:
    """Whole, byte by byte and in random pieces, the outcome and the rest are the same."""
    whole = result(data, [], role)

    assert result(data, list(range(len(data))), role) == whole
    assert result(data, cuts, role) == whole


@given(st.one_of(good_heads, heads))
def test_requests_are_judged(data: bytes) -> None:
    """Every request that comes out keeps the rules, and every judgement of it is a value."""
    found = outcome(RequestParser(LIMITS).feed, data)
    if not isinstance(found, Request):
        assert found is None or isinstance(found, Rejected)
        if found is not None:
            assert found.status in (400, 405, 426, 431)
            assert found.detail.isprintable()
        return
    assert found.method in ("GET", "HEAD", "OPTIONS", "POST")
    assert normalise_target(found.target) == found.target
    assert normalise_host(found.host) is not None or (found.version, found.host) == ("1.0", "")
    assert found.headers.get(b"content-length") in (None, b"0", b"00")
    assert b"transfer-encoding" not in found.headers
    upgrade = outcome(parse_upgrade, found)
    if isinstance(upgrade, UpgradeRequest):
        is_safe_from_rebinding(normalise_host(upgrade.host) or "", HostPatterns(()))
        refusal = SAME.check(upgrade.origin, upgrade.host, tls=True)
        assert refusal is None or refusal.isprintable()
    else:
        assert upgrade.termination().http_status in (400, 403, 405, 426)


@given(heads, st.binary(max_size=300))
def test_responses_are_judged(data: bytes, body: bytes) -> None:
    """Every answer of a backend is an acceptance or one printable sentence."""
    found = outcome(ResponseParser(LIMITS.max_head_bytes).feed, data)
    if isinstance(found, Response):
        judged = outcome(check_upgrade_response, found, generate_key(), ("binary",), body)
        assert judged is None or isinstance(judged, str | Rejected)
        if isinstance(judged, Rejected):
            assert judged.detail.isprintable()
            assert judged.detail.isascii()


@given(st.one_of(st.text(max_size=60), st.text("ab.:[]0129fF-_~", max_size=40)), st.text(max_size=60))
def test_hosts_and_origins(host: str, origin: str) -> None:
    """Any text as Host and Origin is judged without an exception, and normal hosts stay as they are."""
    normal = normalise_host(host)

    assert normal is None or normalise_host(normal) == normal
    for text in (origin, f"https://{host}", f"{origin}://{host}"):
        refusal = SAME.check(text, host, tls=False)
        assert refusal is None or (refusal.isprintable() and refusal.isascii())
    is_safe_from_rebinding(normal or "", HostPatterns(["gw.example.org"]))
