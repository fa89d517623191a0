"""Fuzz: any header lines give a client or a 400; and what a client writes in front changes nothing."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from tests.rejections import outcome
from wsbridge.protocol.forwarded import ForwardedChain, ForwardedFormat, ForwardedNode, parse_forwarded
from wsbridge.reasons import Rejected

forms: st.SearchStrategy[ForwardedFormat] = st.sampled_from(["x-forwarded-for", "forwarded"])
pieces = st.sampled_from(
    [
        b"for=", b"For=", b"proto=https", b"by=_x", b";", b",", b", ", b'"', b"\\", b" ", b"=", b"[", b"]", b":", b"%",
        b"203.0.113.7", b"10.0.0.1", b"2001:db8::7", b"[2001:db8::7]:99", b'"[2001:db8::7]"', b"unknown", b"_a", b"\xff"
    ]
)  # fmt: skip
values = st.one_of(st.lists(pieces, max_size=12).map(b"".join), st.binary(max_size=40))


def trusted(host: str) -> bool:
    """Trust 10.0.0.1."""
    return host == "10.0.0.1"


@given(forms, st.lists(values, max_size=4))
def test_any_lines(form: ForwardedFormat, lines: list[bytes]) -> None:
    """A way has a real address of a client and names trusted proxies alone; everything else is a 400."""
    found = outcome(parse_forwarded, form, lines, trusted)
    if isinstance(found, Rejected):
        assert found.termination().http_status == 400
        assert found.detail.isprintable()
        return
    assert all(trusted(host) for host in found.proxies)
    if found.client is not None:
        assert str(ip_address(found.client.host)) == found.client.host
        assert 0 <= found.client.port <= 65535


@given(st.lists(values, max_size=3), values, st.sampled_from([b"203.0.113.9", b"[2001:db8::9]:1"]))
def test_what_is_spoofed_has_no_say(lines: list[bytes], start: bytes, client: bytes) -> None:
    """Whatever a client sends, the address that the nearest proxy appends is the one that counts, or it is a 400."""
    true = ForwardedNode("2001:db8::9", 1) if client.startswith(b"[") else ForwardedNode("203.0.113.9", 0)
    assert outcome(parse_forwarded, "x-forwarded-for", [*lines, start + b", " + client], trusted) == ForwardedChain(
        true, ()
    )
    node = b'for="' + client + b'"'
    assert outcome(parse_forwarded, "forwarded", [*lines, start, node], trusted) == ForwardedChain(true, ())
    for element in (node, b"for=" + client):
        found = outcome(parse_forwarded, "forwarded", [*lines, start + b", " + element], trusted)
        assert isinstance(found, Rejected) or found == ForwardedChain(true, ())
