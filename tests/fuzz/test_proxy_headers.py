"""Fuzz: any bytes give a PROXY header, a sentence or a wait, however they are cut; and what is written is read."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET6, inet_ntop

from hypothesis import given
from hypothesis import strategies as st

from tests.rejections import outcome
from wsbridge.protocol import proxy
from wsbridge.protocol.proxy import (
    V2_SIGNATURE,
    ProxyHeader,
    ProxyHeaderParser,
    SockEndpoint,
    encode_proxy_v1,
    encode_proxy_v2,
)
from wsbridge.reasons import Rejected

LIMIT = 600

ports = st.integers(0, 65535)
places = st.one_of(
    st.builds(lambda host, port: SockEndpoint(str(host), port), st.ip_addresses(v=4), ports),
    st.builds(lambda host, port: SockEndpoint(inet_ntop(AF_INET6, host.packed), port), st.ip_addresses(v=6), ports),
    st.builds(lambda path: SockEndpoint("", 0, path.rstrip(b"\0")), st.binary(max_size=108)),
)
words = st.sampled_from(["PROXY", "TCP4", "TCP6", "UNKNOWN", "203.0.113.7", "::1", "0", "443", "65536", "", "x" * 60])
lines = st.builds(
    lambda parts, end: " ".join(["PROXY", *parts]).encode() + end,
    st.lists(words, max_size=7),
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b"\r\r\n", b""]),
)
bodies = st.builds(
    lambda addresses, tlvs, rest: addresses + proxy.encode_tlvs(tlvs) + rest,
    st.one_of(st.sampled_from([b"", bytes(12), bytes(36), bytes(216)]), st.binary(max_size=40)),
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 5, 0x20, 0xE0]), st.binary(max_size=20)), max_size=4),
    st.sampled_from([b"", b"", b"\x02", b"\x02\x00\x09abc"]),
)
seconds = st.builds(
    lambda first, family, body, off: (
        V2_SIGNATURE + bytes((first, family)) + max(0, len(body) + off).to_bytes(2, "big") + body
    ),
    st.sampled_from([0x20, 0x21, 0x21, 0x21, 0x22, 0x11, 0xFF]),
    st.sampled_from([0x00, 0x11, 0x11, 0x21, 0x31, 0x12, 0xFF]),
    bodies,
    st.sampled_from([0, 0, 0, -1, 1, 5000]),
)
whole = st.builds(encode_proxy_v2, places, places, server_name=st.just("gw"), unique_id=st.binary(max_size=9))
streams = st.builds(
    lambda head, rest: head + rest,
    st.one_of(lines, seconds, whole, st.binary(max_size=60)),
    st.binary(max_size=30),
)
Outcome = ProxyHeader | Rejected | None


def fed(data: bytes, cuts: list[int]) -> tuple[Outcome, int]:
    """Feed a stream as by MSG_PEEK: what was not consumed is seen again, with more behind it."""
    reader = ProxyHeaderParser(LIMIT)
    at = 0
    for end in [*cuts, len(data)]:
        if reader.result is None and end > at:
            taken = outcome(reader.feed, data[at:end])
            if isinstance(taken, Rejected):
                return taken, at
            assert 0 <= taken <= end - at
            assert reader.result is not None or taken == end - at, "bytes that stay seen would be seen forever"
            at += taken
            assert reader.consumed_bytes == at
    return reader.result, at


@given(streams, st.lists(st.integers(0, 700), max_size=6))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    """Whole, byte by byte and cut at random, the outcome is the same, and no byte past the header is consumed."""
    found, taken = fed(data, [])
    for ends in (list(range(len(data))), sorted(cut for cut in cuts if cut < len(data))):
        again, at = fed(data, ends)
        assert again.args == found.args if isinstance(found, Rejected) else again == found
        if not isinstance(found, Rejected):
            assert at == taken
    if isinstance(found, ProxyHeader):
        assert fed(data[:taken], []) == (found, taken)
        assert fed(data[: taken - 1], [])[0] is None
        for place in (found.source, found.destination):
            assert place is None or not place.host or (IPv6Address if ":" in place.host else IPv4Address)(place.host)
    elif isinstance(found, Rejected):
        assert found.detail.isprintable()


@given(places, places, st.text(max_size=20), st.binary(max_size=128), st.text(max_size=20), st.binary(max_size=20))
def test_round_trip(
    source: SockEndpoint, destination: SockEndpoint, name: str, number: bytes, identity: str, rest: bytes
) -> None:
    """The client comes back from version 2 with all that was said of it, and from version 1 if it has an IP address."""
    name = name if name.isprintable() else ""
    identity = identity if identity.isprintable() else ""
    header = encode_proxy_v2(source, destination, server_name=name, unique_id=number, identity=identity)
    outcome, taken = fed(header + rest, [])
    assert taken == len(header)
    assert isinstance(outcome, ProxyHeader)
    assert outcome.source == source
    assert outcome.server_name == name
    assert outcome.tlvs.get(proxy.TLV_UNIQUE_ID, b"") == number
    assert outcome.tlvs.get(proxy.TLV_IDENTITY, b"").decode() == identity
    line = encode_proxy_v1(source, destination)
    assert len(line) <= 107
    outcome, taken = fed(line + rest, [])
    assert taken == len(line)
    assert isinstance(outcome, ProxyHeader)
    assert outcome.source == (source if source.host else None)
