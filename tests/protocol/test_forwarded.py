"""X-Forwarded-For and Forwarded: the rightmost host that is no trusted proxy is the client."""

from __future__ import annotations

import time

import pytest

from tests.rejections import outcome
from wsbridge.protocol.forwarded import ForwardedChain, ForwardedFormat, ForwardedNode, parse_forwarded
from wsbridge.reasons import Rejected

XFF: ForwardedFormat = "x-forwarded-for"
RFC: ForwardedFormat = "forwarded"


def trusted(host: str) -> bool:
    """Trust 10.0.0.0/24 and fd00::1."""
    return host.startswith("10.0.0.") or host == "fd00::1"


@pytest.mark.parametrize(
    ("values", "client", "proxies"),
    [
        ([b"203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"203.0.113.7:4711"], ForwardedNode("203.0.113.7", 4711), ()),
        ([b"2001:DB8::7"], ForwardedNode("2001:db8::7", 0), ()),
        ([b"[2001:db8::7]"], ForwardedNode("2001:db8::7", 0), ()),
        ([b"[2001:db8::7]:4711"], ForwardedNode("2001:db8::7", 4711), ()),
        ([b"::ffff:203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"127.0.0.1, 203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"<script>, 203.0.113.7 ,"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"198.51.100.1, 203.0.113.7, 10.0.0.2, 10.0.0.1"], ForwardedNode("203.0.113.7", 0), ("10.0.0.2", "10.0.0.1")),
        (
            [b"198.51.100.1", b"203.0.113.7,10.0.0.2", b"fd00::1"],
            ForwardedNode("203.0.113.7", 0),
            ("10.0.0.2", "fd00::1"),
        ),
        ([b"203.0.113.7", b"", b" , "], ForwardedNode("203.0.113.7", 0), ()),
        ([b"10.0.0.3, 10.0.0.2"], ForwardedNode("10.0.0.3", 0), ("10.0.0.2",)),
        ([b"203.0.113.7, unknown, 10.0.0.2"], ForwardedNode("10.0.0.2", 0), ()),
        ([b"203.0.113.7, unknown"], None, ()),
        ([b"203.0.113.7, _hidden"], None, ()),
        ([b""], None, ()),
        ([], None, ()),
    ],
)
def test_x_forwarded_for(values: list[bytes], client: ForwardedNode | None, proxies: tuple[str, ...]) -> None:
    """Read over all lines from the right; what is left of the client may be anything."""
    assert parse_forwarded(XFF, values, trusted) == ForwardedChain(client, proxies)


@pytest.mark.parametrize(
    ("values", "client", "proxies"),
    [
        ([b"for=203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b'For="203.0.113.7:4711";proto=https;by=10.0.0.1'], ForwardedNode("203.0.113.7", 4711), ()),
        ([b'proto=https; for="[2001:db8::7]:4711" ; host="a,b;c"'], ForwardedNode("2001:db8::7", 4711), ()),
        ([b'for="[2001:db8::7]"'], ForwardedNode("2001:db8::7", 0), ()),
        ([b"for=[2001:db8::7]"], ForwardedNode("2001:db8::7", 0), ()),
        ([b'for="\\2\\03.0.113.7"'], ForwardedNode("203.0.113.7", 0), ()),
        ([b'for="_gazonk:_x", for=203.0.113.7, for=10.0.0.2'], ForwardedNode("203.0.113.7", 0), ("10.0.0.2",)),
        ([b'for="x, for=1.2.3.4"', b"for=203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b'for="', b"for=203.0.113.7"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"for=,=,, for=203.0.113.7;;"], ForwardedNode("203.0.113.7", 0), ()),
        ([b"for=203.0.113.7, for=_hidden"], None, ()),
        ([b"for=203.0.113.7, for=UNKNOWN"], None, ()),
        ([b"for=203.0.113.7, proto=https"], None, ()),
        ([b"for=203.0.113.7, proto=https, for=10.0.0.2"], ForwardedNode("10.0.0.2", 0), ()),
    ],
)
def test_forwarded(values: list[bytes], client: ForwardedNode | None, proxies: tuple[str, ...]) -> None:
    """Quotes, brackets, ports and parameters are parsed; an element without an address ends the search."""
    assert parse_forwarded(RFC, values, trusted) == ForwardedChain(client, proxies)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (XFF, b"203.0.113.7, nonsense"),
        (XFF, b"203.0.113.7, 203.0.113.700"),
        (XFF, b"203.0.113.7, 010.0.0.1"),
        (XFF, b"203.0.113.7, 10.0.0.1:65536"),
        (XFF, b"203.0.113.7, fe80::1%eth0"),
        (XFF, b"203.0.113.7, [10.0.0.1]"),
        (XFF, b'203.0.113.7, "10.0.0.1"'),
        (XFF, b"203.0.113.7 10.0.0.1"),
        (XFF, b"\xff"),
        (RFC, b"203.0.113.7"),
        (RFC, b"for"),
        (RFC, b"for="),
        (RFC, b"for=203.0.113.7;for=203.0.113.8"),
        (RFC, b"for=2001:db8::7"),
        (RFC, b'for="2001:db8::7"'),
        (RFC, b'for="203.0.113.7" x'),
        (RFC, b'for="203.0.113.7'),
        (RFC, b'for=", for=203.0.113.7'),
        (RFC, b'for=", for="[2001:db8::7]:1"'),
        (RFC, b'for="\\", for="[2001:db8::7]:1"'),
    ],
)
def test_what_cannot_be_read_is_refused(form: ForwardedFormat, value: bytes) -> None:
    """A mistake at or right of the client is 400: an open quote cannot swallow what a proxy has added."""
    found = outcome(parse_forwarded, form, [value], trusted)
    assert isinstance(found, Rejected)
    assert found.termination().http_status == 400
    assert "cannot be read" in found.detail


def test_too_many_hops() -> None:
    """More than 32 trusted proxies on one way are refused."""
    assert isinstance(parse_forwarded(XFF, [b"203.0.113.7" + b",10.0.0.1" * 32], trusted), ForwardedChain)
    found = outcome(parse_forwarded, XFF, [b"203.0.113.7" + b",10.0.0.1" * 33], trusted)
    assert isinstance(found, Rejected)
    assert "more than 32" in found.detail


@pytest.mark.parametrize(
    "value", [b"," * 16000, b'"' * 16001, b'for="' + b"\\" * 16000, b"a=b;" * 4000, b"for=" * 4000]
)
def test_it_takes_linear_time(value: bytes) -> None:
    """The longest head full of separators, quotes or backslashes is read at once."""
    began = time.thread_time()
    for form in (XFF, RFC):
        outcome(parse_forwarded, form, [value], trusted)
    assert time.thread_time() - began < 0.5
